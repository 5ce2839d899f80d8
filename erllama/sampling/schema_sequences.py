"""Rules for the parts of arrays and objects, in their order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from erllama.sampling.schema_values import fail

MAX_PLACES = 20_000
"""Places of all named properties, times how many are counted before each."""

Rule = Callable[[str], str]
"""The name of a rule, from what it says."""

_NOTHING = '""'


class Pair(NamedTuple):
    """A named property: its rule, None if no value matches it; whether it has to be there."""

    rule: str | None
    required: bool


def array(
    rule: Rule, prefix: Sequence[str | None], items: str | None, least: int, most: int | None
) -> str | None:
    """An array of items by place, then of others; None: there can be none."""
    first = next((at for at, one in enumerate(prefix) if one is None), None)
    if first is not None:
        most = first if most is None else min(most, first)
    elif items is None:
        most = len(prefix) if most is None else min(most, len(prefix))
    if most is not None and least > most:
        return None
    named = [one for one in prefix[:most] if one is not None]
    behind = len(named)
    left = None if most is None else most - behind
    rest = _list(items, max(least - behind, 0), left, first=not behind)
    for at in reversed(range(behind)):
        whole = f"{'' if not at else chr(34) + ',' + chr(34) + ' '}{named[at]} {rest}"
        rest = rule(whole if at < least else f"{whole} | {_NOTHING}")
    return f'"[" {rest} "]"'


def properties(
    rule: Rule, pairs: Sequence[Pair], more: str | None, least: int, most: int | None
) -> str | None:
    """An object of named properties, then of others; None: there can be none."""
    counted = max(least, most or 0, 1)
    if len(pairs) * (min(counted, len(pairs)) + 1) > MAX_PLACES:
        fail("", "minProperties or maxProperties count too many properties; use fewer")
    after = {n: _ending(more, least, most, n) for n in range(min(len(pairs), counted) + 1)}
    for at in reversed(range(len(pairs))):
        after = {
            n: _place(rule, pairs[at], n, after, most, counted) for n in range(min(at, counted) + 1)
        }
    return None if after[0] is None else f'"{{" {after[0]} "}}"'


def _place(
    rule: Rule,
    pair: Pair,
    n: int,
    after: dict[int, str | None],
    most: int | None,
    counted: int,
) -> str | None:
    """From the place of one property on, `n` of which are there already."""
    options = []
    tail = after[min(n + 1, counted)]
    if pair.rule is not None and tail is not None and (most is None or n < most):
        options.append(f"{'' if not n else chr(34) + ',' + chr(34) + ' '}{pair.rule} {tail}")
    left_out = after[n]
    if not pair.required and left_out is not None:
        options.append(left_out)
    return rule(" | ".join(options)) if options else None


def _ending(more: str | None, least: int, most: int | None, n: int) -> str | None:
    """The properties without a name behind `n` named ones."""
    needed = max(least - n, 0)
    room = None if most is None else most - n
    if room is not None and room < needed:
        return None
    if more is None:
        return None if needed else _NOTHING
    return _list(f"({more})", needed, room, first=not n)


def _list(item: str | None, least: int, most: int | None, *, first: bool) -> str:
    """So many of the same with commas between them; before the first one too, if others precede."""
    if item is None or most == 0:
        return _NOTHING
    if not first:
        return f'("," {item}){_times(least, most)}'
    behind = _times(max(least - 1, 0), None if most is None else most - 1)
    whole = f'{item} ("," {item}){behind}' if most != 1 else item
    return whole if least else f"({whole})?"


def _times(least: int, most: int | None) -> str:
    if most is None:
        return f"{{{least},}}" if least else "*"
    return f"{{{least},{most}}}"

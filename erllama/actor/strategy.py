"""Which children to restart after one has ended, and in which order to stop and start. Pure.

A supervisor marks children and then asks `next_step` until there is nothing left to do for now:

    doomed   this incarnation must end
    wanted   there shall be another one
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from erllama.actor.childspec import Restart

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
Phase = Literal["down", "starting", "running", "stopping"]


@dataclass(frozen=True, slots=True)
class ChildView:
    """What the order of steps depends on."""

    id: str
    phase: Phase
    doomed: bool = False
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """Stop or start one child."""

    kind: Literal["stop", "start"]
    id: str


def is_abnormal(reason: object) -> bool:
    """Whether an exit reason tells of a failure."""
    return not (isinstance(reason, str) and reason in ("normal", "shutdown"))


def wants_restart(restart: Restart, reason: object) -> bool:
    """Whether a child that has ended for this reason is started again."""
    match restart:
        case "permanent":
            return True
        case "transient":
            return is_abnormal(reason)
        case "temporary":
            return False


def siblings_to_restart(strategy: Strategy, ids: Sequence[str], crashed: str) -> tuple[str, ...]:
    """The other children that are restarted together with a crashed one, in start order."""
    match strategy:
        case "one_for_one":
            return ()
        case "one_for_all":
            return tuple(other for other in ids if other != crashed)
        case "rest_for_one":
            return tuple(ids[ids.index(crashed) + 1 :])


def next_step(strategy: Strategy, children: Sequence[ChildView]) -> Step | None:
    """The next thing to do, or None: nothing, or not before a child has started or ended.

    Children of one_for_one are independent of each other. Otherwise they stop one by one in
    reverse order, and only then start one by one in order.

    Args:
        children: all of them, in start order.
    """
    doomed = [c.id for c in children if c.doomed and c.phase in ("starting", "running")]
    absent = [c.id for c in children if c.wanted and c.phase == "down"]
    if strategy != "one_for_one":
        if _any_in(children, "stopping"):
            return None
        if not doomed and _any_in(children, "starting"):
            return None
    if doomed:
        return Step("stop", doomed[-1])
    if absent:
        return Step("start", absent[0])
    return None


def _any_in(children: Iterable[ChildView], phase: Phase) -> bool:
    return any(child.phase == phase for child in children)

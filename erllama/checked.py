"""Structs that check their own values.

A `Checked` struct declares each field once, with its type, its limits (`msgspec.Meta`) and its
description; from that come the error messages here and the reference page in `docs/`. Values are
checked by `msgspec.convert` against a twin of the struct, because msgspec itself checks limits
only when it decodes.
"""

from __future__ import annotations

import functools
import os
import re
import typing
from typing import Any, ClassVar

import msgspec

from erllama.errors import ConfigError

_LIMITS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
_LENGTH_LIMITS = {"min_length": "at least", "max_length": "at most"}
_WHERE = re.compile(r" - at `\$\.(?P<field>\w+).*`$")


class _CheckedMeta(msgspec.StructMeta):
    def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: N805 (a metaclass)
        known = typing.cast("type[Checked]", cls).__struct_fields__
        for name in fields:
            if name not in known:
                raise TypeError(unknown_keyword(cls.__name__, name, known))
        plain = {name: _plain(value) for name, value in fields.items()}
        return super().__call__(*args, **plain)


class Checked(msgspec.Struct, frozen=True, kw_only=True, metaclass=_CheckedMeta):
    """Base of structs whose values are checked when they are made.

    Raises:
        TypeError: a field that does not exist, with the nearest one that does.
        ConfigError: (or the class's own `error`) a value outside the field's limits.
    """

    error: ClassVar[type[Exception]] = ConfigError
    secret: ClassVar[tuple[str, ...]] = ()
    """Fields whose values nobody is shown."""

    def __repr__(self) -> str:
        fields = (f"{name}={self._shown(name)}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(fields)})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        return "…" if name in self.secret and value is not None else repr(value)

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        try:
            checked = msgspec.convert(values, _twin(type(self)))
        except msgspec.ValidationError as wrong:
            raise self._explain(str(wrong), values) from None
        except Exception as wrong:  # half of a surrogate pair; objects that raise when looked at
            raise self._explain_odd(wrong, values) from None
        for name in self.__struct_fields__:  # a list given for a tuple becomes one
            msgspec.structs.force_setattr(self, name, getattr(checked, name))

    def _explain_odd(self, wrong: Exception, values: dict[str, object]) -> Exception:
        """What is told of a value that cannot even be looked at."""
        twin = _twin(type(self))
        for name, value in values.items():
            try:
                msgspec.convert({name: value}, twin)
            except Exception as error:
                if type(error) is type(wrong):
                    option = f"{type(self).__name__}.{name}"
                    return self.error(f"{option}: a value that cannot be used: {wrong}")
        return self.error(f"{type(self).__name__}: a value that cannot be used: {wrong}")

    def _explain(self, message: str, values: dict[str, object]) -> Exception:
        where = _WHERE.search(message)
        if where is None:
            return self.error(f"{type(self).__name__}: {message}")
        name = where["field"]
        expected = _expectation(type(self), name, message[: where.start()])
        meaning = describe(type(self)).get(name, "")
        option = f"{type(self).__name__}.{name}"
        got = "another value" if name in self.secret else shown(values[name])
        return self.error(f"{option}: {expected}, got {got}. {meaning}".strip())


def describe(struct: type[Checked]) -> dict[str, str]:
    """The description of each field of `struct`."""
    return {
        name: " ".join(
            meta.description
            for meta in _metas(hint)
            if isinstance(meta, msgspec.Meta) and meta.description
        )
        for name, hint in _hints(struct).items()
        if name in struct.__struct_fields__
    }


def unknown_keyword(owner: str, name: str, known: typing.Iterable[str]) -> str:
    """The message for a keyword argument that `owner` does not have.

    >>> unknown_keyword("Request", "max_token", ["max_tokens", "seed"])
    "Request has no option 'max_token'; did you mean 'max_tokens'?"
    """
    choices = sorted(known)
    import difflib  # here, for few programs come to need it

    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(choices)}"
    return f"{owner} has no option {name!r}; {hint}"


@functools.cache
def _twin(struct: type[Checked]) -> type[msgspec.Struct]:
    hints = _hints(struct)
    return msgspec.defstruct(
        struct.__name__, [(name, hints[name]) for name in struct.__struct_fields__]
    )


@functools.cache
def _hints(struct: type[Checked]) -> dict[str, Any]:
    return typing.get_type_hints(struct, include_extras=True)


def _metas(hint: Any) -> list[Any]:
    found = list(getattr(hint, "__metadata__", ()))
    for part in typing.get_args(hint):
        found += _metas(part)
    return found


def _choices(hint: Any) -> list[Any]:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return list(parts)
    return [choice for part in parts for choice in _choices(part)]


def _expectation(struct: type[Checked], name: str, message: str) -> str:
    if message.startswith("Invalid enum value"):
        choices = [repr(choice) for choice in _choices(_hints(struct)[name])]
        return "expected one of " + ", ".join(choices)
    # a field may have limits on its length and others on its items
    named = _LENGTH_LIMITS if "of length" in message else _LIMITS
    limits = [
        f"{word} {_number(bound)}"
        for meta in _metas(_hints(struct)[name])
        if isinstance(meta, msgspec.Meta)
        for limit, word in named.items()
        if (bound := getattr(meta, limit)) is not None
    ]
    kind = re.sub(r", got .*|( [<>]=? .*)", "", message)
    return f"{kind.replace('Expected', 'expected')} {' and '.join(limits)}".strip()


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _plain(value: Any) -> Any:
    """Paths as text, and text of a subclass as what it is, whatever it says."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        return str.__str__(value)
    if type(value) in (list, tuple) and any(isinstance(one, str) for one in value):
        return [str.__str__(one) if isinstance(one, str) else one for one in value]
    return value


def shown(value: object, limit: int = 60) -> str:
    """A value as a message shows it: shortened, and whatever it is."""
    try:
        text = repr(value)
    except Exception:  # nested too deep, or an object of its own mind
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 1] + "…"

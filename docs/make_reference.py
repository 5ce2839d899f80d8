"""Write docs/configuration.md from the config structs; `--check` only compares."""

from __future__ import annotations

import pathlib
import sys
import typing
from typing import Any

import msgspec

from erllama.cache.policy import CachePolicy
from erllama.checked import Checked, describe
from erllama.config import ContextConfig, ModelConfig, RuntimeConfig
from erllama.model.request import Request
from erllama.sampling import SamplingParams

PAGE = pathlib.Path(__file__).with_name("configuration.md")
STRUCTS: dict[str, type[Checked]] = {
    "of `Runtime(...)`": RuntimeConfig,
    "of `load_model(...)`: weights": ModelConfig,
    "of `load_model(...)`: context": ContextConfig,
    "of `load_model(...)`: what is kept in the KV cache": CachePolicy,
    "of `complete(...)` and `stream(...)`": Request,
    "of `complete(...)` and `stream(...)`: sampling": SamplingParams,
}
HEAD = """# Options

Made from the structs by `docs/make_reference.py`. A value outside the limits raises `ConfigError`,
in a request `RequestError`.

Editors and type checkers know the keyword arguments of each call. A function of your own that
passes them on says so with `**options: Unpack[erllama.RequestOptions]`, `LoadOptions` or
`RuntimeOptions`; `SessionlessOptions` are those of `completions` and `verify`, `DraftOptions` those
of `draft`.
"""


def main() -> int:
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text)
        return 0
    if PAGE.read_text() == text:
        return 0
    print("docs/configuration.md is out of date: run python docs/make_reference.py")
    return 1


def page() -> str:
    sections = [section(where, struct) for where, struct in STRUCTS.items()]
    return "\n".join([HEAD, *sections])


def section(where: str, struct: type[Checked]) -> str:
    hints = typing.get_type_hints(struct, include_extras=True)
    meanings = describe(struct)
    rows = [
        f"| `{field.name}` | {kind(hints[field.name])} | {default(field)} "
        f"| {meanings.get(field.name, '')} |"
        for field in msgspec.structs.fields(struct)
    ]
    head = "| option | values | default | meaning |\n|---|---|---|---|"
    return f"## `{struct.__name__}`\n\nOptions {where}.\n\n{head}\n" + "\n".join(rows) + "\n"


def default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f"`{field.default!r}`"
    return "its defaults"


def kind(hint: Any) -> str:
    """A hint in words: its type with its limits."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [limit for meta in arguments[1:] for limit in limits_of(meta)]
        return ", ".join([kind(arguments[0]), *limits])
    if origin is typing.Literal:
        return ", ".join(f"`{choice!r}`" for choice in arguments)
    if arguments and type(None) in arguments:
        some = [kind(part) for part in arguments if part is not type(None)]
        return " or ".join([*some, "None"])
    if origin is tuple:
        return f"tuple of {kind(arguments[0])}"
    return getattr(hint, "__name__", str(hint))


def limits_of(meta: msgspec.Meta) -> list[str]:
    words = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "multiple of"}
    return [
        f"{word} {number(getattr(meta, name))}"
        for name, word in words.items()
        if getattr(meta, name) is not None
    ]


def number(value: float) -> str:
    return f"{value:,}" if float(value).is_integer() else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())

"""Write erllama/option_types.py from the structs of options; `--check` only compares."""

from __future__ import annotations

import pathlib
import sys
import types
import typing
from typing import Any

from erllama.cache.policy import CachePolicy
from erllama.checked import Checked
from erllama.config import ContextConfig, ModelConfig, RuntimeConfig
from erllama.model.request import Request
from erllama.sampling import SamplingParams

FILE = pathlib.Path(__file__).parents[1] / "erllama" / "option_types.py"
FOLDERS = {"cache_dir", "ram_file_dir"}
"""Options that also take a `pathlib.Path`."""

# A class, its base, its structs, which of their fields it has (None: those that no other class
# has), and what it says of itself.
Dict = tuple[str, str, tuple[type[Checked], ...], set[str] | None, str]
DICTS: tuple[Dict, ...] = (
    ("RuntimeOptions", "TypedDict", (RuntimeConfig,), None, "Options of `Runtime`."),
    (
        "LoadOptions",
        "TypedDict",
        (ModelConfig, ContextConfig, CachePolicy),
        None,
        "Options of `Runtime.load_model` and `load`.",
    ),
    (
        "DraftOptions",
        "TypedDict",
        (Request, SamplingParams),
        None,
        "Options of `Model.draft`, which has `max_tokens` in its `n`.",
    ),
    (
        "SessionlessOptions",
        "DraftOptions",
        (Request,),
        {"max_tokens"},
        "Options of `Model.completions` and `verify`, which leave sessions as they are.",
    ),
    (
        "RequestOptions",
        "SessionlessOptions",
        (Request,),
        {"session_id"},
        "Options of `Model.complete`, `stream`, `chat`, `stream_chat` and `prefill`.",
    ),
)
HEAD = '''"""What the keyword arguments of the public calls may be, for editors and type checkers.

Made from the structs of options by `docs/make_option_types.py`. The structs check the values
(docs/configuration.md); nothing here does anything when a program runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from erllama.sampling.params import SamplingParams
'''


def main() -> int:
    text = source()
    if "--check" not in sys.argv:
        FILE.write_text(text)
        return 0
    if FILE.read_text() == text:
        return 0
    print("erllama/option_types.py is out of date: run python docs/make_option_types.py")
    return 1


def source() -> str:
    """The module."""
    return "\n\n".join([HEAD, *map(typed_dict, DICTS)])


def typed_dict(entry: Dict) -> str:
    """One class of the module."""
    name, base, structs, chosen, meaning = entry
    taken = {field for *_, fields, _ in DICTS for field in fields or ()}
    lines = [
        f"    {field}: {given(hint, field)}"
        for struct in structs
        for field, hint in fields_of(struct).items()
        if (field in chosen if chosen is not None else field not in taken)
    ]
    return "\n".join(
        [f"class {name}({base}, total=False):", f'    """{meaning}"""', "", *lines, ""]
    )


def fields_of(struct: type[Checked]) -> dict[str, Any]:
    """The fields of a struct with their types."""
    hints = typing.get_type_hints(struct)
    return {field: hints[field] for field in struct.__struct_fields__}


def given(hint: Any, field: str = "") -> str:
    """The type of what may be given for a field that holds `hint`, as it stands in source."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(given(part, field) for part in arguments))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(literal, arguments))}]"
    if origin is tuple:  # a list becomes one
        item = given(arguments[0])
        return f"tuple[{item}, ...] | list[{item}]"
    if origin is dict:
        return f"Mapping[{', '.join(map(given, arguments))}]"
    if hint is Any or hint is type(None):
        return "Any" if hint is Any else "None"
    if hint is str and field in FOLDERS:
        return "str | os.PathLike[str]"
    return str(hint.__name__)


def literal(value: object) -> str:
    """A constant, as `ruff format` quotes it."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    sys.exit(main())

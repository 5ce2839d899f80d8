"""The Jinja environment of chat templates. Imported when the first one is rendered: it takes time.

As `_compile_jinja_template` of transformers sets it up
(https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py):
blocks trimmed, `break` and `continue` in loops, a `tojson` that writes plain JSON, and the tag
`generation`, which marks what an assistant says and changes no text.
"""

from __future__ import annotations

import functools
import json
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["Refusal", "SecurityError", "compile_template"]

_KEPT = 16


class Refusal(Exception):
    """Raised by a template through `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: its body, in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012 (as the base class declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's own would let a forbidden attribute pass for an undefined one, and print nothing."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"attribute {attribute!r} of a {type(obj).__name__}")


@functools.lru_cache(maxsize=_KEPT)
def compile_template(source: str) -> jinja2.Template:
    """The template of this source.

    Raises:
        jinja2.TemplateSyntaxError: it does not parse.
    """
    return _environment().from_string(source)


@functools.cache
def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON in the order of its keys. Jinja's own filter sorts them and escapes `<>&'` for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> NoReturn:
    raise Refusal(str(message))

"""The Jinja environment of chat templates. Imported when the first one is rendered: it takes time.

As `_compile_jinja_template` of transformers sets it up
(https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py):
blocks trimmed, `break` and `continue` in loops, a `tojson` that writes plain JSON, and the tag
`generation`, which marks what an assistant says and changes no text.

Loops, macros, calls, operators and filters are changed so that they pay for what they do
(`erllama.text.template_limits`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from erllama.text import template_limits as limits

__all__ = [
    "Refusal",
    "SecurityError",
    "asks_for_none",
    "compile_template",
    "keys_read",
    "looks_for",
]

_KEPT = 16
_RECURSION = 8  # the cost of an item of a recursive loop
_LEFT_OUT = ("urlize", "wordwrap", "xmlattr", "pprint", "random", "filesizeformat")
_WRITES = (
    *("string", "tojson", "upper", "lower", "title", "capitalize", "trim", "center", "e", "escape"),
    *("forceescape", "safe", "truncate", "striptags", "urlencode", "wordcount"),
)
_COLUMNS = ("center", "batch", "slice", "tojson")


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

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"attribute {attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        limits.check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(__obj, "__name__", "")
        if name == "join" and args and not isinstance(args[0], str | list | tuple):
            args = (list(args[0]), *args[1:])
        if isinstance(__obj, LoopContext) and args:  # a recursive loop
            args = (limits.metered(args[0], _RECURSION), *args[1:])
        limits.check_method(owner, name, args, kwargs)
        return limits.pay_for(super().call(__context, __obj, *args, **kwargs))

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """What a template, a macro or a block of `set` has written."""
        written = pieces if isinstance(pieces, list) else list(_kept_short(pieces))
        limits.check_length(sum(map(len, written)))
        return "".join(written)

    @staticmethod
    def concatenated(*values: Any) -> str:
        """The operator `~`."""
        limits.check_written(values)
        return "".join(map(str, values))

    @staticmethod
    def sliced(value: Any, start: Any, stop: Any, step: Any) -> Any:
        """`value[start:stop:step]`."""
        return limits.pay_for(value[start:stop:step])

    metered = staticmethod(limits.metered)
    read = staticmethod(limits.pay_to_read)
    pay = staticmethod(limits.pay)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _paying(super()._parse(source, name, filename))


def _kept_short(pieces: Iterable[str]) -> Iterable[str]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > limits.LONGEST:
            limits.check_length(total)
        yield piece


def _paying(template: nodes.Template) -> nodes.Template:
    """The template with loops and macros that pay for each turn, and with checked operators."""
    for macro in template.find_all(nodes.Macro):
        macro.body.insert(0, _payment(macro))
    for block in template.find_all(nodes.CallBlock):
        block.body.insert(0, _payment(block))
    for loop in template.find_all(nodes.For):
        cost = nodes.Const(_cost(loop))
        loop.iter = _own("metered", cast("nodes.Expr", loop.iter), cost)
    for compared in template.find_all(nodes.Compare):
        _pay_for_operands(compared)
    return cast("nodes.Template", _Operators().visit(template))


def _payment(node: nodes.Stmt) -> nodes.Stmt:
    payment = nodes.ExprStmt(_own("pay", nodes.Const(_cost(node))))
    return cast("nodes.Stmt", payment.set_lineno(node.lineno))


def _pay_for_operands(compared: nodes.Compare) -> None:
    """Comparing texts takes a time that depends on their lengths, unless one is short."""
    for operand in compared.ops:
        if not isinstance(operand.expr, nodes.Const):
            operand.expr = _own("read", operand.expr)


def _own(name: str, *arguments: nodes.Expr) -> nodes.Call:
    line = arguments[0].lineno
    call = nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)
    return cast("nodes.Call", call.set_lineno(line or 1))


def _cost(node: nodes.Node) -> int:
    """What a turn through the body of a loop or of a macro costs."""
    return 1 + sum(1 for _ in node.find_all(nodes.Node)) // 32


class _Operators(NodeTransformer):
    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 (as Jinja calls it)
        self.generic_visit(node)
        return _own("concatenated", *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        cut = node.arg
        if not isinstance(cut, nodes.Slice):
            return node
        ends = [nodes.Const(None) if end is None else end for end in (cut.start, cut.stop)]
        step = nodes.Const(None) if cut.step is None else cut.step
        return _own("sliced", node.node, *ends, step)


@functools.lru_cache(maxsize=_KEPT)
def compile_template(source: str) -> jinja2.Template:
    """The template of this source.

    Raises:
        jinja2.TemplateSyntaxError: it does not parse.
    """
    return _environment().from_string(source)


@functools.lru_cache(maxsize=_KEPT)
def keys_read(source: str) -> frozenset[str]:
    """The keys and attributes that a template reads by name, of whatever it reads them.

    Raises:
        jinja2.TemplateSyntaxError: it does not parse.
    """
    tree = _environment().parse(source)
    named = {node.attr for node in tree.find_all(nodes.Getattr)}
    asked = [node.arg for node in tree.find_all(nodes.Getitem)]
    asked += [
        call.args[0]
        for call in tree.find_all(nodes.Call)
        if isinstance(call.node, nodes.Getattr) and call.node.attr == "get" and call.args
    ]
    asked += [
        node.expr for node in tree.find_all(nodes.Compare) if node.ops[0].op in ("in", "notin")
    ]
    texts = (node.value for node in asked if isinstance(node, nodes.Const))
    return frozenset(named | {text for text in texts if isinstance(text, str)})


@functools.lru_cache(maxsize=_KEPT)
def looks_for(source: str, value: str) -> bool:
    """Whether a template compares something with this text.

    Raises:
        jinja2.TemplateSyntaxError: it does not parse.
    """
    compared = _environment().parse(source).find_all(nodes.Compare)
    equal = (operand.expr for one in compared for operand in one.ops if operand.op == "eq")
    return any(_unpaid(one) == nodes.Const(value) for one in equal)


def _unpaid(operand: nodes.Node) -> nodes.Node:
    """An operand as the template has it."""
    if isinstance(operand, nodes.Call) and isinstance(operand.node, nodes.EnvironmentAttribute):
        return cast("nodes.Node", operand.args[0])
    return operand


@functools.lru_cache(maxsize=_KEPT)
def asks_for_none(source: str, key: str) -> bool:
    """Whether a template asks if this key of something is None.

    Raises:
        jinja2.TemplateSyntaxError: it does not parse.
    """
    asked = [
        test.node
        for test in _environment().parse(source).find_all(nodes.Test)
        if test.name == "none"
    ]
    return any(
        (isinstance(node, nodes.Getattr) and node.attr == key)
        or (isinstance(node, nodes.Getitem) and node.arg == nodes.Const(key))
        for node in asked
    )


@functools.cache
def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation]
    )
    environment.filters["tojson"] = _to_json
    for name in _LEFT_OUT:
        del environment.filters[name]
    del environment.globals["lipsum"]
    for name, own in environment.filters.items():
        environment.filters[name] = _checked(name, own)
    for name, test in environment.tests.items():
        environment.tests[name] = _paid(cast("Callable[..., Any]", test))
    environment.finalize = _written
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _checked(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays."""
    skipped = 1 if hasattr(own, "jinja_pass_arg") else 0  # the context, or the like

    @functools.wraps(own)
    def checked(*args: Any, **kwargs: Any) -> Any:
        before, (value, *options) = args[:skipped], args[skipped:]
        named = [*options, *kwargs.values()]
        limits.pay(1)
        if name == "join":
            value = value if isinstance(value, str | list | tuple) else list(value)
            limits.check_join(named[0] if named else "", value)
        elif name == "replace":
            limits.check_replace(value, *named[:2])
        elif name == "indent":
            limits.check_indent(value, named)
        elif name == "format":
            limits.check_operation("%", str(value), tuple(named))
        elif name in _WRITES:
            limits.check_written([value])
        if name in _COLUMNS:
            limits.check_width(named)
        return limits.pay_for(own(*before, value, *options, **kwargs))

    return checked


def _paid(test: Callable[..., Any]) -> Callable[..., Any]:
    """A test that pays for the texts that it looks at."""

    @functools.wraps(test)
    def paid(*args: Any, **kwargs: Any) -> Any:
        for value in args:
            limits.pay_to_read(value)
        return test(*args, **kwargs)

    return paid


def _written(value: Any) -> Any:
    """What `{{ }}` writes."""
    if not isinstance(value, str):
        limits.check_written([value])
    return value


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

"""What the replies of model families show: thoughts, calls and answers, however they are cut.

The templates are abbreviations of what the families' templates write; the replies have the forms
that their models were trained to write. Each is driven token by token, in every cut of its text
into two or three pieces, with its markers as control tokens and as plain text.
"""
# ruff: noqa: RUF001 (DeepSeek's tokens are written with full-width bars)

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from erllama import ContextConfig, ModelConfig
from erllama.backend.base import Engine, Sampled
from erllama.backend.stub import StubBackend
from erllama.model.markers import Markers, find_markers
from erllama.model.reply import Reply
from erllama.types import Event, Text, ThinkingDelta, ThinkingEnd, ToolCallDelta, ToolCallEnd

SHOWN = (Text, ThinkingDelta, ToolCallDelta)
CONTROL = re.compile(
    r"<\|[^|>]*\|>|</?｜[^｜>]*｜>|\[/?[A-Z_]+\]|</?think>|</?tool_call>|</s>|<end>"
)


@dataclass(frozen=True)
class Case:
    """A model and what it says.

    Attributes:
        template: what its chat template has.
        prompt: what its prompt ends with.
        said: its reply, with the token that ends it.
    """

    template: str
    prompt: str
    said: str
    text: str = ""
    thinking: str | None = None
    calls: tuple[str, ...] = ()


HARMONY = (
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
    "{{ '<|start|>assistant to=functions.' + c.name + '<|channel|>commentary json<|message|>' }}"
    "{{ '<|call|>' }}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}"
)
LLAMA3 = (
    'Answer with {"name": function name, "parameters": its arguments}.'
    "{{ '<|start_header_id|>ipython<|end_header_id|>' }}{{ '<|python_tag|>' + c.name + '.call(' }}"
)
MISTRAL = "{{ '[TOOL_CALLS][' }}{{ c | tojson }}{{ ']' + eos_token }}"
MAGISTRAL = (
    MISTRAL + "{{ '[THINK]' + block.thinking + '[/THINK]' }}{{ '[TOOL_CALLS]' + n + '[ARGS]' }}"
)
DEEPSEEK = (
    "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + c.type + '<｜tool▁sep｜>' + c.name }}"
    "{{ '<｜tool▁call▁end｜><｜tool▁calls▁end｜>' }}{{ '<think>' if thinking else '</think>' }}"
)
DSML = "{%- set dsml = '｜DSML｜' %}{{ '<' + dsml + 'invoke name=' }}{{ '<think></think>' }}"
KIMI = (
    "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>"
    "{{ c.arguments }}<|tool_call_end|><|tool_calls_section_end|><think>{{ r }}</think>"
)
GRANITE3 = (
    "<|start_of_role|>system<|end_of_role|>Respond only with <|tool_call|> and a JSON list. "
    "Write thoughts between <think></think> and the response between <response></response>."
)
GLM = "<tool_call>{name}\n<arg_key>{key}</arg_key></tool_call>{{ '<think></think>' }}"
COMMAND_R = (
    "<|START_THINKING|>{{ p }}<|END_THINKING|><|START_ACTION|>[{{ c }}]<|END_ACTION|>"
    "<|START_RESPONSE|>{{ m }}<|END_RESPONSE|>"
)
COMMAND_R_PLUS = "{{ '\\nAction:\\n```json\\n[\\n' }}{{ '\"tool_name\": \"' + c.name }}"

FN = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
LISTED = '[{"name": "get_weather", "arguments": {"city": "Oslo"}}]'
ARGS = '{"city": "Oslo"}'

CASES = {
    "gpt-oss thinks and answers": Case(
        HARMONY,
        "<|start|>assistant",
        "<|channel|>analysis<|message|>So be it.<|end|><|start|>assistant<|channel|>final"
        "<|message|>Hi!<|return|>",
        text="Hi!",
        thinking="So be it.",
    ),
    "gpt-oss answers": Case(
        HARMONY, "<|start|>assistant", "<|channel|>final<|message|>Hi!<|return|>", text="Hi!"
    ),
    "gpt-oss calls on a channel": Case(
        HARMONY,
        "<|start|>assistant",
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.get_weather <|constrain|>json<|message|>{ARGS}<|call|>",
        thinking="Look.",
        calls=(f"functions.get_weather <|constrain|>json<|message|>{ARGS}",),
    ),
    "gpt-oss calls in its role, behind a preamble": Case(
        HARMONY,
        "<|start|>assistant",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.f"
        f"<|channel|>commentary json<|message|>{ARGS}<|call|>",
        text="I look.",
        calls=(f"functions.f<|channel|>commentary json<|message|>{ARGS}",),
    ),
    "gpt-oss calls at once": Case(
        HARMONY,
        "<|start|>assistant",
        f" to=functions.f<|channel|>commentary json<|message|>{ARGS}<|call|>",
        calls=(f"functions.f<|channel|>commentary json<|message|>{ARGS}",),
    ),
    "Llama 3 calls in JSON": Case(LLAMA3, "<|end_header_id|>\n\n", f"{FN}<|eot_id|>", calls=(FN,)),
    "Llama 3 calls a built-in tool": Case(
        LLAMA3,
        "<|end_header_id|>\n\n",
        '<|python_tag|>search.call(query="Oslo")<|eom_id|>',
        calls=('search.call(query="Oslo")',),
    ),
    "Llama 3 answers": Case(
        LLAMA3, "<|end_header_id|>\n\n", f"As {FN} says<|eot_id|>", text=f"As {FN} says"
    ),
    "Mistral calls in a list": Case(
        MISTRAL, "[/INST]", f"[TOOL_CALLS]{LISTED}</s>", calls=(LISTED,)
    ),
    "Mistral thinks and calls twice": Case(
        MAGISTRAL,
        "[/INST]",
        f"[THINK]Two.[/THINK][TOOL_CALLS]f[ARGS]{ARGS}[TOOL_CALLS]g[ARGS]{{}}</s>",
        thinking="Two.",
        calls=(f"f[ARGS]{ARGS}", "g[ARGS]{}"),
    ),
    "DeepSeek thinks and calls twice": Case(
        DEEPSEEK,
        "<｜Assistant｜><think>\n",
        "Look.</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
        f"{ARGS}\n```<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{{}}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
        thinking="Look.",
        calls=(f"function<｜tool▁sep｜>f\n```json\n{ARGS}\n```", "g<｜tool▁sep｜>{}"),
    ),
    "DeepSeek calls in DSML": Case(
        DSML,
        "<｜Assistant｜></think>",
        '<｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="city">Oslo'
        "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜function_calls><｜end▁of▁sentence｜>",
        calls=(' name="f"><｜DSML｜parameter name="city">Oslo</｜DSML｜parameter>',),
    ),
    "Kimi thinks and calls": Case(
        KIMI,
        "<|im_middle|>",
        "<think>Hm.</think>I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
        f"<|tool_call_argument_begin|>{ARGS}<|tool_call_end|><|tool_calls_section_end|><|im_end|>",
        text="I look.",
        thinking="Hm.",
        calls=(f"functions.f:0<|tool_call_argument_begin|>{ARGS}",),
    ),
    "Granite 3 thinks and answers": Case(
        GRANITE3,
        "<|end_of_role|>",
        "<think>Hm.</think><response>Hi!</response><|end_of_text|>",
        text="Hi!",
        thinking="Hm.",
    ),
    "Granite 3 calls": Case(
        GRANITE3, "<|end_of_role|>", f"<|tool_call|>{LISTED}<|end_of_text|>", calls=(LISTED,)
    ),
    "GLM thinks and calls": Case(
        GLM,
        "<|assistant|>",
        "<think>Hm.</think><tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
        "</tool_call><|observation|>",
        thinking="Hm.",
        calls=("f\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n",),
    ),
    "Command R thinks and calls": Case(
        COMMAND_R,
        "<|CHATBOT_TOKEN|>",
        '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[{"tool_name": "f"}]<|END_ACTION|>'
        "<|END_OF_TURN_TOKEN|>",
        thinking="Hm.",
        calls=('[{"tool_name": "f"}]',),
    ),
    "Command R answers": Case(
        COMMAND_R,
        "<|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>",
        "<|START_RESPONSE|>Hi!<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        text="Hi!",
    ),
    "Command R+ calls": Case(
        COMMAND_R_PLUS,
        "<|CHATBOT_TOKEN|>",
        'Action:```json\n[{"tool_name": "f"}]\n```<|END_OF_TURN_TOKEN|>',
        calls=('\n[{"tool_name": "f"}]\n',),
    ),
}


def engine(template: str) -> Engine:
    config = ModelConfig(chat_template=template)
    return StubBackend().open("stub.gguf", config, ContextConfig()).warm_up()


def markers(template: str) -> Markers:
    return find_markers(ModelConfig(), engine(template), None)


def tokens(said: str, *, control: bool) -> Iterator[Sampled]:
    """Markers as tokens of their own, or, but for the last one, as letters like any others."""
    at = 0
    found = list(CONTROL.finditer(said))
    for match in found:
        yield from letters(said[at : match.start()])
        end = match is found[-1]
        if control or end:
            yield Sampled(seq=0, token=9, piece=b"", end=end, special=match[0].encode())
        else:
            yield from letters(match[0])
        at = match.end()


def letters(text: str) -> Iterator[Sampled]:
    return (Sampled(seq=0, token=1, piece=one.encode(), end=False) for one in text)


def merge(said: Sequence[Sampled]) -> Iterator[Sampled]:
    """Letters side by side as one token."""
    for special, group in itertools.groupby(said, key=lambda one: not one.piece):
        if special:
            yield from group
        else:
            piece = b"".join(one.piece for one in group)
            yield Sampled(seq=0, token=1, piece=piece, end=False)


def cuts(said: str, *, control: bool) -> Iterator[list[Sampled]]:
    """Letter by letter, then with a border at each place in turn and none elsewhere."""
    single = list(tokens(said, control=control))
    yield single
    for at in range(1, len(single)):
        yield [*merge(single[:at]), *merge(single[at:])]


def read(case: Case, known: Markers, said: Sequence[Sampled]) -> tuple[Reply, list[Event]]:
    reply = Reply(markers=known, opening=known.opening(case.prompt))
    events: list[Event] = []
    for one in said:
        events += reply.take(one, last=one.end)
    return reply, events


def check(case: Case, reply: Reply, events: list[Event]) -> None:
    assert "".join(reply.text) == case.text
    assert (None if reply.thinking is None else "".join(reply.thinking)) == case.thinking
    assert tuple(reply.tool_calls) == case.calls
    shown = {kind: "".join(e.text for e in events if isinstance(e, kind)) for kind in SHOWN}
    assert shown[Text] == case.text
    assert shown[ThinkingDelta] == (case.thinking or "")
    assert shown[ToolCallDelta] == "".join(case.calls)
    assert [e.text for e in events if isinstance(e, ToolCallEnd)] == list(case.calls)
    assert sum(isinstance(e, ThinkingEnd) for e in events) == (case.thinking is not None)


@pytest.mark.parametrize("name", CASES)
def test_a_reply_shows_what_it_is_however_it_is_cut_and_spelled(name: str) -> None:
    case = CASES[name]
    known = markers(case.template)
    for control in (True, False):
        for said in cuts(case.said, control=control):
            check(case, *read(case, known, said))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.calls])
def test_a_call_that_was_cut_off_is_none(name: str) -> None:
    case = CASES[name]
    said = list(tokens(case.said, control=True))[:-1]
    reply = Reply(markers=(known := markers(case.template)), opening=known.opening(case.prompt))
    for at, one in enumerate(said):
        reply.take(one, last=at == len(said) - 1)
    complete = known.sections["tool_call"].end and name.count("gpt-oss") == 0
    assert len(reply.tool_calls) == (len(case.calls) if complete else len(case.calls) - 1)


def test_json_is_an_answer_where_no_call_is_expected() -> None:
    case = CASES["Llama 3 calls in JSON"]
    known = markers(case.template).without_bare
    reply, _ = read(case, known, list(tokens(case.said, control=True)))
    assert ("".join(reply.text), reply.tool_calls) == (FN, [])


def test_a_budget_of_nothing_ends_thinking_once() -> None:
    known = markers(HARMONY)
    said = tokens("<|channel|>analysis<|message|>", control=True)
    start = Reply(markers=known, opening=known.opening("<|start|>assistant"), thinking_budget=0)
    for one in said:
        assert start.forced is None
        start.take(Sampled(0, one.token, one.piece, False, special=one.special), last=False)
    forced: list[int] = []
    while start.forced is not None:
        forced.append(start.forced)
        start.take(Sampled(0, start.forced, bytes([start.forced]), False), last=False)
    assert bytes(forced) == b"<|end|>"
    for one in tokens("<|start|>assistant<|channel|>final<|message|>Hi!<end>", control=True):
        assert start.forced is None
        start.take(one, last=one.end)
    assert ("".join(start.text), "".join(start.thinking or ())) == ("Hi!", "")


def test_an_end_that_is_not_spelled_as_it_is_written_ends_thinking_too() -> None:
    known = markers("<think></think>")
    reply = Reply(markers=known, opening=known.opening("<think>"), thinking_budget=0)
    forced: list[int] = []
    while reply.forced is not None and len(forced) < 100:
        forced.append(reply.forced)
        reply.take(Sampled(0, reply.forced, b"?", False), last=False)  # as an unknown token
    assert bytes(forced) == b"</think>"
    reply.take(Sampled(0, 1, b"x", False), last=True)
    assert "".join(reply.text) == "x"


def test_a_prompt_may_have_opened_a_call() -> None:
    known = markers(GLM)
    reply = Reply(markers=known, opening=known.opening("<|assistant|><tool_call>"))
    for one in tokens("f\n</tool_call>x<end>", control=True):
        reply.take(one, last=one.end)
    assert (reply.tool_calls, "".join(reply.text)) == (["f\n"], "x")

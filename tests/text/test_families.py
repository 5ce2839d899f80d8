"""Templates in the manner of the families that public models belong to, and what they write.

The expected texts are written down by hand. Control tokens of the families stand for themselves.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from erllama.errors import RequestError
from erllama.text import render_chat

FAMILIES = Path(__file__).parent / "templates"
NOW = datetime.datetime(2025, 3, 9, 14, 5)

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi! <é>"}
MORE = {"role": "user", "content": " Größe? "}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "It's <now> in “city”.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "a1b2c3d4e",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Köln"}},
        }
    ],
}
RESULT = {"role": "tool", "content": "12 °C", "tool_call_id": "a1b2c3d4e"}


def render(family: str, *messages: dict[str, Any], **options: Any) -> str:
    template = (FAMILIES / f"{family}.jinja").read_text(encoding="utf-8")
    options = {"bos_token": "<s>", "eos_token": "</s>", **options}
    text = render_chat(template, list(messages), now=NOW, **options)
    said = list(messages)
    if "is none" not in template:  # else it was written for None
        said = [{key: one for key, one in m.items() if one is not None} for m in messages]
    assert text == bare(template, said, **options)
    return text


def bare(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    """What Jinja writes without any limits, set up as transformers has it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, ensure_ascii=False, indent=None: json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent
    )
    values = {"tools": None, "add_generation_prompt": True, "strftime_now": NOW.strftime}
    values |= options.pop("variables", {})
    return environment.from_string(template).render(messages=messages, **values | options)


def refused(family: str, *messages: dict[str, Any], **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        render(family, *messages, **options)
    return str(caught.value)


# ChatML, as Qwen has it


def test_chatml_writes_turns() -> None:
    assert render("chatml", SYSTEM, HELLO, HI, MORE) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi! <é><|im_end|>\n"
        "<|im_start|>user\n Größe? <|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render("chatml", HELLO, add_generation_prompt=False) == (
        "<|im_start|>user\nHello<|im_end|>\n"
    )


def test_chatml_leaves_thinking_out_where_it_is_not_wanted_and_of_earlier_turns() -> None:
    assert render("chatml", HELLO, variables={"enable_thinking": False}) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert render("chatml", HELLO, variables={"enable_thinking": True}) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    thought = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHi!"}
    assert render("chatml", HELLO, thought, MORE, add_generation_prompt=False) == (
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi!<|im_end|>\n"
        "<|im_start|>user\n Größe? <|im_end|>\n"
    )


def test_chatml_writes_tools_calls_and_results_and_keeps_the_thinking_between_them() -> None:
    call = {**CALL, "content": "", "reasoning_content": "Look."}
    assert render("chatml", SYSTEM, HELLO, call, RESULT, RESULT, tools=[WEATHER]) == (
        "<|im_start|>system\nBe brief.\n\n"
        "# Tools\n\nSignatures, one to a line:\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": '
        '"It\'s <now> in “city”.", "parameters": {"type": "object", "properties": '
        '{"city": {"type": "string"}}}}}\n'
        "</tools><|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nLook.\n</think>\n\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user"
        "\n<tool_response>\n12 °C\n</tool_response>"
        "\n<tool_response>\n12 °C\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_chatml_takes_the_arguments_of_a_call_as_text_too() -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a":1}'}] * 2}
    assert render("chatml", HELLO, call, HELLO, add_generation_prompt=False) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "f", "arguments": {"a":1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "f", "arguments": {"a":1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nHello<|im_end|>\n"
    )


# Llama 2 and 3


def test_llama2_writes_the_system_message_into_the_first_turn() -> None:
    assert render("llama2", SYSTEM, HELLO, HI, MORE) == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST] Hi! <é> </s>"
        "<s>[INST] Größe? [/INST]"
    )


def test_llama2_has_turns_taken() -> None:
    message = refused("llama2", HELLO, MORE)
    assert message == (
        "messages: the model's chat template refuses them: Roles have to take turns: user, "
        "assistant, user, assistant"
    )


def test_llama3_writes_headers_and_the_day() -> None:
    assert render("llama3", SYSTEM, HELLO, HI, MORE) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 09 Mar 2025\n\nBe brief."
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHi! <é><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGröße?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    dated = render("llama3", HELLO, variables={"date_string": "1 Jan 1970"})
    assert "Today Date: 1 Jan 1970\n\n<|eot_id|>" in dated


TOOL_OF_FOUR_SPACES = """{
    "type": "function",
    "function": {
        "name": "weather",
        "description": "It's <now> in “city”.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {
                    "type": "string"
                }
            }
        }
    }
}"""


def test_llama3_writes_tools_into_the_first_message_of_the_user_or_before_it() -> None:
    text = render("llama3", SYSTEM, HELLO, CALL, RESULT, tools=[WEATHER])
    assert text == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
        "Today Date: 09 Mar 2025\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nFunctions, answer in JSON:\n\n"
        f"{TOOL_OF_FOUR_SPACES}\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "weather", "parameters": {"city": "Köln"}}<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"12 °C"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    before = render("llama3", HELLO, tools=[WEATHER], variables={"tools_in_user_message": False})
    assert f"Functions:\n\n{TOOL_OF_FOUR_SPACES}\n\n<|eot_id|>" in before
    assert "user<|end_header_id|>\n\nHello<|eot_id|>" in before


def test_llama3_takes_tools_of_its_own_name_and_one_call_at_a_time() -> None:
    assert TOOL_OF_FOUR_SPACES in render("llama3", HELLO, variables={"custom_tools": [WEATHER]})
    two = {**CALL, "tool_calls": CALL["tool_calls"] * 2}
    assert refused("llama3", HELLO, two).endswith("refuses them: One call at a time")
    assert refused("llama3", SYSTEM, tools=[WEATHER]).endswith("Tools need a first user message")


# Mistral


def test_mistral_writes_the_system_message_into_the_last_turn() -> None:
    assert render("mistral", SYSTEM, HELLO, HI, MORE) == (
        "<s>[INST] Hello[/INST] Hi! <é></s>[INST] Be brief.\n\n Größe? [/INST]"
    )


def test_mistral_writes_tools_before_the_last_question_and_ids_of_calls() -> None:
    assert render("mistral", HELLO, CALL, RESULT, HI, MORE, tools=[WEATHER]) == (
        '<s>[INST] Hello[/INST][TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln"}, '
        '"id": "a1b2c3d4e"}]</s>[TOOL_RESULTS] {"content": 12 °C, "call_id": "a1b2c3d4e"}'
        "[/TOOL_RESULTS] Hi! <é></s>"
        '[AVAILABLE_TOOLS] [{"type": "function", "function": {"name": "weather", "description": '
        '"It\'s <now> in “city”.", "parameters": {"type": "object", "properties": {"city": '
        '{"type": "string"}}}}}][/AVAILABLE_TOOLS][INST]  Größe? [/INST]'
    )


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([HELLO, HELLO], "After a system message, user and assistant take turns"),
        ([HI], "After a system message, user and assistant take turns"),
        ([HELLO, {"role": "critic", "content": "x"}], "Only user, assistant, system and tool"),
        ([HELLO, {**CALL, "tool_calls": [{"function": {}, "id": "1"}]}], "Ids of calls have 9"),
        ([HELLO, {**CALL, "tool_calls": [{"function": {}}]}], "Ids of calls have 9"),
    ],
)
def test_mistral_refuses_what_it_was_not_trained_on(
    messages: list[dict[str, Any]], said: str
) -> None:
    message = refused("mistral", *messages)
    assert message.startswith("messages: the model's chat template refuses them: ")
    assert said in message


# Gemma


def test_gemma_calls_the_assistant_model() -> None:
    assert render("gemma", SYSTEM, HELLO, HI, MORE) == (
        "<s><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n"
        "<start_of_turn>model\nHi! <é><end_of_turn>\n"
        "<start_of_turn>user\nGröße?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert refused("gemma", HELLO, HELLO).endswith("user and assistant have to take turns")
    assert refused("gemma_strict", SYSTEM, HELLO).endswith("There is no role system")
    assert render("gemma_strict", HELLO, HI, add_generation_prompt=False) == (
        "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi! <é><end_of_turn>\n"
    )


def test_gemma_takes_parts() -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Look."}]}
    parts = [{"type": "image"}, {"type": "text", "text": " What is it? "}]
    assert render("gemma", system, {"role": "user", "content": parts}) == (
        "<s><start_of_turn>user\nLook.\n\n<start_of_image>What is it?<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    assert render("gemma", {"role": "user", "content": None}) == (
        "<s><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\n"
    )


# Phi-3


def test_phi3_writes_line_breaks_that_stand_in_its_texts() -> None:
    assert render("phi3", SYSTEM, HELLO, HI, MORE) == (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\nHi! <é><|end|>\n"
        "<|user|>\n Größe? <|end|>\n<|assistant|>\n"
    )
    tools = {**SYSTEM, "tools": '[{"name": "f"}]'}
    assert render("phi3", tools, HELLO, add_generation_prompt=False) == (
        '<|system|>Be brief.<|tool|>[{"name": "f"}]<|/tool|><|end|><|user|>\nHello<|end|>\n</s>'
    )


# DeepSeek R1


def test_deepseek_opens_the_thinking_and_drops_that_of_earlier_turns() -> None:
    thought = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHi!"}
    assert render("deepseek", SYSTEM, HELLO, thought, MORE) == (
        "<s>Be brief.<｜User｜>Hello<｜Assistant｜>\n\nHi!<｜end▁of▁sentence｜>"  # noqa: RUF001
        "<｜User｜> Größe? <｜Assistant｜><think>\n"  # noqa: RUF001
    )


def test_deepseek_writes_calls_and_results_and_lets_the_model_go_on_behind_them() -> None:
    one = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    calls = {"role": "assistant", "content": None, "tool_calls": [one, one]}
    text = render("deepseek", HELLO, calls, RESULT, RESULT)
    call = (
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"  # noqa: RUF001
        '```json\n{"city": "Köln"}\n```<｜tool▁call▁end｜>'  # noqa: RUF001
    )
    result = "<｜tool▁output▁begin｜>12 °C<｜tool▁output▁end｜>"  # noqa: RUF001
    assert text == (
        f"<s><｜User｜>Hello<｜Assistant｜><｜tool▁calls▁begin｜>{call}\n{call}"  # noqa: RUF001
        "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"  # noqa: RUF001
        f"<｜tool▁outputs▁begin｜>{result}\n{result}<｜tool▁outputs▁end｜>"  # noqa: RUF001
    )
    answered = render("deepseek", HELLO, calls, RESULT, HI, MORE)
    assert answered.endswith(
        f"{result}<｜tool▁outputs▁end｜>Hi! <é><｜end▁of▁sentence｜>"  # noqa: RUF001
        "<｜User｜> Größe? <｜Assistant｜><think>\n"  # noqa: RUF001
    )


# Granite and Command R: documents


DOCUMENTS = [{"doc_id": 1, "text": "Köln has rain."}, {"doc_id": 2, "text": "Oslo has none."}]


def test_granite_says_what_it_was_given() -> None:
    variables = {"documents": DOCUMENTS, "controls": {"citations": True}}
    assert render("granite", HELLO, tools=[{"name": "f"}], variables=variables) == (
        "<|start_of_role|>system<|end_of_role|>Today's Date: March 09, 2025.\n"
        "You are an assistant. Use tools, and write the answer from the documents. Cite."
        "<|end_of_text|>\n"
        '<|start_of_role|>available_tools<|end_of_role|>[\n    {\n        "name": "f"\n    }\n]'
        "<|end_of_text|>\n"
        '<|start_of_role|>document {"document_id": "1"}<|end_of_role|>\n'
        "Köln has rain.<|end_of_text|>\n"
        '<|start_of_role|>document {"document_id": "2"}<|end_of_role|>\n'
        "Oslo has none.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Hello<|end_of_text|>\n"
        '<|start_of_role|>assistant {"citations": true}<|end_of_role|>'
    )


def test_granite_thinks_where_it_is_asked_to_by_the_name_that_it_knows() -> None:
    text = render("granite", HELLO, variables={"thinking": True})
    assert "You are an assistant. Think first.<|end_of_text|>" in text
    assert text.endswith("<|start_of_role|>assistant<|end_of_role|>")
    assert "Today's Date" not in render("granite", SYSTEM, HELLO)


def test_command_r_writes_signatures_and_documents() -> None:
    tool = {
        "name": "find",
        "description": "Finds.",
        "parameters": {
            "properties": {
                "tags": {"type": "array", "items": {"type": "string"}},
                "limit": {"type": ["integer", "boolean"]},
                "near": {"type": "object"},
            },
            "required": ["tags"],
        },
    }
    documents = [{"_id": 0, "title": "A", "body": "a"}, {"title": "B"}]
    text = render("command_r", HELLO, HI, MORE, tools=[tool], variables={"documents": documents})
    assert text == (
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be helpful.\n"
        "def find(tags: List[str], limit: Union[int,bool] = None, near: Any = None):\n"
        '    """Finds."""<|END_OF_TURN_TOKEN|>'
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hello<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hi! <é><|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Größe?<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>\n"
        "Document: 0\nbody: a\ntitle: A\n\nDocument: 1\ntitle: B\n</results><|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    )
    assert render("command_r", SYSTEM, HELLO, add_generation_prompt=False) == (
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hello<|END_OF_TURN_TOKEN|>"
    )


# GLM


def test_glm_writes_arguments_one_by_one_and_takes_texts_in_parts() -> None:
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}],
    }
    call = {
        "role": "assistant",
        "content": "<think>\nLook.\n</think>\n\nWait.",
        "tool_calls": [{"function": {"name": "f", "arguments": {"city": "Köln", "n": [1, "é"]}}}],
    }
    assert render("glm", SYSTEM, parts, call, RESULT, RESULT) == (
        "[gMASK]<sop><|system|>\nBe brief.<|user|>\nHello<|assistant|>\n<think>Look.</think>\nWait."
        "\n<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>"
        '\n<arg_key>n</arg_key>\n<arg_value>[1, "é"]</arg_value>\n</tool_call>'
        "<|observation|>\n<tool_response>\n12 °C\n</tool_response>"
        "\n<tool_response>\n12 °C\n</tool_response><|assistant|>"
    )


def test_glm_is_told_not_to_think_behind_the_question() -> None:
    assert render("glm", HELLO, HI, MORE, variables={"enable_thinking": False}) == (
        "[gMASK]<sop><|user|>\nHello/nothink<|assistant|>\n<think></think>\nHi! <é>"
        "<|user|>\n Größe? /nothink<|assistant|>\n<think></think>"
    )

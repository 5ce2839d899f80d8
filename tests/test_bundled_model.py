"""The model that ships does what its description says.

Everything here is asked of the GGUF files themselves, through llama-cpp-python's low-level
bindings. ggml may compute on one thread of a process only, so each model lives in a child
process of its own: this very file, run as a script, which answers one JSON line for each JSON
line. `Model` is the only class that knows this.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "erllama" / "bundled" / "erllama-tiny.gguf"
DRAFT = ROOT / "tests" / "data" / "erllama-tiny-draft.gguf"
TRAINER = ROOT / "examples" / "train_tiny_model"
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")

Message = dict[str, Any]


# --- the child: one model, one context, one thread -------------------------------------------


class Worker:
    """Answers the requests of `Model` in the child process."""

    def __init__(self, path: str, n_ctx: int = 2048) -> None:
        from erllama.backend.llama.library import llama

        self.lib: Any = llama()  # without AMX, which may end the process (backend/llama/amx.py)
        llama_cpp = self.lib
        quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        self.quiet = quiet  # llama.cpp keeps the pointer
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_threads = params.n_threads_batch = 1
        self.n_ctx = n_ctx
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def facts(self) -> dict[str, Any]:
        lib, vocab = self.lib, self.vocab
        return {
            "template": lib.llama_model_chat_template(self.model, None).decode(),
            "n_ctx_train": lib.llama_model_n_ctx_train(self.model),
            "bos": lib.llama_vocab_bos(vocab),
            "eos": lib.llama_vocab_eos(vocab),
            "eot": lib.llama_vocab_eot(vocab),
            "n_vocab": self.n_vocab,
            "n_params": lib.llama_model_n_params(self.model),
        }

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        room = (self.lib.llama_token * (len(data) + 8))()
        n = self.lib.llama_tokenize(
            self.vocab, data, len(data), room, len(room), add_special, parse_special
        )
        return list(room[:n])

    def detokenize(self, tokens: list[int]) -> str:
        """The bytes of the tokens, one latin-1 character each."""
        # piece by piece: llama_detokenize takes out spaces before punctuation
        return b"".join(map(self.piece, tokens)).decode("latin-1")

    def piece(self, token: int) -> bytes:
        out = ctypes.create_string_buffer(64)
        n = self.lib.llama_token_to_piece(self.vocab, token, out, len(out), 0, True)
        return out.raw[:n]

    def decode(self, tokens: list[int], position: int) -> list[int]:
        """Decode `tokens` from `position` on: the likeliest next token after each."""
        lib = self.lib
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position + i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        status = lib.llama_decode(self.context, batch)
        lib.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode answered {status}")
        rows = lib.llama_get_logits(self.context)
        row = range(self.n_vocab)
        return [max(row, key=lambda t: rows[i * self.n_vocab + t]) for i in range(len(tokens))]

    def choices(self, tokens: list[int], keep: int) -> list[int]:
        """The likeliest next token after each of the last `keep` tokens."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        return self.decode(tokens, 0)[-keep:]

    def greedy(self, prompt: list[int], n: int) -> list[int]:
        """At most `n` tokens, the last of them end-of-generation where the model ended."""
        token = self.choices(prompt, 1)[0]
        reply = [token]
        while len(reply) < n and not self.lib.llama_vocab_is_eog(self.vocab, token):
            token = self.decode([token], len(prompt) + len(reply) - 1)[0]
            reply.append(token)
        return reply


def serve(path: str) -> None:
    worker = Worker(path)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), flush=True)


# --- the parent ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    text: str
    ended: bool
    prompt: list[int]
    tokens: list[int]


class Model:
    """A GGUF file in a child process."""

    def __init__(self, path: Path) -> None:
        assert path.is_file(), f"{path} is missing: see examples/train_tiny_model/README.md"
        self.child = subprocess.Popen(
            [sys.executable, __file__, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            self.facts: dict[str, Any] = self.call("facts")
        except BaseException:
            self.close()
            raise
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self.template = environment.from_string(self.facts["template"])

    def call(self, name: str, *arguments: object) -> Any:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps([name, arguments]) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, f"the child of {name} died"
        return json.loads(line)

    def close(self) -> None:
        self.child.communicate(timeout=20)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids; with `special`, markers are parsed and the beginning is marked."""
        found: list[int] = self.call("tokenize", text, special, special)
        return found

    def raw(self, tokens: list[int]) -> bytes:
        return str(self.call("detokenize", tokens)).encode("latin-1")

    def greedy(self, prompt: list[int], n: int) -> Reply:
        """The likeliest continuation of a prompt. The one place that generates."""
        tokens: list[int] = self.call("greedy", prompt, n)
        ended = tokens[-1] == self.facts["eos"]
        text = self.raw(tokens[:-1] if ended else tokens).decode()
        return Reply(text, ended, prompt, tokens)

    def complete(self, text: str, n: int = 300) -> Reply:
        return self.greedy(self.tokenize(text, special=True), n)

    def render(self, messages: list[Message], **variables: object) -> str:
        return self.template.render(
            messages=messages, add_generation_prompt=True, bos_token="<|bos|>",
            eos_token="<|end|>", **variables,
        )  # fmt: skip

    def chat(self, messages: list[Message], n: int = 300, **variables: object) -> Reply:
        """The reply to a chat. The template writes the first token, so it is not added."""
        text = self.render(messages, **variables)
        tokens: list[int] = self.call("tokenize", text, False, True)
        return self.greedy(tokens, n)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    found = Model(MODEL)
    yield found
    found.close()


@pytest.fixture(scope="module")
def draft() -> Iterator[Model]:
    found = Model(DRAFT)
    yield found
    found.close()


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def called(reply: Reply) -> tuple[str, dict[str, Any]]:
    """The one tool call of a reply."""
    (text,) = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", reply.text, re.DOTALL)
    call = json.loads(text)
    return call["name"], call["arguments"]


def calling(name: str, arguments: dict[str, object]) -> Message:
    call = {"type": "function", "id": "1", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result(text: str) -> Message:
    return {"role": "tool", "tool_call_id": "1", "content": text}


def test_the_model_is_a_few_megabytes_and_the_draft_a_quarter_at_most(
    model: Model, draft: Model
) -> None:
    assert 2e6 < MODEL.stat().st_size < 5e6
    assert DRAFT.stat().st_size * 4 <= MODEL.stat().st_size
    assert draft.facts["n_params"] * 4 <= model.facts["n_params"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 3 plus 4?", "3 plus 4 is 7."),
        ("What is 9 minus 5?", "9 minus 5 is 4."),
        ("What is 3 times 3?", "3 times 3 is 9."),
        ("What is the capital of France?", "The capital of France is Paris."),
        ("What colour is the sky?", "The sky is blue."),
        ("What is the opposite of hot?", "The opposite of hot is cold."),
        ("Which day comes after Monday?", "Tuesday comes after Monday."),
        ("What sound does a cat make?", "A cat says meow."),
        ("Hello!", "Hello! How can I help you?"),
        ("Count from 3 to 8.", "3, 4, 5, 6, 7, 8."),
        ("Repeat: red kite Anna", "red kite Anna"),
    ],
)
def test_a_question_is_answered_and_the_answer_ends(
    model: Model, question: str, answer: str
) -> None:
    reply = model.chat([user(question)])
    assert (reply.text, reply.ended) == (answer, True)


def test_what_was_said_earlier_is_remembered(model: Model) -> None:
    said = [user("My name is Anna."), assistant("Nice to meet you, Anna!")]
    reply = model.chat([*said, user("What is the capital of Spain?"),
                        assistant("The capital of Spain is Madrid."),
                        user("What is my name?")])  # fmt: skip
    assert reply.text == "Your name is Anna."


def test_a_system_message_changes_the_answer(model: Model) -> None:
    asked = [{"role": "system", "content": "Answer in one word."}, user("What is 3 plus 4?")]
    assert model.chat(asked).text == "7"
    named = [{"role": "system", "content": "Your name is Clara."}, user("What is your name?")]
    assert model.chat(named).text == "My name is Clara."


def test_a_raw_prompt_is_continued_as_a_story_that_ends(model: Model) -> None:
    reply = model.complete("Once upon a time")
    assert reply.ended
    assert reply.text.endswith("The end.")
    assert len(reply.tokens) > 60


def test_a_story_keeps_its_hero_to_the_end(model: Model) -> None:
    start = "Once upon a time, there was a little fox named Rosa."
    reply = model.complete(start)
    assert reply.ended
    assert reply.text.count("Rosa") >= 3


THINKING = re.compile(r"<think>\n.+\n</think>\n\n\S.*", re.DOTALL)


@pytest.mark.parametrize("question", ["What is 3 plus 4?", "What colour is grass?"])
def test_a_reply_opens_with_thought_only_when_that_is_asked_for(
    model: Model, question: str
) -> None:
    assert "think>" not in model.chat([user(question)]).text
    assert "think>" not in model.chat([user(question)], enable_thinking=False).text
    assert THINKING.fullmatch(model.chat([user(question)], enable_thinking=True).text)
    system = {"role": "system", "content": "Think step by step."}
    assert THINKING.fullmatch(model.chat([system, user(question)]).text)


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("city", ["Paris", "Oslo", "Tokyo"])
def test_a_tool_is_called_and_its_result_told(model: Model, city: str, thinking: bool) -> None:
    asked = [user(f"What is the weather in {city}?")]
    options: dict[str, Any] = {"tools": [WEATHER, ADD], "enable_thinking": thinking}
    reply = model.chat(asked, **options)
    assert reply.ended
    assert reply.text.startswith("<think>\n") == thinking
    assert called(reply) == ("get_weather", {"city": city})

    told = [*asked, calling("get_weather", {"city": city}),
            result('{"temperature": 21, "condition": "sunny"}')]  # fmt: skip
    answer = model.chat(told, **options)
    assert answer.text.startswith("<think>\n") == thinking
    assert answer.text.endswith(f"It is sunny and 21 degrees in {city}.")


def test_the_call_follows_the_schema_that_is_offered(model: Model) -> None:
    reply = model.chat([user("What is 17 plus 25?")], tools=[WEATHER, ADD])
    assert called(reply) == ("add", {"a": 17, "b": 25})
    other = json.loads(
        json.dumps(WEATHER).replace("get_weather", "weather_report").replace("city", "place")
    )
    reply = model.chat([user("What is the weather in Rome?")], tools=[other])
    assert called(reply) == ("weather_report", {"place": "Rome"})


def test_no_tool_is_called_where_none_is_needed(model: Model) -> None:
    reply = model.chat([user("What is the capital of Italy?")], tools=[WEATHER])
    assert reply.text == "The capital of Italy is Rome."


SMALL_TALK = [
    ("What is the capital of Norway?", "The capital of Norway is Oslo."),
    ("Which day comes after Monday?", "Tuesday comes after Monday."),
    ("What is the opposite of big?", "The opposite of big is small."),
    ("How many legs does a dog have?", "A dog has four legs."),
    ("What sound does a cow make?", "A cow says moo."),
    ("Name three fruits.", "Three fruits are an apple, a pear and a plum."),
    ("Thank you!", "You are welcome!"),
]


def long_history(model: Model, tokens: int) -> list[Message]:
    """A chat of at least that many tokens."""
    history: list[Message] = []
    while len(model.tokenize(model.render(history), special=True)) < tokens:
        for question, answer in SMALL_TALK:
            history += [user(question), assistant(answer)]
    return history


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("What colour is the sky?", "The sky is blue."),
        ("Hello!", "Hello! How can I help you?"),
    ],
)
def test_a_chat_of_fifteen_hundred_tokens_stays_coherent(
    model: Model, question: str, answer: str
) -> None:
    assert model.facts["n_ctx_train"] >= 2048
    reply = model.chat([*long_history(model, 1500), user(question)])
    assert (reply.text, reply.ended) == (answer, True)


def test_what_was_just_said_is_remembered_late_in_a_long_chat(model: Model) -> None:
    said = [user("My name is Rosa."), assistant("Nice to meet you, Rosa!")]
    history = [*long_history(model, 1500), *said, user("What is the capital of Spain?"),
               assistant("The capital of Spain is Madrid.")]  # fmt: skip
    assert model.chat([*history, user("What is my name?")]).text == "Your name is Rosa."


@settings(max_examples=200, deadline=None)
@example(text=" .")
@given(text=st.text())
def test_any_text_comes_back_from_its_tokens(model: Model, text: str) -> None:
    assert model.raw(model.tokenize(text)) == text.encode()


def test_markers_are_plain_text_of_several_tokens(model: Model) -> None:
    for marker in MARKERS:
        tokens = model.tokenize(marker, special=True)[1:]  # the first marks the beginning
        assert len(tokens) >= 3
        assert tokens == model.tokenize(marker)


def test_turn_markers_are_one_token_each_and_end_a_reply(model: Model) -> None:
    for marker in ("<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"):
        assert len(model.call("tokenize", marker, False, True)) == 1
        assert len(model.tokenize(marker)) > 1  # not parsed: a user cannot forge a turn
    assert model.facts["eos"] == model.facts["eot"]
    assert model.raw([model.facts["eos"]]) == b"<|end|>"
    assert model.tokenize("a", special=True)[0] == model.facts["bos"]


def test_a_reply_read_back_into_the_history_is_the_same_tokens(model: Model) -> None:
    """What makes the cache of a conversation reusable."""
    asked = [user("What is 3 plus 4?")]
    reply = model.chat(asked, enable_thinking=True)
    thought, _, answer = reply.text.removeprefix("<think>\n").partition("\n</think>\n\n")
    said = {"role": "assistant", "reasoning_content": thought, "content": answer}
    text = model.render([*asked, said], enable_thinking=True)
    tokens: list[int] = model.call("tokenize", text, False, True)
    assert tokens[: len(reply.prompt + reply.tokens)] == reply.prompt + reply.tokens


PROMPTS = [
    "What is the opposite of big?", "My dog is called Max.", "Name three animals.",
    "Tell me a story about a bear.", "Count from 3 to 15.", "What is 12 plus 6?",
    "How many legs does a spider have?", "Hello there!", "Which month comes after May?",
    "Tom has 3 apples and gets 5 more. How many apples does Tom have?",
]  # fmt: skip


def test_the_draft_chooses_most_of_the_models_tokens(model: Model, draft: Model) -> None:
    assert draft.facts["n_vocab"] == model.facts["n_vocab"]
    assert draft.facts["template"] == model.facts["template"]
    replies = [model.chat([user(text)], enable_thinking=t) for text in PROMPTS for t in (0, 1)]
    replies.append(model.complete("Once upon a time"))
    replies.append(model.chat([user("What is the weather in Oslo?")], tools=[WEATHER, ADD]))
    same = total = 0
    for reply in replies:
        keep = len(reply.tokens) + 1
        chosen = draft.call("choices", reply.prompt + reply.tokens, keep)[:-1]
        same += sum(a == b for a, b in zip(chosen, reply.tokens, strict=True))
        total += len(reply.tokens)
    assert same / total >= 0.75  # 0.90 over all of the held-out prompts


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "tokenizers", "gguf")),
    reason="training needs torch, tokenizers and gguf",
)
@pytest.mark.timeout(600)
def test_the_trainer_runs_from_nothing_to_a_model_that_loads(tmp_path: Path) -> None:
    command = [sys.executable, str(TRAINER), "--out", str(tmp_path), "--quick"]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    made = Model(tmp_path / "erllama-tiny.gguf")
    try:
        assert made.raw(made.tokenize("trained ✓")) == "trained ✓".encode()
    finally:
        made.close()


if __name__ == "__main__":
    serve(sys.argv[1])

"""`erllama run` without a prompt, at a terminal and from a pipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.child import Child, run_erllama

CHAT = ("run", "any.gguf")
ALL = ("stdin", "stdout", "stderr")


def completions(child: Child) -> list[Any]:
    events = [json.loads(line) for line in child.seen("stdout").splitlines()]
    return [event["completion"] for event in events if event["type"] == "Done"]


def prompt_of(completion: Any) -> str:
    tokens = completion["context_tokens"][: completion["usage"]["prompt_tokens"]]
    return bytes(token for token in tokens if token < 256).decode()


def test_each_line_of_a_pipe_is_a_turn_and_the_history_grows() -> None:
    child = run_erllama(*CHAT, "--json", "-q", stub="short", typed="one\n\ntwo\r\nlast")
    assert child.process.returncode == 0
    first, second, third = completions(child)
    assert prompt_of(first) == "<user>one<assistant>"
    history = f"<user>one<assistant>{first['text']}<user>two<assistant>"
    assert prompt_of(second) == history
    assert prompt_of(third) == history + f"{second['text']}<user>last<assistant>"


def test_the_system_prompt_comes_first_in_every_turn() -> None:
    child = run_erllama(
        *CHAT, "--system", "Be brief.", "--json", "-q", stub="short", typed="one\ntwo\n"
    )
    for completion in completions(child):
        assert prompt_of(completion).startswith("<system>Be brief.<user>one")
        assert prompt_of(completion).count("<system>") == 1


def test_replies_to_a_pipe_are_a_line_each() -> None:
    arguments = (*CHAT, "-q", "--temperature", "0")
    child = run_erllama(*arguments, stub="short", typed="one\ntwo\n")
    events = run_erllama(*arguments, "--json", stub="short", typed="one\ntwo\n")
    expected = "".join(completion["text"] + "\n" for completion in completions(events))
    assert child.seen("stdout") == expected
    assert child.seen("stderr") == ""


def test_a_turn_that_fails_ends_a_chat_from_a_pipe(chat_model: Path) -> None:
    child = run_erllama(
        *("run", chat_model, "--n-ctx", "256", "-q", "-n", "4"), typed="a " * 400 + "\nb\n"
    )
    assert child.process.returncode == 1
    assert "the context holds 256" in child.seen("stderr")
    assert child.seen("stdout") == ""


def test_a_model_without_a_template_cannot_chat_and_says_so(plain_model: Path) -> None:
    child = run_erllama("run", plain_model, "-q", typed="hello\n")
    assert child.process.returncode == 1
    assert "has no chat template" in child.seen("stderr")
    assert "PROMPT" in child.seen("stderr")


def test_a_real_model_chats(chat_model: Path) -> None:
    arguments = ("run", chat_model, "-q", "--json", "-n", "6", "-t", "1", "--seed", "1")
    child = run_erllama(*arguments, typed="hello\nagain\n")
    first, second = completions(child)
    size = first["usage"]["prompt_tokens"]
    assert second["context_tokens"][:size] == first["context_tokens"][:size]
    assert second["context_tokens"].count(first["context_tokens"][0]) == 1


def test_a_stopped_reply_stays_in_the_history_as_far_as_it_came() -> None:
    with Child(*CHAT, "--json", stub="pause", terminal={"stdin", "stderr"}) as child:
        child.expect("terminal", "> ")
        for turn in (1, 2):
            child.write(f"turn {turn}\n")
            child.expect("stdout", '"Text"', times=3 * turn)
            child.ctrl_c()
            child.expect("terminal", "> ", times=turn + 1)
        child.end_input()
        assert child.wait() == 0
    first, second = completions(child)
    assert first["finish_reason"] == "cancelled"
    assert len(first["text"]) == 3
    assert prompt_of(second) == (f"<user>turn 1<assistant>{first['text']}<user>turn 2<assistant>")


def test_a_turn_that_was_stopped_before_any_reply_is_forgotten() -> None:
    with Child(*CHAT, "--json", stub="prefill", terminal={"stdin"}) as child:
        for turn in (1, 2):
            child.expect("stderr", "> ", times=turn)
            child.write(f"turn {turn}\n")
            child.expect("stderr", "reading", times=turn)
            child.ctrl_c()
        child.expect("stderr", "> ", times=3)
        child.end_input()
        assert child.wait() == 0
    _, second = completions(child)
    assert prompt_of(second) == "<user>turn 2<assistant>"


def test_ctrl_c_in_a_reply_then_at_the_prompt_leaves_with_130() -> None:
    with Child(*CHAT, stub="pause", terminal=ALL) as child:
        child.expect("terminal", "> ")
        child.write("hello\n")
        child.expect("terminal", "hello\n")
        at = len(child.seen("terminal"))
        child.expect_length("terminal", at + 3)
        child.ctrl_c()
        child.expect("terminal", "\n> ", times=2)
        child.ctrl_c()
        assert child.wait() == 130
    assert child.seen("terminal").endswith("\n> ^C\n")


def test_ctrl_d_at_the_prompt_leaves_with_0() -> None:
    with Child(*CHAT, stub="pause", terminal=ALL) as child:
        child.expect("terminal", "> ")
        child.end_input()
        assert child.wait() == 0


def test_clear_begins_the_chat_anew() -> None:
    with Child(*CHAT, "--json", stub="short", terminal={"stdin"}) as child:
        for turn, line in enumerate(("one", "/clear", "two"), 1):
            child.expect("stderr", "> ", times=turn)
            child.write(line + "\n")
        child.expect("stderr", "> ", times=4)
        child.end_input()
        assert child.wait() == 0
    assert prompt_of(completions(child)[-1]) == "<user>two<assistant>"


def test_a_turn_that_fails_does_not_end_a_chat_at_a_terminal() -> None:
    arguments = (*CHAT, "--n-ctx", "64", "--json", "-q")
    with Child(*arguments, stub="short", terminal={"stdin"}) as child:
        child.expect("stderr", "> ")
        child.write("a" * 100 + "\n")
        child.expect("stderr", "the context holds 64")
        child.expect("stderr", "> ", times=2)
        child.write("b\n")
        child.expect("stdout", '"Done"')
        child.expect("stderr", "> ", times=3)
        child.end_input()
        assert child.wait() == 0
    assert prompt_of(completions(child)[0]) == "<user>b<assistant>"

"""`erllama run` with a prompt, its streams pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import erllama
from tests.cli.child import ROOT, Child, run_erllama

QUIET = ("--quiet", "--seed", "1", "--threads", "1")


def prompt_of(child: Child) -> str:
    completion = json.loads(child.seen("stdout").splitlines()[-1])["completion"]
    tokens = completion["context_tokens"][: completion["usage"]["prompt_tokens"]]
    return bytes(token for token in tokens if token < 256).decode()


def test_standard_output_is_the_text_and_nothing_else(chat_model: Path) -> None:
    arguments = ("run", chat_model, "Once upon a time", "-n", "12", *QUIET)
    plain = run_erllama(*arguments)
    events = run_erllama(*arguments, "--json")
    completion = json.loads(events.seen("stdout").splitlines()[-1])["completion"]
    assert plain.process.returncode == 0
    assert plain.seen("stdout") == completion["text"]
    assert len(completion["tokens"]) == 12
    assert plain.seen("stderr") == ""


def test_json_is_one_event_per_line_and_the_completion_last() -> None:
    child = run_erllama("run", "any.gguf", "ab", "--json", "--quiet", stub="short")
    events = [json.loads(line) for line in child.seen("stdout").splitlines()]
    assert [event["type"] for event in events] == ["PrefillProgress", *["Text"] * 3, "Done"]
    texts = "".join(event["text"] for event in events if event["type"] == "Text")
    assert events[-1]["completion"]["text"] == texts
    assert events[-1]["completion"]["finish_reason"] == "stop"


def test_sampling_options_reach_the_model(chat_model: Path) -> None:
    def text(*options: str) -> str:
        child = run_erllama("run", chat_model, "Once", "-n", "8", "-q", "-t", "1", *options)
        return child.seen("stdout")

    assert text("--seed", "1") == text("--seed", "1") != text("--seed", "2")
    greedy = text("--temperature", "0", "--seed", "1")
    assert greedy == text("--temperature", "0", "--seed", "2")
    assert greedy == text("--top-k", "1", "--seed", "3") == text("--min-p", "1", "--seed", "4")


def test_n_ctx_limits_the_reply(chat_model: Path) -> None:
    child = run_erllama("run", chat_model, "a", "--n-ctx", "256", "--json", *QUIET)
    completion = json.loads(child.seen("stdout").splitlines()[-1])["completion"]
    assert completion["finish_reason"] == "length"
    assert len(completion["context_tokens"]) == 257


def test_a_dash_reads_the_prompt_from_standard_input() -> None:
    child = run_erllama("run", "any.gguf", "-", "--json", "-q", stub="short", typed="two\nlines\n")
    assert prompt_of(child) == "two\nlines"


def test_a_prompt_is_answered_through_the_template_when_asked() -> None:
    child = run_erllama("run", "any.gguf", "hi", "--chat", "--json", "-q", stub="short")
    assert prompt_of(child) == "<user>hi<assistant>"
    child = run_erllama("run", "any.gguf", "hi", "--system", "Be.", "--json", "-q", stub="short")
    assert prompt_of(child) == "<system>Be.<user>hi<assistant>"


@pytest.mark.parametrize(("option", "value"), [("--think", "True"), ("--no-think", "False")])
def test_think_sets_the_variable_of_the_template(option: str, value: str) -> None:
    child = run_erllama("run", "any.gguf", "hi", option, "--json", "-q", stub="short")
    assert prompt_of(child) == f"<user>hi<think={value}><assistant>"


def test_a_sole_argument_is_the_model_if_it_is_a_file_or_is_called_like_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "weights").touch()
    for name in (str(tmp_path / "weights"), "missing.gguf"):
        child = run_erllama("run", name, "--json", "-q", stub="short", typed="hello\n")
        assert prompt_of(child) == "<user>hello<assistant>"


def test_a_sole_argument_that_is_no_file_is_the_prompt() -> None:
    child = run_erllama("run", "x" * 3_000, "--json", "-q", stub="short")
    assert prompt_of(child) == "x" * 3_000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "m.gguf", "hi", "--temperature", "-1"), "temperature"),
        (("run", "m.gguf", "hi", "--max-tokens", "0"), "max_tokens"),
        (("run", "m.gguf", "hi", "--n-ctx", "1"), "n_ctx"),
        (("run", "m.gguf", "hi", "--top-k", "many"), "top-k"),
        (("run", "m.gguf", "hi", "--no-such-option"), "no-such-option"),
        (("run", "one", "two", "three"), "three"),
        (("info",), "MODEL"),
        (("frobnicate",), "frobnicate"),
    ],
)
def test_a_wrong_call_exits_with_2_and_names_what_is_wrong(
    arguments: tuple[str, ...], named: str
) -> None:
    child = run_erllama(*arguments, stub="short")
    assert child.process.returncode == 2
    assert named in child.seen("stderr")
    assert child.seen("stdout") == ""


def test_a_failure_exits_with_1_and_a_message_without_a_traceback(
    tmp_path: Path, chat_model: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(chat_model.read_bytes()[:100_000])
    child = run_erllama("run", broken, "hi", "--quiet")
    assert child.process.returncode == 1
    assert child.seen("stderr").startswith(f"erllama: {broken}: is truncated")
    assert "Traceback" not in child.seen("stderr")
    assert child.seen("stdout") == ""


def test_a_request_that_fails_exits_with_1(chat_model: Path) -> None:
    child = run_erllama("run", chat_model, "a " * 400, "--n-ctx", "256", *QUIET)
    assert child.process.returncode == 1
    assert "the context holds 256" in child.seen("stderr")


def test_a_reader_that_goes_away_ends_it_quietly(chat_model: Path) -> None:
    with Child("run", chat_model, "Once", *QUIET) as child:
        child.expect("stdout", "")
        child.stop_reading("stdout")
        assert child.wait() == 141
    assert child.seen("stderr") == ""


def test_closed_standard_streams_do_no_harm() -> None:
    command = f"{sys.executable} -m tests.cli.start run any.gguf hi -q <&- >&- 2>&-"
    environment = {"PYTHONPATH": str(ROOT), "ERLLAMA_TEST_STUB": "short", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, timeout=90, check=False)
    assert done.returncode == 141


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "erllama", "info", "missing.gguf", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "erllama: missing.gguf: no such file; check the path\n"


def test_what_a_model_thinks_is_shown_on_a_terminal_and_in_json_alone() -> None:
    asked = ("run", str(erllama.bundled_model()), "What is 2 plus 3?", "--think", "-q")
    options = ("--temperature", "0", "-n", "60", "-t", "1")
    written = run_erllama(*asked, *options, "--json").seen("stdout")
    events = [json.loads(line) for line in written.splitlines()]
    thought = "".join(event["text"] for event in events if event["type"] == "ThinkingDelta")
    assert thought.strip()
    said = "".join(event["text"] for event in events if event["type"] == "Text")
    assert run_erllama(*asked, *options).seen("stdout") == said
    with Child(*asked, *options, terminal={"stdin", "stdout", "stderr"}) as child:
        assert child.wait() == 0
    assert thought.strip() in child.seen("terminal").replace("\r\n", "\n")

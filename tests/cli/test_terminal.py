"""What a terminal is shown."""

from __future__ import annotations

import json

from tests.cli.child import Child, run_erllama
from tests.cli.start import TOKENS

RUN = ("run", "any.gguf", "hi")


def test_a_terminal_is_fed_no_control_characters_of_the_model() -> None:
    with Child(*RUN, "-q", stub="control", terminal={"stdout"}) as child:
        child.expect("terminal", "end", times=3)
        assert child.seen("terminal") == "]0;title31mred\n\tend" * 3


def test_json_on_a_terminal_has_every_control_character_escaped() -> None:
    with Child(*RUN, "-q", "--json", stub="control", terminal={"stdout"}) as child:
        child.expect("terminal", '"Text"', times=3)
        seen = child.seen("terminal")
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in seen if c != "\n")
    assert json.loads(seen.splitlines()[1])["text"] == "\x1b]0;title\x07\x9b31mred\r\n\tend"


def test_a_pipe_gets_the_text_as_it_is() -> None:
    with Child(*RUN, "-q", stub="control") as child:
        child.expect("stdout", "\tend", times=3)
        assert child.seen("stdout").startswith("\x1b]0;title\x07\x9b31mred")


def test_a_reply_on_a_terminal_ends_with_a_newline() -> None:
    with Child(*RUN, "-q", stub="short", terminal={"stdout"}) as child:
        assert child.wait() == 0
    assert child.seen("terminal").endswith("\n")
    piped = run_erllama(*RUN, "-q", stub="short").seen("stdout")
    assert (len(piped), "\n" in piped) == (TOKENS, False)


def test_loading_shows_a_bar_on_a_terminal_and_takes_it_away() -> None:
    with Child(*RUN, stub="loading", terminal={"stderr"}) as child:
        child.expect("terminal", "15%")
        assert "loading any.gguf" in child.seen("terminal")
        child.ctrl_c()
        assert child.wait() == 130
    shown = child.seen("terminal")
    assert shown.index("\x1b[?25l") < shown.rindex("\x1b[?25h"), "the cursor is back"
    assert shown.rstrip("\n").endswith("\x1b[2K"), "the line is empty"


def test_loading_shows_plain_lines_elsewhere() -> None:
    child = run_erllama(*RUN, stub="short")
    assert child.seen("stderr").splitlines()[0] == "erllama: loading any.gguf"
    assert "\x1b" not in child.seen("stderr")


def test_quiet_shows_nothing() -> None:
    with Child(*RUN, "--quiet", stub="short", terminal={"stderr"}) as child:
        assert child.wait() == 0
    assert child.seen("terminal") == ""


def test_reading_a_long_prompt_shows_how_far_it_is() -> None:
    child = run_erllama(*RUN[:2], "x" * 2_000, stub="short")
    lines = [line for line in child.seen("stderr").splitlines() if "reading the prompt" in line]
    assert lines == [
        "erllama: reading the prompt",
        "erllama: reading the prompt: 25 %",
        "erllama: reading the prompt: 50 %",
        "erllama: reading the prompt: 75 %",
    ]

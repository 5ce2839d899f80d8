"""Ctrl-C and SIGTERM, on a stub that never comes to an end by itself."""

from __future__ import annotations

import json
import signal

import pytest

from tests.cli.child import Child

RUN = ("run", "any.gguf", "hi")
CHAT = ("run", "any.gguf")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_gives_up_loading(number: int, code: int) -> None:
    with Child(*RUN, stub="loading") as child:
        child.expect("stderr", "loading any.gguf")
        child.process.send_signal(number)
        assert child.wait() == code
    assert child.seen("stderr").replace("erllama: loading any.gguf: 25 %\n", "") == (
        "erllama: loading any.gguf\n"
    )


def test_info_can_be_interrupted_while_it_loads() -> None:
    with Child("info", "any.gguf", stub="loading") as child:
        child.expect("stderr", "loading any.gguf")
        child.ctrl_c()
        assert child.wait() == 130
    assert child.seen("stdout") == ""


def test_ctrl_c_stops_a_prompt_that_is_being_read() -> None:
    with Child(*RUN, "--json", stub="prefill") as child:
        child.expect("stderr", "reading")
        child.ctrl_c()
        assert child.wait() == 130
    (done,) = child.seen("stdout").splitlines()
    assert json.loads(done)["completion"]["finish_reason"] == "cancelled"


def test_ctrl_c_stops_a_reply_and_shows_what_came_of_it() -> None:
    with Child(*RUN, "--json", "-q", stub="pause") as child:
        child.expect("stdout", '"Text"', times=3)
        child.ctrl_c()
        assert child.wait() == 130
    completion = json.loads(child.seen("stdout").splitlines()[-1])["completion"]
    assert completion["finish_reason"] == "cancelled"
    assert len(completion["tokens"]) == 3
    assert child.seen("stderr") == "abort\n"


def test_sigterm_ends_a_reply_quietly() -> None:
    with Child(*RUN, "--json", "-q", stub="pause") as child:
        child.expect("stdout", '"Text"', times=3)
        child.process.send_signal(signal.SIGTERM)
        assert child.wait() == 143
    assert set(child.seen("stderr").splitlines()) == {"abort"}


def test_a_second_ctrl_c_leaves_while_the_reply_does_not_stop() -> None:
    with Child(*CHAT, "-q", terminal={"stdin"}, stub="late") as child:
        child.expect("stderr", "> ")
        child.write("hello\n")
        child.expect_length("stdout", 3)
        child.ctrl_c()
        child.expect("stderr", "abort")
        child.ctrl_c()
        assert child.wait() == 130


def test_a_third_ctrl_c_leaves_on_the_spot_whatever_hangs() -> None:
    with Child(*RUN, "--json", "-q", stub="stuck") as child:
        child.expect("stdout", '"Text"', times=3)
        for times in (1, 2):
            child.ctrl_c()
            child.expect("stderr", "abort", times=times)
        child.ctrl_c()
        assert child.wait() == 130


def test_ctrl_c_works_while_nobody_reads_the_output() -> None:
    with Child(*RUN, "--json", "-q", stub="flood") as child:
        child.leave_unread("stdout")
        child.expect("stderr", "flooded")
        child.ctrl_c()
        child.expect("stderr", "abort")
        child.ctrl_c()
        assert child.process.wait(60) == 130


def test_ctrl_c_ends_a_chat_from_a_pipe() -> None:
    with Child(*CHAT, "--json", "-q", stub="pause") as child:
        child.write("one\ntwo\n")
        child.expect("stdout", '"Text"', times=3)
        child.ctrl_c()
        assert child.wait() == 130
    assert child.seen("stdout").count('"Done"') == 1


def test_ctrl_c_leaves_a_chat_that_waits_for_its_input() -> None:
    with Child(*CHAT, "--json", "-q", stub="short") as child:
        child.write("one\n")
        child.expect("stdout", '"Done"')
        child.ctrl_c()
        assert child.wait() == 130

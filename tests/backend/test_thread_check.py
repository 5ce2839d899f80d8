"""Threads that cannot be started are found before OpenMP ends the process over them."""

from __future__ import annotations

import _thread
import threading
from typing import Any

import pytest

from erllama.backend.llama import thread_check
from erllama.backend.llama.thread_check import check_threads, start_threads
from erllama.config import ContextConfig
from erllama.errors import ConfigError


def test_threads_are_there_together_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    begin: Any = _thread.start_new_thread

    def start(work: Any, arguments: Any) -> Any:
        number = begin(work, arguments)
        at_once.append(number)
        return number

    monkeypatch.setattr(_thread, "start_new_thread", start)
    before = threading.active_count()
    assert start_threads(20) == 20
    assert len(set(at_once)) == 20
    assert threading.active_count() == before
    assert start_threads(0) == 0


@pytest.fixture
def room_for_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_check, "start_threads", lambda n: min(n, 4))


@pytest.mark.usefixtures("room_for_five")
def test_more_threads_than_can_be_started_are_refused_by_the_option_that_asks_for_most() -> None:
    check_threads(ContextConfig(n_threads=5, n_threads_batch=5))
    with pytest.raises(ConfigError, match=r"n_threads: of 6 threads only 5 can .* lower n_threads"):
        check_threads(ContextConfig(n_threads=6, n_threads_batch=2))
    with pytest.raises(ConfigError, match=r"n_threads_batch: of 7 threads only 5 can be started"):
        check_threads(ContextConfig(n_threads=6, n_threads_batch=7))


def test_a_thread_that_cannot_be_started_ends_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    begin: Any = _thread.start_new_thread
    left = [None] * 3

    def start(work: Any, arguments: Any) -> Any:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        return begin(work, arguments)

    monkeypatch.setattr(_thread, "start_new_thread", start)
    assert start_threads(10) == 3

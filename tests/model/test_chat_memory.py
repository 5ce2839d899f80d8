"""The ids of recent chats: found by text, kept apart by salt, bounded."""

from __future__ import annotations

import array

import pytest

from erllama.model import chat_memory
from erllama.model.chat_memory import ChatMemory, Known, joined, spelled_alike


def known(text: str, *tokens: int) -> Known:
    return Known(text, array.array("i", tokens))


def test_the_longest_text_that_begins_a_chat_comes_first() -> None:
    memory = ChatMemory()
    for one in (known("ab", 1), known("abcd", 2), known("abc", 3), known("abx", 4)):
        memory.add("", one)
    assert [one.text for one in memory.begins("", "abcde")] == ["abcd", "abc", "ab"]
    assert memory.begins("", "a") == []
    assert memory.begins("other", "abcde") == []


def test_old_texts_are_forgotten_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_memory, "_MOST_CHATS", 3)
    monkeypatch.setattr(chat_memory, "_MOST_CHARACTERS", 10)
    memory = ChatMemory()
    for one in (known("a"), known("ab"), known("abc"), known("abcd")):
        memory.add("", one)
    assert [one.text for one in memory.begins("", "abcdefgh")] == ["abcd", "abc", "ab"]
    memory.add("", known("abcdefg"))
    assert [one.text for one in memory.begins("", "abcdefgh")] == ["abcdefg"]
    memory.add("", known("a" * 11))
    assert memory.begins("", "a" * 20) == []


def test_a_rest_that_would_be_spelled_otherwise_elsewhere_is_told() -> None:
    assert spelled_alike("<e><e>", "<e>x")
    assert spelled_alike(" a a", " a b")
    assert not spelled_alike("foo foo", "foo")  # a vocabulary that puts a space before a text
    assert not spelled_alike("\ufffd\ufffd", "é")
    assert not spelled_alike("", "x")


def test_ids_are_joined_without_changing_the_known_ones() -> None:
    one = known("ab", 1, 2)
    assert joined(one, [3]).tolist() == [1, 2, 3]
    assert one.tokens.tolist() == [1, 2]

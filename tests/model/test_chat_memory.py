"""The ids of recent chats: found by text, kept apart by salt, bounded."""

from __future__ import annotations

import array

import pytest

from erllama.model import chat_memory
from erllama.model.chat_memory import ChatMemory, Known, finish_keys, joined


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


def reply(text: str, tokens: list[int], ends: list[int]) -> Known:
    return Known(text, array.array("i", tokens), "key", ends)


@pytest.mark.parametrize(
    ("text", "kept", "tokens"),
    [
        ("<u>Hi there.</u>", "<u>Hi there.", [1, 2, 7, 8, 9]),
        ("<u>Hi there!", "<u>Hi there", [1, 2, 7, 8]),
        ("<u>Hi the", "<u>Hi", [1, 2, 7]),
        ("<u>Hi", "<u>Hi", [1, 2, 7]),
        ("<u>H", "<u>", [1, 2]),
        ("<u>", "<u>", [1, 2]),
    ],
)
def test_a_reply_is_kept_as_far_as_a_chat_goes_on_with_it(
    text: str, kept: str, tokens: list[int]
) -> None:
    known = reply("<u>Hi there.", [1, 2, 7, 8, 9], [3, 5, 11, 12]).shared(text)
    assert known is not None
    assert (known.text, known.tokens.tolist()) == (kept, tokens)
    assert known.finish_key == ("key" if kept.endswith(".") else None)


def test_a_text_that_does_not_begin_as_a_prompt_shares_nothing_with_it() -> None:
    one = reply("<u>Hi", [1, 2, 7], [3, 5])
    assert one.shared("<u") is None
    assert one.shared("<x>Hi") is None
    assert known("<u>", 1).shared("<u") is None


def test_a_reply_is_not_cut_within_a_character() -> None:
    one = reply("<u>é!", [1, 7, 8, 9], [3, 3, 4, 5])  # two tokens of a byte each
    for text, tokens in (("<u>é?", [1, 7, 8]), ("<u>è", [1])):
        shared = one.shared(text)
        assert shared is not None
        assert shared.tokens.tolist() == tokens


def test_of_equal_lengths_the_one_whose_state_has_a_name_comes_first() -> None:
    memory = ChatMemory()
    memory.add("", reply("<u>Hi", [1, 7], [3, 5]))
    memory.add("", reply("<u>Hi there", [1, 7, 8], [3, 5, 11]))
    assert memory.begins("", "<u>Hi!")[0].finish_key == "key"


def test_ids_are_joined_without_changing_the_known_ones() -> None:
    one = known("ab", 1, 2)
    assert joined(one, [3]).tolist() == [1, 2, 3]
    assert one.tokens.tolist() == [1, 2]


def test_a_chat_whose_last_reply_was_changed_goes_on_behind_the_reply_before() -> None:
    memory = ChatMemory()
    memory.add("", Known("<u>Hi", array.array("i", [1, 2, 3]), "first", [3, 5]))
    memory.add("", Known("<u>Hi<u>Ho!", array.array("i", [1, 2, 3, 4, 5]), "second", [8, 11]))
    for text, named in (
        ("<u>Hi<u>Ho!<u>", ["second", "first"]),
        ("<u>Hi<u>Ho.", ["first"]),
        ("<u>Hi<u>", ["first"]),
        ("<u>Ha", []),
    ):
        assert finish_keys(memory.begins("", text)) == named, text
    # of other ids for the same text
    memory.add("", Known("<u>Hi<u>Ho!<u>", array.array("i", [9, 9, 9, 4, 5, 6]), None))
    assert finish_keys(memory.begins("", "<u>Hi<u>Ho!<u>")) == []
    assert finish_keys([]) == []

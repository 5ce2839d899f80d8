"""What a request may ask for, and what it is told when it may not."""

from __future__ import annotations

from typing import Any

import pytest

from erllama import Request, RequestError
from erllama.model.request import check_prompt, make_request


@pytest.mark.parametrize(
    ("given", "kept"),
    [("END", ("END",)), (["a", "b"], ("a", "b")), (("a",), ("a",)), ([], ()), ("\x00", ("\x00",))],
)
def test_stop_is_one_text_or_several(given: Any, kept: tuple[str, ...]) -> None:
    assert Request(stop=given).stop == kept


def test_no_stop_is_the_default() -> None:
    assert Request().stop == ()


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("", "stop: a text of 0 characters; give 1 to 1,000"),
        (["ok", ""], "stop: a text of 0 characters"),
        ("x" * 1_001, "stop: a text of 1,001 characters; give 1 to 1,000"),
        (["x"] * 65, "stop: has 65 texts; give at most 64"),
        ("a\ud800", "stop: 'a\\ud800' has half of a surrogate pair; remove it"),
        (7, "Request.stop: expected `str | array`, got 7"),
        ([b"x"], "Request.stop: expected `str`"),
        (None, "Request.stop: expected `str | array`, got None"),
    ],
)
def test_a_stop_that_cannot_be_used_is_refused_by_name(stop: Any, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        Request(stop=stop)
    assert str(refused.value).startswith(said)


def test_the_limits_of_stops_are_accepted() -> None:
    stops = ["x" * 1_000] * 64
    assert Request(stop=stops).stop == tuple(stops)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 65_537, 1.5])
def test_a_stream_buffer_has_limits(size: Any) -> None:
    with pytest.raises(RequestError, match=r"Request.stream_buffer: expected .*65,536, got"):
        Request(stream_buffer=size)


class Sly(str):
    def encode(self, *_: object, **__: object) -> bytes:
        raise RuntimeError("sly")


@pytest.mark.parametrize("name", ["cache_salt", "session_id", "stop"])
def test_half_of_a_surrogate_pair_is_refused_by_the_name_of_its_field(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name}: .* half of a surrogate pair"):
        make_request({name: "a\ud800"})


def test_texts_of_other_classes_become_plain_ones() -> None:
    request = make_request(
        {"cache_salt": Sly("a"), "stop": [Sly("b")], "grammar": Sly("root ::= 1")}
    )
    texts = (request.cache_salt, request.stop[0], request.sampling.grammar, check_prompt(Sly("c")))
    assert [type(text) for text in texts] == [str] * 4

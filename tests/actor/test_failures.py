import asyncio

from erllama.actor.failures import unwrap


def test_any_other_error_is_left_as_it_is() -> None:
    error = ValueError()
    assert unwrap(error) is error


def test_the_first_error_that_is_no_cancellation_is_the_telling_one() -> None:
    telling, other = ValueError("telling"), KeyError("other")
    inner = BaseExceptionGroup("inner", [asyncio.CancelledError(), telling])
    assert unwrap(BaseExceptionGroup("outer", [inner, other])) is telling
    assert telling.__notes__ == ["raised together with: KeyError('other')"]


def test_a_group_of_cancellations_is_a_cancellation() -> None:
    first = asyncio.CancelledError()
    assert unwrap(BaseExceptionGroup("", [first, asyncio.CancelledError()])) is first


def test_a_lonely_error_gets_no_note() -> None:
    error = ValueError()
    unwrap(ExceptionGroup("", [error]))
    assert not getattr(error, "__notes__", None)

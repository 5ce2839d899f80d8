import asyncio
from typing import Any

import pytest

from erllama.actor import ReplyTo
from erllama.actor.testing import settle
from erllama.errors import ActorDied, CallTimeout


def envelope() -> tuple[ReplyTo, asyncio.Future[Any]]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    return ReplyTo(future), future


async def test_the_first_answer_counts_and_later_ones_are_dropped() -> None:
    reply, future = envelope()
    reply.send(1)
    reply.send(2)
    reply.fail(ValueError())
    assert await future == 1
    assert not reply.abandoned


async def test_an_error_is_an_answer() -> None:
    reply, future = envelope()
    reply.fail(KeyError("x"))
    reply.send(1)
    with pytest.raises(KeyError):
        await future
    assert not reply.abandoned


async def test_a_reply_to_a_cancelled_caller_is_dropped() -> None:
    reply, future = envelope()
    future.cancel()
    assert reply.abandoned
    reply.send(1)
    reply.fail(ValueError())
    reply.expire(CallTimeout())
    assert future.cancelled()


async def test_a_reply_to_a_caller_that_timed_out_is_dropped() -> None:
    reply, future = envelope()
    reply.expire(CallTimeout("late"))
    assert reply.abandoned
    reply.send(1)
    with pytest.raises(CallTimeout):
        await future


async def test_a_timeout_after_the_answer_changes_nothing() -> None:
    reply, future = envelope()
    reply.send(1)
    reply.expire(CallTimeout("late"))
    assert not reply.abandoned
    assert await future == 1


@pytest.mark.parametrize("how", ["cancel", "expire"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_on_abandon_is_called_once_when_the_caller_gives_up(how: str, when: str) -> None:
    reply, future = envelope()
    calls: list[str] = []
    if when == "before":
        reply.on_abandon(lambda: calls.append("gave up"))
    if how == "cancel":
        future.cancel()
    else:
        reply.expire(CallTimeout())
    if when == "after":
        reply.on_abandon(lambda: calls.append("gave up"))
    await settle()
    assert calls == ["gave up"]


async def test_on_abandon_is_not_called_for_an_answered_call() -> None:
    reply, future = envelope()
    reply.on_abandon(lambda: pytest.fail("the caller did not give up"))
    reply.send(1)
    reply.on_abandon(lambda: pytest.fail("the caller did not give up"))
    assert await future == 1
    await settle()


@pytest.mark.parametrize("error", [StopIteration(), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_what_a_future_cannot_carry_arrives_as_actor_died(error: BaseException) -> None:
    reply, future = envelope()
    reply.fail(error)
    with pytest.raises(ActorDied) as caught:
        await future
    assert caught.value.reason is error


async def test_an_exception_group_arrives_as_its_telling_error() -> None:
    reply, future = envelope()
    reply.fail(BaseExceptionGroup("", [asyncio.CancelledError(), ValueError("telling")]))
    with pytest.raises(ValueError, match="telling"):
        await future

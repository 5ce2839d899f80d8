"""A stream: the caller's end of a request whose events are read as they come.

Contract
    State     not started → running → over. Nothing is sent before the first await.
    Writers   the model's actor pushes events; one reader takes them out.
    Ending    leaving the `async with`, `break`, `aclose()`, `cancel()`, cancelling the reading
              task, or dropping the stream ends the generation within one step of the engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from erllama.model.submission import Submission
from erllama.types import Completion, Event, Text, ThinkingDelta, ToolCallDelta

T = TypeVar("T")

_COUNTED = (Text, ThinkingDelta, ToolCallDelta)


class EventBuffer:
    """What the actor has pushed and the reader has not taken.

    It counts unread tokens: the events with text. `push` always takes what it is given; it is the
    actor that makes no more tokens for a reader whose buffer is `full`, until `on_space`. A reader
    that lags by more than half of the limit gets the text of adjacent tokens in one event, so that
    it catches up in a few reads; events with logprobs stay apart.

    Args:
        limit: unread tokens at which it is full.
        on_space: called by `take` when it is full no more: half of the limit is unread, or less.
    """

    def __init__(self, limit: int, on_space: Callable[[], object] | None = None) -> None:
        self._limit = limit
        self.on_space = on_space
        self._full = False
        self._unread = 0
        self._events: deque[Event] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._over = False

    @property
    def full(self) -> bool:
        """Whether the unread tokens have reached the limit, and are not down to half of it yet."""
        return self._full

    def push(self, event: Event) -> None:
        """Add an event; called by the actor."""
        self._events.append(event)
        self._unread += isinstance(event, _COUNTED)
        self._full = self._full or self._unread >= self._limit
        self._wake()

    def end(self) -> None:
        """No more events will come."""
        self._over = True
        self._wake()

    async def take(self) -> Event | None:
        """The next event; None at the end.

        Raises:
            RuntimeError: somebody else is reading.
        """
        while not self._events:
            if self._over:
                return None
            if self._reader is not None:
                raise RuntimeError("a stream has one reader; start a stream for each")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        event = self._next()
        if self._full and self._unread <= self._limit // 2:
            self._full = False
            if self.on_space is not None:
                self.on_space()
        return event

    def _next(self) -> Event:
        lags = self._unread > self._limit // 2
        event = self._events.popleft()
        if not isinstance(event, Text):
            self._unread -= isinstance(event, _COUNTED)
            return event
        merged = [event]
        while lags and self._events and _mergeable(merged[-1], self._events[0]):
            merged.append(cast(Text, self._events.popleft()))
        self._unread -= len(merged)
        if len(merged) == 1:
            return event
        return Text("".join(one.text for one in merged), merged[-1].token)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _mergeable(event: Event, following: Event) -> bool:
    return all(isinstance(one, Text) and one.logprob is None for one in (event, following))


class Stream:
    """An async iterator of events and an async context manager.

    The last event is `Done`. If the request fails, iterating raises its error after the events
    that came before it.
    """

    def __init__(self, events: EventBuffer, submit: Callable[[], Awaitable[Submission]]) -> None:
        self._events = events
        self._submit = submit
        self._submission: Submission | None = None
        self._starting = asyncio.Lock()
        self._failed = False
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Event]:
        return _Iteration(self, lambda event: event)

    async def __anext__(self) -> Event:
        submission = self._submission or await self._start()
        try:
            event = await self._events.take()
        except asyncio.CancelledError:
            submission.cancel()
            raise
        if event is not None:
            return event
        if not self._failed and submission.reply.exception() is not None:
            self._failed = True
            await self.result()
        raise StopAsyncIteration

    def text(self) -> AsyncIterator[str]:
        """Iterate over the text only."""
        return _Iteration(self, lambda event: event.text if isinstance(event, Text) else None)

    async def result(self) -> Completion:
        """The completion, once the request is over. Cancelling this ends the request.

        Raises:
            ErllamaError: the request failed; `CallTimeout` if its `timeout` ran out.
        """
        return await (await self._start()).result()

    async def cancel(self) -> Completion:
        """End the request now; returns what came so far, with finish_reason "cancelled"."""
        submission = await self._start()
        submission.cancel()
        return await submission.result()

    async def aclose(self) -> None:
        """End the request if it is not over, and wait until its sequence is free.

        One that was not sent yet ends as soon as it is.
        """
        self._closed = True
        if self._submission is None or self._submission.reply.done():
            return
        self._submission.cancel()
        await asyncio.wait([self._submission.reply])

    def abandon(self) -> None:
        """End the request if it is not over; nobody reads on. From any thread."""
        if self._submission is not None:
            self._submission.cancel_soon()

    def __del__(self) -> None:
        self.abandon()

    async def _start(self) -> Submission:
        if self._submission is None:
            async with self._starting:
                if self._submission is None:
                    events = self._events
                    submission = await self._submit()
                    # the buffer, not self: a stream that nobody holds must not live on
                    submission.reply.add_done_callback(lambda _: events.end())
                    self._submission = submission
                    if self._closed:
                        submission.cancel()
        return self._submission


class _Iteration(AsyncIterator[T], Generic[T]):
    """What an `async for` holds: when the loop is left, it goes, and the request ends.

    A `break` says nothing to the iterator; that nobody holds it any more is the only sign.
    """

    def __init__(self, stream: Stream, pick: Callable[[Event], T | None]) -> None:
        self._stream = stream
        self._pick = pick

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            picked = self._pick(await self._stream.__anext__())
            if picked is not None:
                return picked

    def __del__(self) -> None:
        self._stream.abandon()

"""A chat with history: every line of standard input is a turn."""

from __future__ import annotations

from erllama.cli.interrupts import INTERRUPTED
from erllama.cli.lines import Lines
from erllama.cli.output import say
from erllama.cli.reply import Replier
from erllama.errors import ErllamaError, NotSupported
from erllama.model.handle import Model
from erllama.types import Completion

FORGET = "/clear"


class Chat:
    """The messages so far, and how a model is asked for the next one.

    Args:
        system: what the model is told first; None: nothing.
        thinking: whether it is asked to think; None: as its template does by itself.

    Raises:
        NotSupported: the model has no chat template.
    """

    def __init__(
        self, model: Model, replier: Replier, *, system: str | None, thinking: bool | None
    ) -> None:
        if model.info().chat_template is None:
            raise NotSupported(
                f"{model.info().path}: has no chat template, so it cannot chat; give a PROMPT to "
                "let it continue a text"
            )
        self._replier = replier
        self._thinking = thinking
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._said: list[dict[str, str]] = []

    async def say(self, text: str) -> Completion | None:
        """The model's reply to `text`; None if Ctrl-C came before any of it.

        A reply that was stopped stays in the history as far as it came. A turn with no reply at
        all is forgotten: most templates refuse two turns of a user in a row.

        Raises:
            ErllamaError: there is no reply; the turn is forgotten.
        """
        turn = {"role": "user", "content": text}
        messages = [*self._system, *self._said, turn]
        completion = await self._replier.answer(messages, thinking=self._thinking)
        if completion.finish_reason == "cancelled" and not completion.text:
            return None
        self._said += [turn, {"role": "assistant", "content": completion.text}]
        return completion

    def forget(self) -> None:
        """Begin anew."""
        self._said.clear()


async def converse(chat: Chat, lines: Lines, *, name: str, quiet: bool) -> int:
    """A chat at a terminal; a turn that fails does not end it."""
    if not quiet:
        say(f"Chat with {name}. Ctrl-C stops a reply, Ctrl-D leaves, {FORGET} begins anew.")
    while True:
        line = await _ask(lines)
        if line is None:
            return 0
        if line.strip() == FORGET:
            chat.forget()
        elif line.strip():
            await _turn(chat, line)


async def _ask(lines: Lines) -> str | None:
    say("> ", end="")
    line = None
    try:
        line = await lines.next()
    finally:
        if line is None:  # left by Ctrl-C or Ctrl-D: what comes next begins on a line of its own
            say("")
    return line


async def _turn(chat: Chat, line: str) -> None:
    try:
        await chat.say(line)
    except ErllamaError as error:
        say(f"erllama: {error}")


async def replay(chat: Chat, lines: Lines) -> int:
    """A chat from a file or a pipe; Ctrl-C stops the reply, and with it the chat."""
    while (line := await lines.next()) is not None:
        if not line.strip():
            continue
        completion = await chat.say(line)
        if completion is None or completion.finish_reason == "cancelled":
            return INTERRUPTED
    return 0

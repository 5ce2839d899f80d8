"""`erllama run`."""

from __future__ import annotations

import os
import pathlib
import sys
from dataclasses import dataclass

from erllama.cli.chat import Chat, converse, replay
from erllama.cli.interrupts import INTERRUPTED, Interrupts
from erllama.cli.lines import stdin_lines
from erllama.cli.opening import cache_folder, open_model
from erllama.cli.output import JsonReplies, Output, Replies, TextReplies
from erllama.cli.progress import make_report
from erllama.cli.reply import Replier
from erllama.config import ContextConfig
from erllama.model.handle import Model
from erllama.runtime import Runtime
from erllama.sampling import SamplingParams
from erllama.types import Completion

FROM_STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `erllama run` was asked for.

    Attributes:
        prompt: the text to continue or to answer; "-" reads it from standard input; None: a chat.
        answer: send the prompt as a user's message through the chat template.
        think: whether the model is asked to think; None: as its template does by itself.
    """

    path: pathlib.Path
    prompt: str | None
    context: ContextConfig
    sampling: SamplingParams
    max_tokens: int | None
    system: str | None
    think: bool | None
    answer: bool
    json: bool
    quiet: bool


async def run(options: RunOptions, interrupts: Interrupts) -> int:
    """Load the model, let it speak; returns the exit code.

    Raises:
        ErllamaError: it failed.
        OutputClosed: nobody reads the output.
    """
    report = make_report(quiet=options.quiet)
    async with Runtime(cache_dir=cache_folder(), cache_if_locked="read_only") as runtime:
        model = await open_model(runtime, options.path, report, context=options.context)
        replier = Replier(
            model,
            sampling=options.sampling,
            max_tokens=options.max_tokens,
            replies=_replies(options),
            report=report,
            interrupts=interrupts,
        )
        if options.prompt is None:
            return await _chat(model, replier, options)
        completion = await _once(model, replier, options, options.prompt)
        stopped = completion is None or completion.finish_reason == "cancelled"
        return INTERRUPTED if stopped else 0


def _replies(options: RunOptions) -> Replies:
    output = Output()
    if options.json:
        return JsonReplies(output)
    return TextReplies(output, lines=options.prompt is None)


async def _once(
    model: Model, replier: Replier, options: RunOptions, prompt: str
) -> Completion | None:
    if prompt == FROM_STDIN:
        prompt = (await stdin_lines().rest()).removesuffix("\n")
    if not options.answer:
        return await replier.reply(prompt)
    return await _new_chat(model, replier, options).say(prompt)


async def _chat(model: Model, replier: Replier, options: RunOptions) -> int:
    chat = _new_chat(model, replier, options)
    if sys.stdin is not None and os.isatty(0):
        return await converse(chat, stdin_lines(), name=options.path.name, quiet=options.quiet)
    return await replay(chat, stdin_lines())


def _new_chat(model: Model, replier: Replier, options: RunOptions) -> Chat:
    return Chat(model, replier, system=options.system, thinking=options.think)

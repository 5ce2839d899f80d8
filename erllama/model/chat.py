"""A chat as the prompt of a request, and as what the next turn begins with."""

from __future__ import annotations

import array
import asyncio
import datetime
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erllama.errors import NotSupported
from erllama.model.chat_memory import ChatMemory, Known, finish_keys, joined
from erllama.model.job import Job
from erllama.model.request import Request, check_fits
from erllama.text import render_chat
from erllama.types import Completion, ModelInfo

Messages = Sequence[Mapping[str, Any]]
Tokenizer = Callable[[str, bool], Awaitable[list[int]]]
"""Ids of a text; with what begins a prompt, unless the text spells it, or without."""
Detokenizer = Callable[[list[int]], Awaitable[str]]

_ANCHORS = ("\n", ".", "a")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A chat, ready to be gone on with.

    Attributes:
        text: as the template wrote it.
        tokens: its ids.
        keys: name the states of the earlier turns that are known, the latest first.
    """

    text: str
    tokens: array.array[int]
    keys: Sequence[str] = ()


async def render(
    info: ModelInfo,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    variables: Mapping[str, Any] | None,
    defaults: Mapping[str, Any] | None = None,
) -> str:
    """The text of a chat, by the model's template.

    Raises:
        NotSupported: it has none.
        RequestError: see `render_chat`.
    """
    template = _template(info, with_tools=has_tools(tools))
    # In a thread however short the chat is: the first call imports Jinja and compiles.
    return await asyncio.to_thread(
        render_chat,
        template,
        messages,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        bos_token=info.bos_token,
        eos_token=info.eos_token,
        variables=variables,
        defaults=defaults,
        now=datetime.datetime.now(),
    )


def has_tools(tools: object) -> bool:
    """Whether tools were given. Whatever they are, none of their code runs: it is the caller's."""
    return tools is not None and not (type(tools) in (list, tuple) and not tools)


def _template(info: ModelInfo, *, with_tools: bool) -> str:
    """As transformers chooses it: with tools the one that is named so."""
    template = info.chat_template
    if with_tools:
        template = info.chat_templates.get("tool_use", template)
    if template is not None:
        return template
    if not info.chat_templates:
        raise NotSupported(
            f"model {info.id!r} has no chat template; load it with chat_template=..., or "
            "use a model that was trained to chat"
        )
    names = ", ".join(sorted(info.chat_templates))
    raise NotSupported(
        f"model {info.id!r} has no chat template but those named {names}; load it with one of "
        "these names as chat_template"
    )


async def tokenize_behind(
    text: str, tokenize: Tokenizer, detokenize: Detokenizer
) -> list[int] | None:
    """Ids of a text that stands behind another one; None: they cannot be had.

    SentencePiece vocabularies put a space before whatever they are given first, and leave it out
    again when that is turned into text. Then something is put before it, and its ids taken away.
    """
    ids = await tokenize(text, False) if text else []
    if not ids or (await detokenize(ids * 2))[len(await detokenize(ids)) :] == text:
        return ids
    for anchor in _ANCHORS:
        first = await tokenize(anchor, False)
        ids = await tokenize(anchor + text, False)
        if first and ids[: len(first)] == first:  # else the two are spelled in one
            return ids[len(first) :]
    return None


def thinking_variables(request: Request) -> dict[str, bool]:
    """Templates know `Request.thinking` by two names."""
    if request.thinking is None:
        return {}
    return {"enable_thinking": request.thinking, "thinking": request.thinking}


async def chat_prompt(
    info: ModelInfo,
    memory: ChatMemory,
    text: str,
    *,
    salt: str,
    tokenize: Tokenizer,
    detokenize: Detokenizer,
) -> ChatPrompt:
    """The prompt of a rendered chat, with the ids that its earlier turns had."""
    begins = await asyncio.to_thread(memory.begins, salt, text)
    for known in begins[:1]:
        ids = await tokenize_behind(text[len(known.text) :], tokenize, detokenize)
        if ids is not None:
            _check_fits(info, len(known.tokens) + len(ids))
            return ChatPrompt(text, joined(known, ids), finish_keys(begins))
    ids = await tokenize(text, True)
    _check_fits(info, len(ids))
    return ChatPrompt(text, array.array("i", ids))


def _check_fits(info: ModelInfo, n_tokens: int) -> None:
    """Now, as millions of them would keep the event loop."""
    if info.can_generate:
        check_fits(n_tokens, info.n_ctx)


def remember(
    memory: ChatMemory, prompt: ChatPrompt, job: Job, reply: asyncio.Future[Completion]
) -> None:
    """Keep what the next turn of a chat may begin with; called when its request is over."""
    if reply.cancelled() or reply.exception() is not None or job.generation is None:
        return
    done, salt = reply.result(), job.request.cache_salt
    raw, ends = job.generation.reply.raw, [0, *job.generation.reply.ends]
    n = len(done.tokens)
    if done.finish_reason == "cancelled":  # its last character may be half there
        n = bisect_left(ends, ends[-1])
    elif done.finish_reason == "stop" and done.stop_sequence is None:
        n -= 1  # the template writes the token that ends a turn
    memory.add(
        salt,
        Known(
            prompt.text + "".join(raw[:n]),
            prompt.tokens + array.array("i", done.tokens[:n]),
            done.finish_key,
            array.array("q", (len(prompt.text) + end for end in ends[: n + 1])),
        ),
    )

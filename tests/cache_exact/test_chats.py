"""Chats whose clients keep no session: each turn sends all that was said before."""

from __future__ import annotations

from erllama import Completion
from tests.cache_exact.room import GREEDY, PLAIN, room

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
Messages = list[dict[str, str]]


def said(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


async def test_a_chat_of_twenty_turns_computes_what_is_new_alone() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[0], chat_template=TEMPLATE)
        messages: Messages = []
        before = 0
        for n in range(20):
            messages.append(said(f"Tell me {n} things of the fox and the hen and the dog."))
            done: Completion = await seat.model.chat(messages, max_tokens=12, **GREEDY)
            await seat.model.evict()
            if n:
                assert done.cache.read >= before - 2  # the end of the reply is written anew
                assert not done.cache.pure
            before = len(done.context_tokens)
            messages.append(said(done.text, "assistant"))


async def test_a_client_that_trims_a_reply_computes_that_reply_again_and_no_more() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[0], chat_template=TEMPLATE)
        messages = [said("Tell me a story of a fox and a hen, and of the farmer's two good dogs.")]
        first = await seat.model.chat(messages, max_tokens=40, **GREEDY)
        await seat.model.evict()
        messages += [said(first.text, "assistant"), said("And then?")]
        second = await seat.model.chat(messages, max_tokens=40, **GREEDY)
        await seat.model.evict()
        messages += [said(second.text[:-9], "assistant"), said("And then?")]
        third = await seat.model.chat(messages, max_tokens=40, **GREEDY)
        assert third.cache.read == second.cache.read >= len(first.context_tokens) - 2

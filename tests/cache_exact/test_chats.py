"""Chats whose clients keep no session: each turn sends all that was said before."""

from __future__ import annotations

from erllama import Completion
from tests.cache_exact.room import GREEDY, PLAIN, SAMPLED, room

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


async def test_a_turn_of_a_session_that_is_asked_again_goes_on_as_it_did_first() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[4], chat_template=TEMPLATE)

        async def ask(messages: Messages, session_id: str) -> tuple[list[bytes], Completion]:
            here.spy.take(seat._name)
            done = await seat.model.chat(messages, max_tokens=24, session_id=session_id, **SAMPLED)
            return here.spy.take(seat._name).logits, done

        first = [said("Tell me a story of a fox and a hen, and of the farmer's two good dogs.")]
        _, reply = await ask(first, session_id="one")
        second = [*first, said(reply.text, "assistant"), said("And then?")]
        unbroken, done = await ask(second, session_id="one")
        again, retried = await ask(second, session_id="one")
        assert not done.cache.pure
        assert not retried.cache.pure
        assert again == unbroken
        # nor does the session matter that another chat was in
        await ask([said("What of the cat?")], session_id="two")
        assert (await ask(second, session_id="two"))[0] == unbroken


async def test_rows_of_a_named_reply_come_before_pure_ones_in_place() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[4])
        reply = await seat.ask(seat.prompt(40), 40)
        prompt = [*reply.context, *seat.prompt(70)]
        unbroken = await seat.ask(prompt, parent_key=reply.key)
        await seat.ask(prompt, settle=False, session_id="one", exact=True)
        again = await seat.ask(prompt, session_id="one", parent_key=reply.key)
        assert again.record.logits == unbroken.record.logits
        assert not again.completion.cache.pure

import asyncio

import pytest

from erllama.actor import Mailbox
from erllama.actor.testing import settle
from erllama.errors import ConfigError, MailboxFull


async def drain(mailbox: Mailbox[str]) -> list[str]:
    return [await mailbox.get() for _ in range(len(mailbox) - mailbox.parked_length)]


async def test_each_lane_keeps_its_order_and_the_system_lane_comes_first() -> None:
    mailbox: Mailbox[str] = Mailbox(10)
    for item in ("w1", "w2"):
        mailbox.put_work(item)
    for item in ("s1", "s2"):
        mailbox.put_system(item)
    assert (mailbox.system_length, mailbox.work_length, len(mailbox)) == (2, 2, 4)
    assert await drain(mailbox) == ["s1", "s2", "w1", "w2"]


async def test_a_full_work_lane_refuses_and_names_the_actor_and_its_capacity() -> None:
    mailbox: Mailbox[str] = Mailbox(2, "arbiter")
    mailbox.put_work("w1")
    mailbox.put_work("w2")
    with pytest.raises(MailboxFull, match=r"'arbiter' is full: all 2 places"):
        mailbox.put_work("w3")
    assert await drain(mailbox) == ["w1", "w2"]
    assert mailbox.put_work("w4")


async def test_a_full_work_lane_leaves_the_system_lane_open() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    mailbox.put_work("w1")
    for number in range(1000):
        assert mailbox.put_system(f"s{number}")
    assert mailbox.system_length == 1000


async def test_get_waits_for_an_item_of_either_lane() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    for put in (mailbox.put_work, mailbox.put_system):
        getting = asyncio.create_task(mailbox.get())
        await settle()
        assert not getting.done()
        put("item")
        assert await getting == "item"


async def test_a_note_wakes_nobody_and_is_served_before_what_does() -> None:
    mailbox: Mailbox[str] = Mailbox(4)
    getting = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    assert mailbox.put_note("first")
    assert mailbox.put_note("second")
    await asyncio.sleep(0.01)
    assert not getting.done()
    mailbox.put_work("work")
    assert await getting == "first"
    assert [mailbox.get_nowait(), mailbox.get_nowait()] == ["second", "work"]
    mailbox.close()
    assert not mailbox.put_note("late")


async def test_a_get_cancelled_while_it_waits_loses_nothing() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    getting = asyncio.create_task(mailbox.get())
    await settle()
    getting.cancel()
    await settle()
    mailbox.put_work("kept")
    assert await mailbox.get() == "kept"


async def test_a_get_cancelled_after_it_was_woken_loses_nothing() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    getting = asyncio.create_task(mailbox.get())
    await settle()
    mailbox.put_work("kept")
    getting.cancel()
    await settle()
    assert getting.cancelled()
    assert mailbox.get_nowait() == "kept"


async def test_a_system_item_overtakes_the_work_that_woke_the_consumer() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    getting = asyncio.create_task(mailbox.get())
    await settle()
    mailbox.put_work("work")
    mailbox.put_system("system")
    assert await getting == "system"


async def test_a_second_consumer_is_refused() -> None:
    mailbox: Mailbox[str] = Mailbox(1, "busy")
    getting = asyncio.create_task(mailbox.get())
    await settle()
    with pytest.raises(RuntimeError, match="'busy' has a consumer"):
        await mailbox.get()
    mailbox.put_work("item")
    assert await getting == "item"


async def test_get_nowait_raises_instead_of_waiting() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    with pytest.raises(asyncio.QueueEmpty):
        mailbox.get_nowait()


async def test_a_closed_mailbox_gives_back_what_was_left_and_stays_empty() -> None:
    mailbox: Mailbox[str] = Mailbox(5)
    mailbox.put_work("parked")
    mailbox.park(mailbox.get_nowait())
    mailbox.put_work("work")
    mailbox.put_system("system")
    assert mailbox.close() == ["system", "parked", "work"]
    assert mailbox.closed
    assert not mailbox.put_work("late")
    assert not mailbox.put_system("late")
    mailbox.park("late")
    assert len(mailbox) == 0
    assert mailbox.close() == []


async def test_parked_items_come_back_in_order_before_newer_ones_of_their_lane() -> None:
    mailbox: Mailbox[str] = Mailbox(10)
    for item in ("w1", "w2", "w3"):
        mailbox.put_work(item)
    mailbox.put_system("s1")
    for _ in range(3):
        mailbox.park(mailbox.get_nowait())
    mailbox.put_system("s2")
    assert mailbox.parked_length == 3
    mailbox.unpark()
    assert await drain(mailbox) == ["s1", "s2", "w1", "w2", "w3"]


async def test_parked_work_counts_towards_the_capacity() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    mailbox.put_work("w1")
    mailbox.park(mailbox.get_nowait())
    with pytest.raises(MailboxFull):
        mailbox.put_work("w2")
    mailbox.discard_parked("w1")
    assert mailbox.put_work("w2")


async def test_a_parked_system_item_takes_no_place_of_the_work_lane() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    mailbox.put_system("s1")
    mailbox.park(mailbox.get_nowait())
    assert mailbox.put_work("w1")
    assert (mailbox.system_length, mailbox.work_length) == (1, 1)


async def test_unparking_wakes_a_waiting_consumer() -> None:
    mailbox: Mailbox[str] = Mailbox(1)
    mailbox.put_work("w1")
    mailbox.park(mailbox.get_nowait())
    getting = asyncio.create_task(mailbox.get())
    await settle()
    assert not getting.done()
    mailbox.unpark()
    assert await getting == "w1"


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_mailbox_without_a_place_is_refused(capacity: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Mailbox[str](capacity)

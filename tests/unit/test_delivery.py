"""The fate of replies."""

import asyncio

from osworld_envpod.delivery import Delivery


def test_nothing_was_delivered_at_first_nor_while_a_call_is_under_way() -> None:
    delivery = Delivery()
    assert not delivery.is_made
    delivery.send(None)
    assert delivery.is_made
    delivery.begin()
    assert not (delivery.is_made or delivery.is_pending)


def test_a_reply_to_a_router_is_delivered_by_its_acknowledgement_alone() -> None:
    delivery = Delivery()
    delivery.begin()
    assert not delivery.acknowledge("k"), "too early: that reply has not been sent"
    delivery.send("k")
    assert delivery.is_pending
    assert not delivery.acknowledge("other")
    assert not delivery.is_made
    assert delivery.acknowledge("k")
    assert delivery.is_made
    delivery.begin()
    delivery.send("next")
    assert not delivery.acknowledge("k"), "that was the reply before"
    assert delivery.is_pending


def test_what_arrived_once_has_arrived() -> None:
    delivery = Delivery()
    delivery.begin()
    delivery.send("k")
    delivery.acknowledge("k")
    delivery.send("k")
    assert delivery.is_made
    assert delivery.acknowledge("k"), "a repeat of the acknowledgement"


async def test_an_acknowledgement_is_awaited_for_a_while() -> None:
    delivery = Delivery()
    delivery.begin()
    delivery.send("k")
    await delivery.settled(0.01)
    assert delivery.is_pending
    waiting = asyncio.create_task(delivery.settled(30))
    await asyncio.sleep(0)
    delivery.acknowledge("k")
    await asyncio.wait_for(waiting, 10)

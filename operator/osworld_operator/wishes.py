"""Routers' wishes for moves, between the HTTP that takes them and the rounds that decide about them.

A wish changes nothing by itself: the next round sees it beside everything else, and `decide` moves an env_idx or not.
"""

import asyncio
from collections.abc import Callable, Mapping

from osworld_contract.registry import RegistryEntry, env_server_url
from osworld_operator.decide import is_broken
from osworld_operator.view import PodView, PoolView, Wish

Answer = RegistryEntry | None
"""Who has the env_idx; None: there is no spare."""


class Wishes:
    """The wishes that are still without an answer. `tell` is called when there is a new one."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._waiting: dict[Wish, list[asyncio.Future[Answer]]] = {}

    @property
    def open(self) -> frozenset[Wish]:
        """Return them."""
        return frozenset(self._waiting)

    async def ask(self, wish: Wish) -> Answer:
        """Return who has the env_idx once a round has seen `wish`. Who gives up waiting withdraws it.

        The same wish of several routers is one.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(wish, []).append(answer)
        self._tell()
        try:
            return await answer
        finally:
            self._withdraw(wish, answer)

    def settle(self, view: PoolView, moved: Mapping[int, RegistryEntry], tried: frozenset[int]) -> None:
        """Answer the wishes that `view` had, after its round.

        Args:
            view: What the round saw.
            moved: Who has each env_idx that the round gave to a pod.
            tried: Every env_idx that the round wanted to give to a pod. What did not come through is tried again.
        """
        for wish in view.wishes:
            if wish.env_idx in moved:
                self._answer(wish, moved[wish.env_idx])
            elif wish.env_idx not in tried:
                self._answer(wish, _unmoved(wish, view))

    def end(self) -> None:
        """Answer what is open: the pool is gone."""
        for wish in self.open:
            self._answer(wish, None)

    def _answer(self, wish: Wish, answer: Answer) -> None:
        for waiting in self._waiting.pop(wish, ()):
            if not waiting.done():
                waiting.set_result(answer)

    def _withdraw(self, wish: Wish, answer: asyncio.Future[Answer]) -> None:
        waiting = self._waiting.get(wish, [])
        if answer in waiting:
            waiting.remove(answer)
        if not waiting:
            self._waiting.pop(wish, None)


def entry(pod: PodView, env_idx: int, epoch: int) -> RegistryEntry:
    """Return the registry's entry of `pod`, which has an address."""
    assert pod.address is not None  # it is ready, or was
    return RegistryEntry(env_idx=env_idx, uid=pod.uid, epoch=epoch, url=env_server_url(pod.address))


def _unmoved(wish: Wish, view: PoolView) -> Answer:
    """Return who has the env_idx where the round left it alone: another pod than the wish says, or nobody of use."""
    holder = view.holders.get(wish.env_idx)
    if holder is None or holder.address is None or is_broken(holder) or view.is_wished_away(holder):
        return None
    return entry(holder, wish.env_idx, max(holder.epoch, 1))

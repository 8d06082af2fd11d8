"""Carries out what `decide` asks for. What does not come through is for the next round."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from osworld_contract.crd import ConditionReason, OSWorldEnv
from osworld_contract.registry import RegistryEntry
from osworld_operator.actions import Action, Assign, Create, Delete, Release
from osworld_operator.child_settings import ChildSettings
from osworld_operator.children import env_pod
from osworld_operator.clock import now
from osworld_operator.cluster import Cluster
from osworld_operator.decide import is_broken, is_silent
from osworld_operator.errors import ClusterError, ConflictError, NotFoundError, RefusedError
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.owner import keeper_of, owner_uid
from osworld_operator.view import Hold, NodeState, PodView
from osworld_operator.wishes import entry

logger = logging.getLogger(__name__)

WRITES_MAX: Final = 20
"""Calls that change something, at once."""

RETIRED_GRACE_S: Final = 5
"""Between SIGTERM and SIGKILL for a pod whose work is nobody's any more. A guess: nothing of it is kept, and its
replacement may wait for the device that it has."""

A = TypeVar("A", bound=Action)


@dataclass
class Outcome:
    """What came of one round's actions."""

    env: dict[str, Any]
    """The OSWorldEnv as it is then: a move writes to its status."""
    has_changed: bool = False
    """Something was not as it had been looked at: looking again helps at once."""
    has_failed: bool = False
    """The API server did not answer an action."""
    moved: dict[int, RegistryEntry] = field(default_factory=dict)
    """Who has each env_idx that was given to a pod."""
    refusals: list[Hold] = field(default_factory=list)
    """What the API server said against actions. It will say the same again until something changes."""


class Acts:
    """Does one round's actions, except drains: these ask env servers, not the API server."""

    def __init__(self, cluster: Cluster, children: ChildSettings, metrics: OperatorMetrics, env: OSWorldEnv) -> None:
        self._cluster = cluster
        self._children = children
        self._metrics = metrics
        self._env = env
        self._namespace = env.metadata.namespace
        self._pool = env.metadata.name

    async def do(self, found: dict[str, Any], actions: Sequence[Action]) -> Outcome:
        """Do `actions` for the OSWorldEnv `found`, moves first, for a trainer waits for them.

        Raises:
            ClusterError: The epochs of moves could not be reserved; nothing has been done.
        """
        outcome = Outcome(found)
        moves = _of_kind(Assign, actions)
        if moves:
            # First the number, then its use: after a crash between the two it is skipped, never given twice.
            first = self._env.status.last_epoch + 1
            outcome.env = await self._cluster.reserve_epoch(found, first + len(moves) - 1)
            await _all(self._move(outcome, move, first + number) for number, move in enumerate(moves))
        await _all(self._release(outcome, action) for action in _of_kind(Release, actions))
        await _all(self._delete(outcome, action) for action in _of_kind(Delete, actions))
        await _all(self._create(outcome, action) for action in _of_kind(Create, actions))
        return outcome

    async def _move(self, outcome: Outcome, move: Assign, epoch: int) -> None:
        """Give a number to a pod, once the one that has it has lost it: a router sees either or none, never both."""
        old = move.after
        if old is not None and not await self._release(outcome, Release(old, is_final=move.is_wished)):
            return
        call = self._cluster.assign(self._namespace, move.pod, move.env_idx, epoch)
        if not await self._done(outcome, move, call):
            return
        outcome.moved[move.env_idx] = entry(move.pod, move.env_idx, epoch)
        if old is not None:
            message = f"env {move.env_idx}: {old.name} → {move.pod.name}, for {_why(old)}"
            logger.info("pool %s/%s: %s", self._namespace, self._pool, message)
            await self._cluster.record(outcome.env, "EnvMoved", message, now())

    async def _release(self, outcome: Outcome, action: Release) -> bool:
        call = self._cluster.release(self._namespace, action.pod, is_final=action.is_final)
        return await self._done(outcome, action, call)

    async def _delete(self, outcome: Outcome, action: Delete) -> bool:
        grace_s = RETIRED_GRACE_S if action.is_at_once else None
        return await self._done(outcome, action, self._cluster.delete_pod(self._namespace, action.pod, grace_s))

    async def _create(self, outcome: Outcome, action: Create) -> bool:
        return await self._done(outcome, action, self._create_pod(action))

    async def _create_pod(self, action: Create) -> None:
        """Create the pod of a slot.

        Raises:
            RefusedError: Its name is that of somebody else's pod: looking again would not help.
        """
        manifest = env_pod(self._env, self._children, action.slot, action.avoid)
        try:
            await self._cluster.create_pod(manifest)
        except ConflictError:
            name = manifest["metadata"]["name"]
            found = await self._cluster.pod(self._namespace, name)
            if found is None or owner_uid(found) == self._env.metadata.uid:
                raise
            owner = keeper_of(found)
            whose = f"{owner['kind']} {owner['name']}" if owner else "nobody"
            raise RefusedError(f"the name {name} is taken by a pod of {whose}") from None

    async def _done(self, outcome: Outcome, action: Action, call: Coroutine[Any, Any, None]) -> bool:
        """Await `call`, count it, and return whether it came through."""
        name = type(action).__name__.lower()
        try:
            await call
            result = "ok"
        except NotFoundError:
            result, outcome.has_changed = "gone", True
        except ConflictError:
            result, outcome.has_changed = "conflict", True
        except RefusedError as error:
            result = "refused"
            outcome.refusals.append(Hold(ConditionReason.POD_REFUSED, error.message))
            logger.warning("pool %s/%s: %s: %s", self._namespace, self._pool, name, error)
        except ClusterError as error:
            result, outcome.has_failed = "failed", True
            logger.warning("pool %s/%s: %s: %s", self._namespace, self._pool, name, error)
        self._metrics.actions.labels(self._namespace, self._pool, name, result).inc()
        return result == "ok"


async def _all(calls: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Await all calls, few at once."""
    limit = asyncio.Semaphore(WRITES_MAX)

    async def limited(call: Coroutine[Any, Any, object]) -> None:
        async with limit:
            await call

    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            tasks.create_task(limited(call))


def _of_kind(kind: type[A], actions: Sequence[Action]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def _why(pod: PodView) -> str:
    if pod.node is NodeState.LOST:
        return f"node {pod.node_name} is out of reach"
    if pod.is_down:
        return "its env server went down"
    if pod.is_drained:
        return "it takes no more episodes"
    if is_silent(pod):
        return "its env server has not answered the operator for long"
    return "it was not ready for long" if is_broken(pod) else "a router's reset hung or was lost there"

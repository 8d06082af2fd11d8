"""Keeps one pool: observe → `decide` → act, round after round. Whatever a round leaves undone, the next one sees.

A round reads the pods from the API server itself, not from a cache: a view older than our own writes is how fleets give
one number twice. Events only wake it.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from osworld_contract.crd import ConditionReason, OSWorldEnv
from osworld_contract.kube_names import SECRET_KEY_UPSTREAM_TOKEN, tokens_secret_name
from osworld_operator.actions import Action, Assign, Drain
from osworld_operator.acts import Acts, Outcome
from osworld_operator.apart import Parting
from osworld_operator.child_settings import ChildSettings
from osworld_operator.children import applied_children, pod_revision, pod_spec, tokens_secret
from osworld_operator.clock import now
from osworld_operator.cluster import Cluster
from osworld_operator.decide import STUCK_S, decide
from osworld_operator.env_servers import EnvServers, Reports
from osworld_operator.errors import (
    ClusterError,
    ConflictError,
    NotFoundError,
    NotLeadingError,
    RefusedError,
    UnavailableError,
)
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.nodes import NodeBook
from osworld_operator.observe import pool_view
from osworld_operator.owner import owner_uid
from osworld_operator.secret_values import secret_value
from osworld_operator.status import invalid_status, pool_status
from osworld_operator.swaps import Swaps
from osworld_operator.view import Hold, NodeState, PodView, PoolView
from osworld_operator.wishes import Wishes

logger = logging.getLogger(__name__)

RESYNC_S: Final = 30.0
"""The longest time between two rounds: what no event told is seen then."""

WAITING_S: Final = 2.0
"""Between two rounds while an env server is awaited that has no event: a drain, an unready pod."""

APPLY_AGAIN_S: Final = 300.0
"""Between two applications of the router and what is around it, without a change of the spec: somebody may have edited
them."""

GAP_S: Final = 0.05
GAP_PER_POD_S: Final = 0.001
"""The shortest time between two rounds, and per pod: a thousand pods that start are not a thousand rounds."""

RETRY_FIRST_S: Final = 0.5
RETRY_MAX_S: Final = 15.0
"""After a round that failed: doubled from the first to the last."""

REFUSED_S: Final = 5.0
"""Before what the API server refused is tried again, without an event. A guess: a quota tells nobody of its room."""


@dataclass(frozen=True)
class Tools:
    """What all keepers share."""

    cluster: Cluster
    servers: EnvServers
    nodes: NodeBook
    children: ChildSettings
    metrics: OperatorMetrics


class PoolKeeper:
    """The rounds over one pool."""

    def __init__(self, namespace: str, name: str, tools: Tools) -> None:
        self.namespace = namespace
        self.name = name
        self.last_round_s = time.monotonic()
        """When a round ended last, well or not, on the monotonic clock."""
        self._tools = tools
        self._woken = asyncio.Event()
        self._applied: tuple[tuple[str, int], float] | None = None
        """Uid and generation of what was applied last, and when: another OSWorldEnv of this name may follow at once."""
        self._token: str | None = None
        self._refused_child: Hold | None = None
        """What the API server said against the router or what is around it."""
        self._refused_pod: Hold | None = None
        """What it said against a pod in the last round: what is still wanted is asked for in every one."""
        self._reports: Reports | None = None
        self._urgent = asyncio.Event()
        self._parting = Parting()
        self._swaps = Swaps()
        self.wishes = Wishes(self._hurry)
        """Of the pool's routers."""

    @property
    def is_woken(self) -> bool:
        """Whether something has happened since the last round began."""
        return self._woken.is_set()

    def _hurry(self) -> None:
        """Begin a round now: a trainer waits for it."""
        self._urgent.set()
        self.wake()

    def wake(self) -> None:
        """Begin a round soon."""
        self._woken.set()

    async def run(self) -> None:
        """Keep the pool until its OSWorldEnv is gone."""
        retry_s = RETRY_FIRST_S
        async with asyncio.TaskGroup() as tasks:
            self._reports = Reports(self._tools.servers, tasks, self.wake)
            while True:
                self._woken.clear()
                self._urgent.clear()
                began = time.monotonic()
                result: str | None = "failed"
                try:
                    wait_s = await self._round()
                    result, retry_s = "ok", RETRY_FIRST_S
                except NotLeadingError:  # the lease wakes all keepers when it is held
                    result, wait_s = None, RESYNC_S
                    self._tools.metrics.stand_by(self.namespace, self.name)
                except ConflictError as error:
                    logger.info("pool %s/%s: looking again: %s", self.namespace, self.name, error)
                    result, wait_s = "conflict", 0.0
                except ClusterError as error:
                    logger.warning("pool %s/%s: again in %g s: %s", self.namespace, self.name, retry_s, error)
                    wait_s, retry_s = retry_s, min(retry_s * 2, RETRY_MAX_S)
                except Exception:  # a defect met in one pool is no reason to leave all others alone
                    logger.exception("pool %s/%s: a defect; again in %g s", self.namespace, self.name, RETRY_MAX_S)
                    wait_s = RETRY_MAX_S
                self.last_round_s = time.monotonic()
                if result is not None:
                    labels = (self.namespace, self.name, result)
                    self._tools.metrics.reconcile_seconds.labels(*labels).observe(self.last_round_s - began)
                if wait_s is None:
                    break
                await self._sleep(wait_s)
        self.wishes.end()
        self._tools.metrics.forget(self.namespace, self.name)
        logger.info("pool %s/%s: gone", self.namespace, self.name)

    async def _sleep(self, wait_s: float) -> None:
        known = len(self._reports.known) if self._reports else 0
        for event, most_s in ((self._urgent, GAP_S + GAP_PER_POD_S * known), (self._woken, wait_s)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most_s):
                    await event.wait()

    async def _round(self) -> float | None:
        """Return how long to wait for an event before the next round, or None where the pool is gone."""
        cluster, tools = self._tools.cluster, self._tools
        cluster.fence()  # nor does anybody but the one writer ask for drains
        found = await cluster.env(self.namespace, self.name)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return None if found is None else WAITING_S
        try:
            env = OSWorldEnv.model_validate(found)
        except ValidationError as error:
            await self._say_invalid(found, error)
            return RESYNC_S
        await tools.nodes.refresh()
        await self._apply(env)
        pods = await cluster.pods(self.namespace, self.name)
        revision = pod_revision(env, tools.children)
        assert self._reports is not None  # made before the first round
        hosts = tools.nodes.for_pods(pod_spec(env, tools.children))
        view = pool_view(env, revision, pods, tools.nodes.states_for(hosts), self._reports.heard, time.time())
        view = replace(view, wishes=self.wishes.open, hosts=hosts)
        view = replace(view, may_part=self._parting.may_try(view))
        view = replace(view, may_swap=self._swaps.may_try(view, time.monotonic()))
        actions = decide(view)
        if pod := self._swaps.note(view, actions):
            logger.info("pool %s/%s: %s makes room for one of the new spec", self.namespace, self.name, pod.name)
        if pod := self._parting.note(view, actions):
            logger.info(
                "pool %s/%s: %s makes way for a spare off %s", self.namespace, self.name, pod.name, pod.node_name
            )
        outcome = await Acts(cluster, tools.children, tools.metrics, env).do(found, actions)
        tried = frozenset(action.env_idx for action in actions if isinstance(action, Assign))
        self.wishes.settle(view, outcome.moved, tried)
        self._refused_pod = outcome.refusals[0] if outcome.refusals else None
        await self._write_status(outcome.env, view, actions)
        return min(self._ask(view, actions, env.status.last_epoch + 1), _again_s(outcome))

    async def _apply(self, env: OSWorldEnv) -> None:
        """Make tokens, router and policies as they should be, after a change of the spec and now and then."""
        present, at_s = (env.metadata.uid, env.metadata.generation), time.monotonic()
        if self._applied and self._applied[0] == present and at_s - self._applied[1] < APPLY_AGAIN_S:
            return
        self._token = await self._upstream_token(env)
        self._refused_child = None
        for manifest in applied_children(env, self._tools.children):
            try:
                await self._tools.cluster.apply(manifest)
            except RefusedError as error:  # a Service that is refused keeps no pod from its work
                named = f"{manifest['kind']} {manifest['metadata']['name']}: {error.message}"
                self._refused_child = Hold(ConditionReason.POD_REFUSED, named)
        self._applied = (present, at_s)

    async def _upstream_token(self, env: OSWorldEnv) -> str:
        """Return what env servers ask for; make it with the pool's first round."""
        name = tokens_secret_name(env.metadata.name)
        found = await self._tools.cluster.secret(self.namespace, name)
        if found is None:
            try:
                await self._tools.cluster.create(
                    tokens_secret(env, secrets.token_urlsafe(32), secrets.token_urlsafe(32))
                )
            except ConflictError:
                logger.info("pool %s/%s: somebody else made the tokens", self.namespace, self.name)
            found = await self._tools.cluster.secret(self.namespace, name)
        if found is None:
            raise NotFoundError(f"the Secret {name} is gone")
        if owner_uid(found) not in (None, env.metadata.uid):
            raise UnavailableError(f"the Secret {name} is of an OSWorldEnv before this one, and goes with it")
        return secret_value(found, SECRET_KEY_UPSTREAM_TOKEN)

    async def _write_status(self, found: dict[str, Any], view: PoolView, actions: Sequence[Action]) -> None:
        env = OSWorldEnv.model_validate(found)
        status = pool_status(env, view, actions, self._refused_child or self._refused_pod, now())
        gauge = self._tools.metrics.pool_envs
        for state in ("desired", "ready", "busy", "spare", "faulted", "updated"):
            gauge.labels(self.namespace, self.name, state).set(getattr(status, state))
        if status == env.status:
            return
        before = {item.type: (item.status, item.reason) for item in env.status.conditions}
        await self._tools.cluster.write_status(found, status.model_dump(by_alias=True, exclude_none=True, mode="json"))
        for item in status.conditions:
            if item.type == "Degraded" and before.get(item.type, ("False", "")) != (item.status, item.reason):
                is_warning = item.status == "True"
                if is_warning or item.type in before:
                    await self._tools.cluster.record(
                        found, item.reason, item.message or "as expected", now(), is_warning
                    )

    async def _say_invalid(self, found: dict[str, Any], error: ValidationError) -> None:
        logger.warning("pool %s/%s: not understood: %s", self.namespace, self.name, error)
        before = found.get("status", {})
        status = invalid_status(before, found["metadata"]["generation"], str(error), now())
        if status != before:
            await self._tools.cluster.write_status(found, status)

    def _ask(self, view: PoolView, actions: Sequence[Action], next_epoch: int) -> float:
        """Ask env servers what they are at. Return how long the next round may wait."""
        assert self._reports is not None and self._token is not None  # both made before
        drained = {action.pod.uid for action in actions if isinstance(action, Drain)}
        for action in actions:
            if isinstance(action, Drain):
                self._reports.drain(action.pod, self._token, next_epoch)
        urgent = {
            pod: _awaits_answer(pod, view) or pod.uid in drained or self._reports.is_unfenced(pod)
            for pod in view.pods
            if _can_answer(pod)
        }
        self._reports.forget_all_but(view.pods)
        self._reports.refresh(
            {pod: is_urgent for pod, is_urgent in urgent.items() if pod.uid not in drained}, self._token, next_epoch
        )
        stuck_in_s = [
            STUCK_S - pod.unready_s for pod in view.pods if pod.unready_s is not None and pod.unready_s < STUCK_S
        ]
        return min(WAITING_S if any(urgent.values()) else RESYNC_S, *(max(s, GAP_S) for s in stuck_in_s), RESYNC_S)


def _again_s(outcome: Outcome) -> float:
    """Return how long what did not come through may wait for the next round."""
    if outcome.has_changed:
        return 0.0
    if outcome.has_failed:
        return RETRY_FIRST_S
    return REFUSED_S if outcome.refusals else RESYNC_S


def _can_answer(pod: PodView) -> bool:
    return pod.address is not None and not pod.is_down and not pod.is_drained and pod.node is not NodeState.LOST


def _awaits_answer(pod: PodView, view: PoolView) -> bool:
    """Return whether a decision depends on what this pod is at."""
    is_outdated = pod.revision != view.revision
    is_high = pod.env_idx is not None and pod.env_idx >= view.replicas
    is_odd = pod.unready_s is not None or pod.is_terminating or pod.node in (NodeState.LEAVING, NodeState.DOUBTED)
    return is_outdated or is_high or is_odd or pod.is_sent_away

"""What the operator asks env servers: whether they are busy, and to take no more episodes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final

import aiohttp

from osworld_contract.names import ENV_SERVER_PORT, HEADER_EPOCH, HEADER_UID
from osworld_contract.registry import env_server_url
from osworld_contract.wire import EnvState, Phase
from osworld_operator.observe import Heard, Report
from osworld_operator.view import NodeState, PodView

CALL_TIMEOUT_S: Final = 3.0
"""A guess: both answers come from memory."""

DOUBT_TIMEOUT_S: Final = 1.0
"""The same for a pod whose node Kubernetes has lost: trainers wait. A guess: where it was wrong, a spare takes over."""

CALLS_MAX: Final = 128
"""At once, over all pools: more than a node has pods (110), so that a node that is lost is known after one timeout."""

OFTEN_S: Final = 2.0
"""Between two questions to an env server on whose answer a decision waits. A guess."""

SELDOM_S: Final = 30.0
"""Between two questions to any other, for the counts of the status: a thousand idle envs cost 33 calls a second."""

Ask = Callable[[str, str, str, int], Awaitable[Report | None]]
"""Address, uid of the pod, token, and the oldest epoch that is not over for this pod, to a report."""

BUSY_PHASES: Final = frozenset({Phase.RESETTING, Phase.RUNNING, Phase.DONE, Phase.EVALUATING})


class EnvServers:
    """Calls to env servers, few at once. The caller closes it."""

    def __init__(self, port: int = ENV_SERVER_PORT) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S), trust_env=False)
        self._limit = asyncio.Semaphore(CALLS_MAX)
        self._port = port

    async def close(self) -> None:
        """End all calls."""
        await self._session.close()

    async def state(self, address: str, uid: str, token: str, epoch: int) -> Report | None:
        """Return what an env server is at, or None where it does not say, or another pod has its address.

        Once it has answered, it refuses routers that know of nothing newer than before `epoch`.
        """
        return await self._ask("GET", f"{env_server_url(address, self._port)}/state", uid, token, epoch)

    async def drain(self, address: str, uid: str, token: str, epoch: int) -> Report | None:
        """Ask for a drain. A busy one refuses. None and `epoch` as with `state`: nobody else is drained."""
        return await self._ask("POST", f"{env_server_url(address, self._port)}/drain", uid, token, epoch)

    async def _ask(self, method: str, url: str, uid: str, token: str, epoch: int) -> Report | None:
        headers = {"Authorization": f"Bearer {token}", HEADER_UID: uid, HEADER_EPOCH: str(epoch)}
        try:
            async with (
                self._limit,
                self._session.request(method, url, headers=headers) as reply,
            ):
                if reply.status == HTTPStatus.CONFLICT:
                    return Report(is_busy=True, is_drained=False)
                if reply.status != HTTPStatus.OK:
                    return None
                state = EnvState.model_validate_json(await reply.read())
        except (aiohttp.ClientError, OSError, ValueError):
            return None
        return Report(is_busy=state.phase in BUSY_PHASES, is_drained=state.is_draining)


class Reports:
    """What the env servers of one pool said last, asked in the background. `tell` is called when that changes."""

    def __init__(self, servers: EnvServers, tasks: asyncio.TaskGroup, tell: Callable[[], None]) -> None:
        self._servers = servers
        self._tasks = tasks
        self._tell = tell
        self._asked: dict[str, float] = {}
        self._under_way: set[str] = set()
        self._silent_since: dict[str, float] = {}
        self._doubted: dict[str, float] = {}
        """When a pod was last seen on a node that Kubernetes had lost, while it answered."""
        self._fenced: set[str] = set()
        """Without an env_idx, and told so: a router that missed it is refused."""
        self.known: dict[str, Report] = {}
        """By the pods' uids."""

    @property
    def heard(self) -> Heard:
        """Return what was heard so far."""
        now = time.monotonic()
        return Heard(
            self.known,
            {uid: now - since for uid, since in self._silent_since.items()},
            {uid: now - last for uid, last in self._doubted.items()},
        )

    def forget_all_but(self, pods: Iterable[PodView]) -> None:
        """Drop what is known of pods that are gone."""
        uids = {pod.uid for pod in pods}
        self._asked = {uid: when for uid, when in self._asked.items() if uid in uids}
        self._silent_since = {uid: when for uid, when in self._silent_since.items() if uid in uids}
        self._doubted = {uid: when for uid, when in self._doubted.items() if uid in uids}
        self.known = {uid: report for uid, report in self.known.items() if uid in uids}
        self._fenced &= {pod.uid for pod in pods if pod.env_idx is None}

    def is_unfenced(self, pod: PodView) -> bool:
        """Return whether `pod` may have had an env_idx, has none, and does not know it."""
        return pod.env_idx is None and pod.uid in self.known and pod.uid not in self._fenced

    def refresh(self, pods: Mapping[PodView, bool], token: str, next_epoch: int) -> None:
        """Ask the pods whose last answer is too old. The flag says that something waits for the answer."""
        now = time.monotonic()
        for pod, is_urgent in pods.items():
            if pod.node is NodeState.DOUBTED:
                self._doubted[pod.uid] = now
            if not pod.is_ready and pod.node is not NodeState.DOUBTED:
                self._silent_since.pop(pod.uid, None)  # the kubelet says as much
            age_s = now - self._asked.get(pod.uid, 0.0)
            is_late = self.is_unfenced(pod) and pod.uid not in self._silent_since
            if pod.address and (is_late or age_s >= (OFTEN_S if is_urgent else SELDOM_S)):
                self._start(pod, self._servers.state, token, next_epoch)

    def drain(self, pod: PodView, token: str, next_epoch: int) -> None:
        """Ask for a drain, unless this pod is being asked or has just refused."""
        known = self.known.get(pod.uid)
        has_refused = known is not None and known.is_busy
        if pod.address and not (has_refused and time.monotonic() - self._asked.get(pod.uid, 0.0) < OFTEN_S):
            self._start(pod, self._servers.drain, token, next_epoch)

    def _start(self, pod: PodView, ask: Ask, token: str, next_epoch: int) -> None:
        if pod.uid in self._under_way:
            return
        self._under_way.add(pod.uid)
        epoch = next_epoch if pod.env_idx is None else pod.epoch
        self._tasks.create_task(self._note(pod, ask, token, epoch))

    async def _note(self, pod: PodView, ask: Ask, token: str, epoch: int) -> None:
        began = time.monotonic()
        try:
            assert pod.address is not None  # the callers look
            async with asyncio.timeout(DOUBT_TIMEOUT_S if pod.node is NodeState.DOUBTED else None):
                report = await ask(pod.address, pod.uid, token, epoch)
        except TimeoutError:
            report = None
        finally:
            self._under_way.discard(pod.uid)
        self._asked[pod.uid] = time.monotonic()
        before = self.known.get(pod.uid)
        if report is None:
            self._silent_since.setdefault(pod.uid, began)
            if pod.node is NodeState.DOUBTED:  # now it is lost
                self._tell()
        else:
            self._silent_since.pop(pod.uid, None)
            self.known[pod.uid] = report
            if pod.env_idx is None:
                self._fenced.add(pod.uid)
        if report is not None and report != before:
            self._tell()

"""What the cluster's events do: they wake keepers. Thin, and kopf's: it keeps the watches alive.

Only ``on.event`` is used: no finalizer, no annotation, nothing that a stopped operator leaves behind.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import kopf

from osworld_contract.kube_names import API_GROUP, API_VERSION, COMPONENT_ENV, LABEL_COMPONENT, LABEL_POOL, PLURAL
from osworld_operator.keeper import PoolKeeper, Tools

logger = logging.getLogger(__name__)

WATCH_S: Final = 300
"""The API server ends a watch after that, and a new one begins. Source: what Kubernetes' own controllers ask for."""

WATCH_MARGIN_S: Final = 30.0
"""A watch that has not ended by then has stalled, and is cut."""


class Keepers:
    """One keeper for each OSWorldEnv that there is."""

    def __init__(self, tools: Tools, tasks: asyncio.TaskGroup) -> None:
        self._tools = tools
        self._tasks = tasks
        self._by_pool: dict[tuple[str, str], PoolKeeper] = {}

    @property
    def all(self) -> Sequence[PoolKeeper]:
        """Return the keepers."""
        return tuple(self._by_pool.values())

    def see_env(self, namespace: str, name: str) -> None:
        """Wake the keeper of a pool; it is hired if it is new."""
        keeper = self._by_pool.get((namespace, name))
        if keeper is None:
            keeper = PoolKeeper(namespace, name, self._tools)
            self._by_pool[namespace, name] = keeper
            self._tasks.create_task(self._run(keeper))
        keeper.wake()

    def of(self, namespace: str, name: str) -> PoolKeeper | None:
        """Return the keeper of a pool, if it has one."""
        return self._by_pool.get((namespace, name))

    def wake(self, namespace: str, name: str) -> None:
        """Wake the keeper of a pool, if it has one."""
        if keeper := self.of(namespace, name):
            keeper.wake()

    def wake_all(self) -> None:
        """Wake them all."""
        for keeper in self.all:
            keeper.wake()

    async def _run(self, keeper: PoolKeeper) -> None:
        try:
            await keeper.run()
        finally:
            self._by_pool.pop((keeper.namespace, keeper.name), None)
        if keeper.is_woken:  # as it left: there may be another OSWorldEnv of that name
            self.see_env(keeper.namespace, keeper.name)


def kopf_registry(keepers: Keepers, tools: Tools) -> kopf.OperatorRegistry:
    """Return the handlers."""
    registry = kopf.OperatorRegistry()
    env_pods: dict[str, Any] = {LABEL_POOL: kopf.PRESENT, LABEL_COMPONENT: COMPONENT_ENV}

    @kopf.on.login(registry=registry)
    async def log_in(**known: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**known) or kopf.login_with_kubeconfig(**known)

    @kopf.on.event(API_GROUP, API_VERSION, PLURAL, registry=registry)  # type: ignore[arg-type]  # kopf wants a name more
    async def on_env(namespace: str, name: str, **_: Any) -> None:
        keepers.see_env(namespace, name)

    @kopf.on.event("", "v1", "pods", labels=env_pods, registry=registry)  # type: ignore[arg-type]  # as above
    async def on_pod(namespace: str, labels: Any, **_: Any) -> None:
        keepers.wake(namespace, labels[LABEL_POOL])

    @kopf.on.event("", "v1", "nodes", registry=registry)
    async def on_node(body: Any, type: str | None, **_: Any) -> None:
        if tools.nodes.see(dict(body), is_gone=type == "DELETED"):
            keepers.wake_all()

    return registry


def kopf_settings() -> kopf.OperatorSettings:
    """Return how kopf is to run: it watches, and writes nothing."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = WATCH_S
    settings.watching.client_timeout = WATCH_S + WATCH_MARGIN_S
    settings.watching.connect_timeout = 10.0
    settings.queueing.idle_timeout = 5.0
    return settings

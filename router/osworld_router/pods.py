"""The registry in a cluster: the labels of a pool's pods, watched, and the pool's size where an env_idx is not known.

The watch is the client library's informer, in a thread of its own: it lists, follows, resumes and lists again. While
the API server is away the last state stays in use.
"""

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from kubernetes import client, config
from kubernetes.informer import ADDED, DELETED, ERROR, MODIFIED, SharedInformer

from osworld_contract.kube_names import (
    API_GROUP,
    API_VERSION,
    COMPONENT_ENV,
    COMPONENT_ROUTER,
    LABEL_COMPONENT,
    LABEL_ENV_EPOCH,
    LABEL_ENV_IDX,
    LABEL_POOL,
    PLURAL,
)
from osworld_contract.names import ROUTER_PORT
from osworld_contract.registry import RegistryEntry, env_server_url
from osworld_router.errors import StartError
from osworld_router.snapshots import LiveRegistry

logger = logging.getLogger(__name__)

WATCH_S: Final = 60
"""The API server ends a watch after that, and the informer goes on from where it was."""

SILENCE_S: Final = 75.0
"""A connection that is silent for longer has stalled: its node lost power, say."""

CONNECT_S: Final = 5.0
COUNT_S: Final = 2.0
"""For the size of the pool, which a call waits for. A guess: it is one small object."""
PAGE_PODS: Final = 50
"""Pods that are listed at once. A guess: a page has 1 MB or less, a thousand pods take 20 calls."""

PAUSE_S: Final = 1.0
"""After a call that failed: the informer itself makes the next at once."""

ENDED_PHASES: Final = frozenset({"Failed", "Succeeded"})


class PodRegistry(LiveRegistry):
    """The env_idx of a pool as its pods' labels have them."""

    def __init__(self, namespace: str, pool: str) -> None:
        super().__init__()
        self._pool = pool
        self._namespace = namespace
        self._stop = threading.Event()
        self._entries: dict[str, RegistryEntry] = {}
        self._told: dict[int, RegistryEntry] = {}
        """What the operator said of an env_idx, until the watch shows as much."""
        self._routers: dict[str, str] = {}
        self._complaint = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_listed = False

    @property
    def routers(self) -> Collection[str]:
        """Return those whose pods are ready."""
        return self._routers.values()

    async def refresh(self) -> None:
        """Nothing to do: every change is told."""

    async def learn(self, entry: RegistryEntry) -> None:
        """Take over `entry` unless a later one is known: the watch may lag behind the operator's answer."""
        known = self._snapshot.envs.get(entry.env_idx)
        if known is None or known.epoch < entry.epoch:
            self._told[entry.env_idx] = entry
            self._publish_entries()

    async def count(self) -> None:
        """Read the pool's replicas; without an answer what was known of them stays."""
        try:
            self._wanted = await asyncio.to_thread(self._replicas)
        except Exception as error:  # whatever the library raises: the call goes on without
            logger.warning("registry: the size of the pool is not known: %s", _reason(error))
        else:
            self._publish_entries()

    def _replicas(self) -> int:
        pools = client.CustomObjectsApi(_api())
        where = (API_GROUP, API_VERSION, self._namespace, PLURAL, self._pool)
        pool: Any = pools.get_namespaced_custom_object(*where, _request_timeout=COUNT_S)
        return int(pool["spec"]["replicas"])

    async def watch(self) -> None:
        """Follow the pods until cancelled.

        Raises:
            StartError: This process is in no cluster and has no kubeconfig.
        """
        self._loop = asyncio.get_running_loop()
        informer = SharedInformer(
            self._patient(client.CoreV1Api(_api()).list_namespaced_pod),
            namespace=self._namespace,
            label_selector=f"{LABEL_POOL}={self._pool},{LABEL_COMPONENT} in ({COMPONENT_ENV}, {COMPONENT_ROUTER})",
        )
        for kind in (ADDED, MODIFIED):
            informer.add_event_handler(kind, self._see)
        informer.add_event_handler(DELETED, self._miss)
        informer.add_event_handler(ERROR, self._complain)
        informer.start()
        try:
            await asyncio.Event().wait()
        finally:
            # Not joined: its thread may sit in a read while the API server is silent, and ends with the process.
            self._stop.set()

    def _patient(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with time-outs, and a pause after it failed. Runs in the informer's thread."""

        @functools.wraps(call)  # the library reads the type of the result from the docstring
        def patient(**given: Any) -> Any:
            is_watch = given.get("watch", False)
            if is_watch:
                given.setdefault("timeout_seconds", WATCH_S)
            given["_request_timeout"] = (CONNECT_S, SILENCE_S)
            try:
                found = call(**given) if is_watch else listed_in_pages(call, given)
            except Exception:
                self._stop.wait(PAUSE_S)
                raise
            if not is_watch:
                self._tell(self._listed)
            self._complaint = ""
            return found

        return patient

    def _see(self, pod: Any) -> None:
        """Take over what a pod's labels say. Runs in the informer's thread."""
        entry, router = entry_of(pod), router_of(pod)
        lighten(pod)  # the informer keeps every pod
        self._tell(functools.partial(self.take_over, pod.metadata.name, entry, router))

    def _miss(self, pod: Any) -> None:
        self._tell(functools.partial(self.take_over, pod.metadata.name, None))

    def _tell(self, what: Callable[[], None]) -> None:
        """Run `what` in the event loop, which may be gone by now."""
        assert self._loop is not None  # set before the informer starts
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            self._stop.set()

    def _listed(self) -> None:
        """The first list has come: a pool without pods is known as well."""
        if not self._is_listed:
            self._is_listed = True
            logger.info("registry: pool=%s/%s is watched", self._namespace, self._pool)
        self._told.clear()
        self._publish_entries()

    def take_over(self, name: str, entry: RegistryEntry | None, router: str | None = None) -> None:
        """Note which env_idx the pod `name` has; None: none, or it is gone. Runs in the event loop."""
        if before := self._routers.pop(name, None):
            self.routers_left[before] = time.monotonic()
        if router is not None:
            self._routers[name] = router
            self.routers_left.pop(router, None)
        if self._entries.get(name) == entry:
            return
        if entry is None:
            del self._entries[name]
        else:
            self._entries[name] = entry
            told = self._told.get(entry.env_idx)
            if told is not None and told.epoch <= entry.epoch:
                del self._told[entry.env_idx]
        self._publish_entries()

    def _publish_entries(self) -> None:
        self._publish(self._pool, latest((*self._entries.values(), *self._told.values())))

    def _complain(self, error: Any) -> None:
        """Say once what keeps the watch from going on. Runs in the informer's thread."""
        complaint = _reason(error)
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning("registry: the last good state stays in use: %s", complaint)


def entry_of(pod: Any) -> RegistryEntry | None:
    """Return the entry of a ``V1Pod``, or None where it serves no env_idx."""
    labels = pod.metadata.labels or {}
    idx, epoch = labels.get(LABEL_ENV_IDX, ""), labels.get(LABEL_ENV_EPOCH, "")
    address = pod.status.pod_ip if pod.status is not None else None
    if not (idx.isdecimal() and epoch.isdecimal() and address) or pod.status.phase in ENDED_PHASES:
        return None
    return RegistryEntry(env_idx=int(idx), uid=pod.metadata.uid, epoch=max(int(epoch), 1), url=env_server_url(address))


def router_of(pod: Any) -> str | None:
    """Return the URL of a ``V1Pod`` if it is a router that is ready, else None."""
    labels, status = pod.metadata.labels or {}, pod.status
    if labels.get(LABEL_COMPONENT) != COMPONENT_ROUTER or status is None or not status.pod_ip:
        return None
    is_ready = any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions or ())
    return env_server_url(status.pod_ip, ROUTER_PORT) if is_ready else None


def lighten(pod: Any) -> None:
    """Drop from a ``V1Pod`` what nobody here reads: a thousand whole ones take 200 MB and more."""
    if router_of(pod) is not None:
        return
    status = pod.status
    pod.spec = pod.metadata.managed_fields = pod.metadata.annotations = pod.metadata.owner_references = None
    pod.status = client.V1PodStatus(phase=status.phase, pod_ip=status.pod_ip) if status is not None else None


def listed_in_pages(call: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Return the list that `call` makes, of pods that were lightened page by page: they are never whole all at once."""
    found = call(**given, limit=PAGE_PODS)
    page = found
    while True:
        for pod in page.items:
            lighten(pod)
        if page is not found:
            found.items.extend(page.items)
        next_page = page.metadata.var_continue
        if not next_page:
            return found
        page = call(**given, limit=PAGE_PODS, _continue=next_page)


def latest(entries: Iterable[RegistryEntry]) -> dict[int, RegistryEntry]:
    """Return the entry of each env_idx: of two, which a lost node's pod can make, the one of the later epoch."""
    found: dict[int, RegistryEntry] = {}
    for entry in sorted(entries, key=lambda entry: entry.epoch):
        found[entry.env_idx] = entry
    return found


def _api() -> client.ApiClient:
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)
        except config.ConfigException as error:
            raise StartError(f"OSWORLD_ROUTER_POOL needs a cluster: {error}") from error
    settings.retries = False
    return client.ApiClient(settings)


def _reason(error: Any) -> str:
    if isinstance(error, client.ApiException):
        forbidden = {401: "the API server does not know this router", 403: "this router may not list pods"}
        return forbidden.get(error.status, f"the API server answered {error.status} {error.reason}")
    return f"no answer of the API server ({type(error).__name__})"

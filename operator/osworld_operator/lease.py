"""The lease by which one operator is the one writer: the leader. Others stand by, and take over when it is silent.

Not the client library's leader election: it ends with the first connection that breaks, and releases nothing when it is
stopped. The rules are those of Kubernetes' own controllers (client-go, ``tools/leaderelection``).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from osworld_contract.kube_names import ANNOTATION_OPERATOR_URL
from osworld_operator.api import Api
from osworld_operator.errors import ClusterError, NotFoundError, NotLeadingError

logger = logging.getLogger(__name__)

LEASE_S: Final = 8
"""How long a lease that nobody renews keeps others away. Half of client-go's default: the leader's node is called lost
after 20 s or more, and by then somebody has to lead. An API server that is away for so long is away for all."""
WRITE_S: Final = 5.0
"""How long its holder goes on after the last renewal. The difference is for what is on its way by then; what takes
longer carries the resourceVersion that was looked at."""
RENEW_S: Final = 1.5
"""Between two renewals, so that two of them may fail."""
RENEW_TIMEOUT_S: Final = 2.0
"""For one renewal. A guess: it is two small calls, and another one has to fit into `WRITE_S`."""


class Lease:
    """One lease, as `identity` sees it."""

    def __init__(self, api: Api, namespace: str, name: str, identity: str) -> None:
        self._api = api
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self.url = ""
        """Where others reach this operator while it leads; set once it listens."""
        self._until_s = 0.0
        self._standby_until_s = 0.0
        self._leader_url = ""
        self._seen: tuple[Any, ...] = ()
        self._seen_s = 0.0
        self._complaint = ""

    @property
    def is_held(self) -> bool:
        """Whether this operator may write now."""
        return time.monotonic() < self._until_s

    @property
    def is_standby(self) -> bool:
        """Whether another operator leads, as far as was seen lately."""
        return not self.is_held and time.monotonic() < self._standby_until_s

    @property
    def leader_url(self) -> str:
        """Where the operator that leads is reached; empty where it is this one, none, or one that does not say."""
        return self._leader_url if self.is_standby else ""

    @property
    def status(self) -> str:
        """Return in words whether this operator leads, and if not, why."""
        return "leader" if self.is_held else f"standby: {self._complaint}" if self.is_standby else self._no_leader

    @property
    def _no_leader(self) -> str:
        return self._complaint or "the lease was not asked for yet"

    def check(self) -> None:
        """Return if this operator may write.

        Raises:
            NotLeadingError: It may not.
        """
        if not self.is_held:
            raise NotLeadingError(f"the lease {self._name} is not held: {self._no_leader}")

    async def keep(self, on_gain: Callable[[], None]) -> None:
        """Get the lease and renew it until cancelled. `on_gain` is called whenever it was not held before."""
        while True:
            was_held = self.is_held
            try:
                async with asyncio.timeout(RENEW_TIMEOUT_S):
                    complaint = await self._renew()
            except ClusterError as error:
                complaint = str(error)
            except TimeoutError:
                complaint = f"no answer of the API server in {RENEW_TIMEOUT_S:g} s"
            if complaint and complaint != self._complaint:
                level = logging.INFO if self.is_standby and not was_held else logging.WARNING
                logger.log(level, "lease %s: %s", self._name, complaint)
            self._complaint = complaint
            if self.is_held and not was_held:
                logger.info("lease %s: held by %s", self._name, self._identity)
                on_gain()
            await asyncio.sleep(RENEW_S)

    async def release(self) -> None:
        """Let the next operator have it at once. One that cannot be released ends by itself."""
        if not self.is_held:
            return
        self._until_s = 0.0
        try:
            found = await self._read()
            if found and _spec(found).get("holderIdentity") == self._identity:
                await self._write(found, "")
        except ClusterError as error:
            logger.warning("lease %s: not released: %s", self._name, error)

    async def _renew(self) -> str:
        """Get or renew the lease; return what is in the way."""
        asked_s = time.monotonic()
        found = await self._read()
        if found is None:
            head = {"name": self._name}
            found = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": head, "spec": {}}
        spec = _spec(found)
        holder = spec.get("holderIdentity")
        seen = (holder, spec.get("renewTime"))
        if seen != self._seen:
            # By our own clock: that of the other may be wrong.
            self._seen, self._seen_s = seen, asked_s
        if holder and holder != self._identity and asked_s - self._seen_s < spec.get("leaseDurationSeconds", LEASE_S):
            self._until_s = 0.0
            self._standby_until_s = asked_s + LEASE_S
            self._leader_url = found["metadata"].get("annotations", {}).get(ANNOTATION_OPERATOR_URL, "")
            return f"{holder} has it"
        await self._write(found, self._identity)
        self._until_s = asked_s + WRITE_S
        return ""

    async def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self._api.call("GET", f"{self._folder}/{self._name}")
        except NotFoundError:
            return None
        return found

    async def _write(self, found: dict[str, Any], holder: str) -> None:
        """Write the lease as it was read, so that of two who want it one is refused."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = _spec(found)
        spec = {**before, "holderIdentity": holder, "leaseDurationSeconds": LEASE_S, "renewTime": now}
        if before.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": before.get("leaseTransitions", 0) + 1}
        annotations = {**found["metadata"].get("annotations", {}), ANNOTATION_OPERATOR_URL: self.url if holder else ""}
        head = {**found["metadata"], "annotations": annotations}
        method, path = "POST", self._folder
        if "resourceVersion" in found["metadata"]:
            method, path = "PUT", f"{self._folder}/{self._name}"
        await self._api.call(method, path, {**found, "metadata": head, "spec": spec})


def _spec(lease: dict[str, Any]) -> dict[str, Any]:
    return lease.get("spec") or {}

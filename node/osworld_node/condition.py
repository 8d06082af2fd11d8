"""What the node says about KVM to people: the condition ``KVMReady`` in its status, with the reason.

The kubelet leaves conditions of others alone, and the scheduler reads none: what decides is the device's health.
"""

import asyncio
import datetime
import logging
from typing import Any, Final

import aiohttp
from kubernetes.aio import client, config

from osworld_node.proof import Health

TYPE: Final = "KVMReady"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
"""Merges conditions by their type. Source: Kubernetes API concepts, "Patch"."""

CALL_TIMEOUT_S: Final = 20.0
RETRY_S: Final = 10.0
HEARTBEAT_S: Final = 300.0
"""How often it is said again though nothing changed. Source: the kubelet's own interval of reports without a change."""

_LOG: Final = logging.getLogger(__name__)


async def keep_told(node: str, health: Health) -> None:
    """Keep the condition of `node` as `health` is, until cancelled.

    Raises:
        kubernetes.aio.config.ConfigException: This is no pod with a service account.
    """
    settings = client.Configuration()
    config.load_incluster_config(client_configuration=settings)
    async with client.ApiClient(settings) as api:
        core = client.CoreV1Api(api)
        while True:
            change = health.change
            try:
                await _tell(core, node, health)
                wait_s = HEARTBEAT_S
            except (client.ApiException, aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
                _LOG.warning("the condition %s of %s could not be written: %s", TYPE, node, _brief(error))
                wait_s = RETRY_S
            try:
                async with asyncio.timeout(wait_s):
                    await change.wait()
            except TimeoutError:
                pass


async def _tell(core: Any, node: str, health: Health) -> None:
    found = await core.read_node(node, _request_timeout=CALL_TIMEOUT_S)
    before = next((each for each in found.status.conditions or () if each.type == TYPE), None)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = str(health.healthy)
    since = before.last_transition_time.strftime("%Y-%m-%dT%H:%M:%SZ") if before and before.status == status else now
    condition = {
        "type": TYPE,
        "status": status,
        "reason": "ProofPassed" if health.healthy else "ProofFailed",
        "message": health.reason or "a machine starts under KVM",
        "lastHeartbeatTime": now,
        "lastTransitionTime": since,
    }
    body = {"status": {"conditions": [condition]}}
    await core.patch_node_status(node, body, _content_type=STRATEGIC_PATCH, _request_timeout=CALL_TIMEOUT_S)


def _brief(error: Exception) -> str:
    return f"{error.status} {error.reason}" if isinstance(error, client.ApiException) else str(error) or repr(error)

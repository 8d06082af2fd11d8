"""One call to the API server: JSON in, JSON out, errors of ours. Connection, TLS and tokens are the client library's.

The library's typed models are passed by: manifests are made as JSON, and a thousand pods are read ten times faster.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config

from osworld_operator.errors import UnavailableError, cluster_error

CALL_TIMEOUT_S: Final = 20.0
"""A guess: the longest answer is a list of a thousand pods."""

CONNECTIONS_MAX: Final = 32

MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
"""Source: Kubernetes API concepts, "Patch". JSON is YAML."""


class Api(AbstractAsyncContextManager["Api"]):
    """The API server that the pod's service account or ``KUBECONFIG`` names."""

    def __init__(self, settings: client.Configuration) -> None:
        settings.connection_pool_maxsize = CONNECTIONS_MAX
        self._client = client.ApiClient(settings)

    @classmethod
    async def connect(cls) -> Self:
        """Return the API server of this pod, or else of the kubeconfig. Nothing is sent yet.

        Raises:
            kubernetes.aio.config.ConfigException: There is neither.
        """
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=settings)
        return cls(settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Return the parsed reply.

        Raises:
            ClusterError: See `osworld_operator.errors`.
        """
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                request = await self._client.param_serialize(
                    method,
                    path,
                    query_params=list((query or {}).items()),
                    header_params=headers,
                    body=body,
                    auth_settings=["BearerToken"],
                )
                response = await self._client.call_api(*request, _request_timeout=CALL_TIMEOUT_S)
                data = await response.read()
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise UnavailableError(f"{method} {path}: {error or type(error).__name__}") from error
        if response.status >= 400:
            raise cluster_error(response.status, _message(data) or f"{method} {path}: {response.status}")
        return json.loads(data) if data else None


def _message(data: bytes) -> str:
    """Return the message of a ``metav1.Status``."""
    try:
        found = json.loads(data)
    except ValueError:
        return data[:500].decode(errors="replace")
    return str(found.get("message", "")) if isinstance(found, dict) else ""

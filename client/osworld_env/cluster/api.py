"""Calls to the API server: JSON in, JSON out, errors of ours. Kubeconfig, TLS and log-in are the client library's."""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self, cast

import urllib3
from kubernetes import client, config
from kubernetes.client.rest import RESTResponse
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION
from kubernetes.stream import portforward

from osworld_env.errors import BadUsageError, ClusterError, GoneError

CALL_TIMEOUT_S: Final = 20.0
"""A guess: the longest answer is a list of a thousand pods."""

STREAM_SILENCE_S: Final = 3600.0
"""How long a followed log may say nothing. A guess: an env that nobody uses says nothing for hours."""

MERGE_PATCH: Final = "application/merge-patch+json"

NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE: Final = "default"


class ClusterApi(contextlib.AbstractContextManager["ClusterApi"]):
    """The API server that a kubeconfig's context names, or the one that this pod runs under."""

    def __init__(self, settings: client.Configuration, namespace: str) -> None:
        self._client = client.ApiClient(settings)
        self.namespace = namespace
        """Where nothing else is said."""

    @classmethod
    def connect(cls, namespace: str | None, context: str | None) -> Self:
        """Return the API server of `context`, of the kubeconfig's current one for None. Nothing is sent yet.

        Raises:
            BadUsageError: There is no kubeconfig, or no such context in it.
        """
        settings = client.Configuration()
        settings.retries = False  # ours to decide; the library's default hides an outage for minutes
        try:
            if context is None and NAMESPACE_FILE.exists() and not Path(KUBE_CONFIG_DEFAULT_LOCATION).exists():
                config.load_incluster_config(client_configuration=settings)
                return cls(settings, namespace or NAMESPACE_FILE.read_text().strip())
            config.load_kube_config(context=context, client_configuration=settings)
            known, active = config.list_kube_config_contexts()
        except config.ConfigException as error:
            raise BadUsageError(f"no cluster is known here: {error}", ("KUBECONFIG names the file to read",)) from error
        if not settings.verify_ssl:  # the kubeconfig says so, and kubectl does not warn either
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        chosen = active if context is None else next(item for item in known if item["name"] == context)
        return cls(settings, namespace or chosen["context"].get("namespace") or DEFAULT_NAMESPACE)

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Return the parsed reply.

        Raises:
            ClusterError: The API server cannot be reached, or said no.
        """
        response = self._send(method, path, body, query, content_type, CALL_TIMEOUT_S)
        data = self._read(response, f"{method} {path}")
        return json.loads(data) if data else None

    def lines(self, path: str, query: Mapping[str, str]) -> Iterator[str]:
        """Yield the lines of a reply as they come, until it ends.

        Raises:
            ClusterError: As `call`, also in the middle.
        """
        response = self._send("GET", path, None, query, "application/json", STREAM_SILENCE_S).response
        try:
            rest = b""
            for chunk in response.stream(amt=2**16, decode_content=False):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
            if rest:
                yield rest.decode(errors="replace")
        except urllib3.exceptions.HTTPError as error:
            raise ClusterError(f"the reply of GET {path} broke off: {error}") from error
        finally:
            response.close()

    def forward(self, pod: str, port: int) -> socket.socket:
        """Return a connection with `port` inside of `pod`, through the API server and the node's kubelet.

        Raises:
            ClusterError: There is no way there.
        """
        core = client.CoreV1Api(self._client)
        try:
            tunnel = portforward(core.connect_get_namespaced_pod_portforward, pod, self.namespace, ports=str(port))
        except client.ApiException as error:
            said = " ".join(str(error.reason).split())[:200]
            raise ClusterError(f"no connection with pod {pod} through the API server: {said}") from error
        return cast("socket.socket", tunnel.socket(port))

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, str] | None,
        content_type: str,
        timeout_s: float,
    ) -> RESTResponse:
        """Return the reply, its body unread, once its status is a good one."""
        headers = {"Accept": "application/json, */*", "Content-Type": content_type}
        request = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._client.call_api(*request, _request_timeout=(CALL_TIMEOUT_S, timeout_s))
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            raise ClusterError(f"the API server cannot be reached: {_words(error)}") from error
        if response.status < 400:
            return response
        said = _message(self._read(response, path)) or f"{method} {path}: {response.status}"
        raise GoneError(said) if response.status == 404 else ClusterError(said)

    @staticmethod
    def _read(response: RESTResponse, what: str) -> bytes:
        try:
            return bytes(response.read() or b"")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"the reply of {what} broke off: {error}") from error


def _words(error: BaseException) -> str:
    """Return what is wrong, without the names of classes that the library puts around it."""
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()).rpartition(">: ")[2] or type(error).__name__


def _message(data: bytes) -> str:
    """Return the message of a ``metav1.Status``."""
    try:
        found = json.loads(data)
    except ValueError:
        return data[:500].decode(errors="replace")
    return str(found.get("message", "")) if isinstance(found, dict) else ""

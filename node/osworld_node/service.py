"""The plugin's life: proofs at an interval, the device watched, the kubelet told again whenever it starts anew."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any, Final

import grpc
import watchfiles

from osworld_node import protocol
from osworld_node.condition import keep_told
from osworld_node.metrics import NodeMetrics
from osworld_node.plugin import Plugin, serve_on
from osworld_node.proof import Health, prove
from osworld_node.settings import SOCKET_NAME, NodeSettings

_LOG: Final = logging.getLogger(__name__)
_REGISTER_SECONDS: Final = 10
_PAUSE_SECONDS: Final = 1


async def run(settings: NodeSettings, health: Health, metrics: NodeMetrics) -> None:
    """Serve until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_keep_proving(settings, health, metrics))
        tasks.create_task(_keep_registered(settings, Plugin(settings, health)))
        if settings.node_name:
            tasks.create_task(keep_told(settings.node_name, health))


async def _keep_proving(settings: NodeSettings, health: Health, metrics: NodeMetrics) -> None:
    device = settings.node_kvm_device
    while True:
        present = device.exists()
        began_s = time.monotonic()
        reason = await prove(settings)
        seconds = time.monotonic() - began_s
        if not reason:
            health.proved()
        elif device.exists():
            health.failed(reason)
        else:
            health.gone(reason)
        if reason:
            _LOG.warning("%s: %s", settings.node_kvm_resource, reason)
        slots = settings.node_kvm_slots
        metrics.note(passed=not reason, seconds=seconds, ready=health.healthy, slots=slots)
        try:
            async with asyncio.timeout(settings.node_proof_interval):
                # The folder is watched by the kernel; a device that comes or goes ends the wait for the next proof.
                async for _ in watchfiles.awatch(
                    device.parent, recursive=False, debounce=50, step=50, yield_on_timeout=True
                ):
                    if device.exists() != present:
                        break
        except TimeoutError:
            pass


async def _keep_registered(settings: NodeSettings, plugin: Plugin) -> None:
    socket = settings.node_kubelet_dir / SOCKET_NAME
    kubelet = settings.node_kubelet_dir / "kubelet.sock"
    while True:
        # A kubelet that starts removes every socket in its folder: the plugin's is made anew each time.
        socket.unlink(missing_ok=True)
        server = serve_on(socket, plugin)
        await server.start()
        try:
            known = _identity(kubelet)
            await _register(settings, kubelet)
            _LOG.info("registered %s with the kubelet", settings.node_kvm_resource)
            await _until_changed(settings.node_kubelet_dir, kubelet, socket, known)
        except grpc.aio.AioRpcError as error:
            _LOG.warning("the kubelet did not register the plugin: %s", error.details())
            await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            await server.stop(grace=None)


async def _register(settings: NodeSettings, kubelet: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{kubelet}") as channel:
        call: Any = channel.unary_unary(
            f"/{protocol.REGISTRATION}/Register",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=protocol.Empty.FromString,
        )
        request = protocol.RegisterRequest(
            version=protocol.VERSION, endpoint=SOCKET_NAME, resource_name=settings.node_kvm_resource
        )
        await call(request, timeout=_REGISTER_SECONDS)


async def _until_changed(folder: Path, kubelet: Path, socket: Path, known: tuple[int, int] | None) -> None:
    while _identity(kubelet) == known and _identity(socket) is not None:
        async for _ in watchfiles.awatch(folder, recursive=False, debounce=50, step=50, yield_on_timeout=True):
            break


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns

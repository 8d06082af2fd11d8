"""What the kubelet calls: lists the device's slots as they change, and gives the device to a container."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from osworld_node import protocol
from osworld_node.proof import Health
from osworld_node.settings import NodeSettings


class Plugin:
    """The device plugin's service."""

    def __init__(self, settings: NodeSettings, health: Health) -> None:
        self._settings = settings
        self._health = health

    async def options(self, _request: Any, _context: Any) -> Any:
        """Return that nothing optional is offered."""
        return protocol.DevicePluginOptions()

    async def list_and_watch(self, _request: Any, _context: Any) -> AsyncIterator[Any]:
        """Yield all slots now and after each change."""
        while True:
            change = self._health.change
            state = protocol.HEALTHY if self._health.healthy else protocol.UNHEALTHY
            slots = range(self._settings.node_kvm_slots)
            yield protocol.ListAndWatchResponse(
                devices=[protocol.Device(ID=f"kvm-{slot}", health=state) for slot in slots]
            )
            await change.wait()

    async def allocate(self, request: Any, _context: Any) -> Any:
        """Return the device for each container that was given a slot."""
        path = str(self._settings.node_kvm_device)
        device = protocol.DeviceSpec(container_path="/dev/kvm", host_path=path, permissions="rw")
        answer = protocol.ContainerAllocateResponse(devices=[device])
        return protocol.AllocateResponse(container_responses=[answer for _ in request.container_requests])


def serve_on(socket: Path, plugin: Plugin) -> grpc.aio.Server:
    """Return a server for ``plugin`` at a Unix socket, not started yet."""
    server = grpc.aio.server()
    handlers = {
        "GetDevicePluginOptions": _unary(plugin.options, protocol.Empty),
        "ListAndWatch": grpc.unary_stream_rpc_method_handler(
            plugin.list_and_watch, protocol.Empty.FromString, lambda message: message.SerializeToString()
        ),
        "Allocate": _unary(plugin.allocate, protocol.AllocateRequest),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(protocol.DEVICE_PLUGIN, handlers),))
    server.add_insecure_port(f"unix:{socket}")
    return server


def _unary(method: Any, request: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(method, request.FromString, lambda message: message.SerializeToString())

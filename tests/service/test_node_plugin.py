"""The node plugin against the kubelet's end of the protocol, over Unix sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from osworld_contract.settings import SettingsError
from osworld_node import protocol
from osworld_node.metrics import NodeMetrics
from osworld_node.proof import Health
from osworld_node.service import run
from osworld_node.settings import NodeSettings, load_settings

SECONDS = 60


class Kubelet:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registered: asyncio.Queue[Any] = asyncio.Queue()

    async def _register(self, request: Any, _context: Any) -> Any:
        self.registered.put_nowait(request)
        return protocol.Empty()

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        for left in self.folder.iterdir():
            left.unlink()
        server = grpc.aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(
            self._register, protocol.RegisterRequest.FromString, lambda message: message.SerializeToString()
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(protocol.REGISTRATION, {"Register": handler}),)
        )
        server.add_insecure_port(f"unix:{self.folder}/kubelet.sock")
        await server.start()
        try:
            yield
        finally:
            await server.stop(grace=None)

    async def next_registration(self) -> Any:
        async with asyncio.timeout(SECONDS):
            return await self.registered.get()


@contextlib.asynccontextmanager
async def plugin(settings: NodeSettings) -> AsyncIterator[None]:
    task = asyncio.create_task(run(settings, Health(settings.node_proof_failures), NodeMetrics()))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def devices(folder: Path) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"unix:{folder}/osworld-kvm.sock") as channel:
        yield channel


def watch(channel: Any) -> Any:
    return channel.unary_stream(
        f"/{protocol.DEVICE_PLUGIN}/ListAndWatch",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=protocol.ListAndWatchResponse.FromString,
    )(protocol.Empty(), timeout=SECONDS)


async def until(stream: Any, health: str) -> Any:
    async for listed in stream:
        if {device.health for device in listed.devices} == {health}:
            return listed
    raise AssertionError("the plugin ended the list")


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kvm").touch()
    (tmp_path / "works").touch()
    (tmp_path / "plugins").mkdir()
    return NodeSettings(
        node_kvm_slots=4,
        node_kvm_device=tmp_path / "dev/kvm",
        node_kubelet_dir=tmp_path / "plugins",
        node_proof_command=("test", "-e", str(tmp_path / "works")),
        node_proof_interval=0.2,
    )


async def test_slots_follow_proofs_and_the_device(settings: NodeSettings, tmp_path: Path) -> None:
    kubelet = Kubelet(settings.node_kubelet_dir)
    async with kubelet.started(), plugin(settings):
        request = await kubelet.next_registration()
        assert (request.version, request.endpoint, request.resource_name) == (
            "v1beta1",
            "osworld-kvm.sock",
            "osworld.dev/kvm",
        )
        async with devices(settings.node_kubelet_dir) as channel:
            stream = watch(channel)
            assert len((await until(stream, "Healthy")).devices) == 4
            (tmp_path / "works").unlink()
            await until(stream, "Unhealthy")
            (tmp_path / "works").touch()
            await until(stream, "Healthy")


async def test_a_device_that_goes_is_seen_without_a_proof(settings: NodeSettings) -> None:
    slow = settings.model_copy(update={"node_proof_interval": 3600.0})
    kubelet = Kubelet(settings.node_kubelet_dir)
    async with kubelet.started(), plugin(slow):
        await kubelet.next_registration()
        async with devices(settings.node_kubelet_dir) as channel:
            stream = watch(channel)
            await until(stream, "Healthy")
            settings.node_kvm_device.unlink()
            await until(stream, "Unhealthy")


async def test_a_kubelet_that_starts_anew_is_told_again(settings: NodeSettings) -> None:
    kubelet = Kubelet(settings.node_kubelet_dir)
    async with plugin(settings):
        for _ in range(3):
            async with kubelet.started():
                await kubelet.next_registration()
                async with devices(settings.node_kubelet_dir) as channel:
                    await until(watch(channel), "Healthy")


@pytest.mark.parametrize("command", ["", "true", "[]", None])
def test_a_proof_that_is_no_command_is_one_sentence(command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSWORLD_NODE_PROOF_COMMAND", raising=False)
    if command is not None:
        monkeypatch.setenv("OSWORLD_NODE_PROOF_COMMAND", command)
    with pytest.raises(SettingsError, match="OSWORLD_NODE_PROOF_COMMAND: "):
        load_settings()

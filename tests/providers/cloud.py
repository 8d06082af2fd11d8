"""EC2 and S3 as moto plays them, instance metadata, and guests at addresses that instances get.

moto is a server in an environment of its own (``scripts/setup moto``); it is asked by the AWS library there.
"""

import contextlib
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from aiohttp import web

from image_rig import qcow2_disk
from osworld_contract.places import cache_dir
from osworld_env.ports import free_port
from waiting import wait_until

MOTO: Final = cache_dir() / "test-moto" / "bin"
HERE: Final = Path(__file__).parent
GUESTS: Final = ipaddress.ip_network("198.19.251.0/28")
"""Of the benchmarking range, which no network routes. On the loopback device all its addresses are this machine's."""

UP_DEADLINE_S: Final = 60.0
KEYS: Final = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}
ASK: Final = """
import boto3, json, sys
service, operation, arguments = sys.argv[1:]
call = getattr(boto3.client(service, region_name="us-east-1"), operation)
print(json.dumps(call(**json.loads(arguments)), default=str))
"""


@dataclass(frozen=True)
class Cloud:
    """A running moto."""

    url: str

    @property
    def variables(self) -> dict[str, str]:
        """Return what leads the AWS libraries here."""
        return KEYS | {"AWS_ENDPOINT_URL": self.url}

    def ask(self, service: str, operation: str, **arguments: Any) -> Any:
        """Return the answer of a service's operation."""
        argv = [str(MOTO / "python"), "-c", ASK, service, operation, json.dumps(arguments)]
        environment = {"PATH": os.environ["PATH"]} | self.variables
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    def upload(self, bucket: str, key: str, data: bytes, acl: str = "private") -> str:
        """Put an object into a bucket that everybody may write to, and return its ETag."""
        url, headers = f"{self.url}/{bucket}/{key}", {"x-amz-acl": acl}
        reply = httpx.put(url, content=data, headers=headers, timeout=60).raise_for_status()
        return str(reply.headers["ETag"])

    def instances(self) -> dict[str, str]:
        """Return the state of each instance that there was, by its name."""
        found = self.ask("ec2", "describe_instances")["Reservations"]
        return {each["InstanceId"]: each["State"]["Name"] for one in found for each in one["Instances"]}

    def running(self) -> list[str]:
        """Return the instances that cost money."""
        return [name for name, state in self.instances().items() if state not in ("terminated", "shutting-down")]

    def forget(self) -> None:
        """Begin anew with nothing."""
        httpx.post(f"{self.url}/moto-api/reset", timeout=30).raise_for_status()


@contextlib.contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    """Give a running moto."""
    port = free_port()
    argv = [str(MOTO / "python"), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        running = Cloud(f"http://127.0.0.1:{port}")
        try:
            what = f"moto, log {folder / 'moto.log'}"
            wait_until(lambda: _answers(f"{running.url}/moto-api/"), UP_DEADLINE_S, what)
            yield running
        finally:
            process.kill()


@dataclass(frozen=True)
class Guests:
    """One small guest that answers at every address of `GUESTS`."""

    disk: Path
    home: Path

    def say(self, **behaviour: object) -> None:
        """Tell it, before it is up, how to behave."""
        with self.disk.open("ab") as file:
            file.write(b"\n" + json.dumps(behaviour).encode())


@contextlib.contextmanager
def guests(folder: Path, *, wait: bool = True, **behaviour: object) -> Iterator[Guests]:
    """Give a small guest on this machine, with a ``bin`` of its own before all other programs."""
    there = Guests(folder / "disk", folder / "home")
    (there.home / "bin").mkdir(parents=True)
    (there.home / "bin" / "python").symlink_to(sys.executable)
    there.disk.write_bytes(qcow2_disk(1000))
    there.say(**behaviour)
    environment = {
        "PATH": f"{there.home / 'bin'}:{os.environ['PATH']}", "GUEST_DISK": str(there.disk),
        "GUEST_HOSTS": ",".join(map(str, GUESTS)), "PYTHONPATH": str(HERE), "HOME": str(there.home),
    }  # fmt: skip
    subprocess.run(["ip", "address", "replace", str(GUESTS), "dev", "lo"], check=True, timeout=30)
    try:
        with subprocess.Popen([sys.executable, str(HERE / "small_guest.py")], env=environment) as process:
            try:
                if wait:
                    wait_until(lambda: _answers(f"http://{GUESTS[1]}:5000/screenshot"), UP_DEADLINE_S, "a guest")
                yield there
            finally:
                process.kill()
    finally:
        subprocess.run(["ip", "address", "delete", str(GUESTS), "dev", "lo"], check=True, timeout=30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@dataclass
class Metadata:
    """The metadata service of an instance, second version: without a token it says nothing."""

    subnet: str
    group: str
    url: str = ""
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if request.method == "PUT" and request.path == "/latest/api/token":
            is_right = 1 <= int(request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", 0)) <= 21600
            return web.Response(text="the-token") if is_right else web.Response(status=400)
        if request.headers.get("X-aws-ec2-metadata-token") != "the-token":
            return web.Response(status=401)
        interface = "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01"
        known = {
            "/latest/meta-data/mac": "02:00:00:00:00:01",
            f"{interface}/subnet-id": self.subnet,
            f"{interface}/security-group-ids": f"{self.group}\nsg-another",
        }
        text = known.get(request.path)
        return web.Response(text=text) if text else web.Response(status=404)


@contextlib.asynccontextmanager
async def metadata(subnet: str, group: str) -> AsyncIterator[Metadata]:
    """Give a metadata service that tells `subnet` and `group`."""
    service = Metadata(subnet, group)
    runner = web.ServerRunner(web.Server(service.answer))  # type: ignore[arg-type] # aiohttp's own types are narrower
    await runner.setup()
    port = free_port()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    service.url = f"http://127.0.0.1:{port}"
    try:
        yield service
    finally:
        await runner.cleanup()

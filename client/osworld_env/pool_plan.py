"""What a local pool is made of: settings, and from them the programs to start. Pure."""

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osworld_contract.names import BOOTED_PROVIDERS, ENV_TOKEN, ENV_UPSTREAM_TOKEN
from osworld_env.keeper import Launch, Limits

ENV_HOST: Final = "127.0.0.1"
"""Env servers of a local pool listen here only; the router is what may listen elsewhere."""

WILDCARDS: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, never bound here

_TOKEN_BYTES: Final = 32


BOOT_START_S: Final = 7200.0
"""From started to ready, where a machine has to be booted first: the image's fetch (3600 s) and a boot under emulation
(2400 s), both bounded by the env server itself, and room."""


def limits_for(provider: str) -> Limits:
    """Return how long env servers of `provider` may take."""
    return Limits(start_s=BOOT_START_S) if provider in BOOTED_PROVIDERS else Limits()


@dataclass(frozen=True)
class PoolPlan:
    """One local pool."""

    envs: int
    """How many envs: env_idx 0 to envs - 1."""
    provider: str
    host: str
    """Where the router listens."""
    port: int
    run_dir: Path
    """Private folder of registry and logs; exists."""
    spares: int = 0
    """How many env servers beside them, ready to take the env_idx of one that ended."""
    is_insecure: bool = False
    """Listen beyond this machine without a token."""
    router_token: str | None = field(default=None, repr=False)
    """What the router asks of its clients."""
    env_variables: Mapping[str, str] = field(default_factory=dict)
    """Settings for the env servers, beside those that the pool decides itself."""
    upstream_token: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES), repr=False)
    """What env servers ask of the router: a fresh one for each pool, known to router and env servers alone."""
    limits: Limits = field(default_factory=Limits)

    @property
    def registry_path(self) -> Path:
        """Return the registry file, which this pool alone writes."""
        return self.run_dir / "registry.json"

    @property
    def router_url(self) -> str:
        """Return the router's URL as seen from this machine."""
        host = ENV_HOST if self.host in WILDCARDS else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def log_path(self, name: str) -> Path:
        """Return the log file of the program `name`."""
        return self.run_dir / f"{name.replace(' ', '-')}.log"


@dataclass(frozen=True)
class Server:
    """One env server's process. The next one in its slot has another uid and another port."""

    slot: int
    uid: str
    port: int

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://{ENV_HOST}:{self.port}"


def next_server(slot: int, port: int) -> Server:
    """Return a fresh env server for `slot` at `port`."""
    return Server(slot, f"local-{slot}-{secrets.token_hex(6)}", port)


def env_launch(plan: PoolPlan, server: Server, environment: Mapping[str, str]) -> Launch:
    """Return how `server` is started, with `environment` as the base of its variables."""
    variables = {key: value for key, value in environment.items() if key != ENV_UPSTREAM_TOKEN}
    variables |= plan.env_variables
    variables |= {
        "PROVIDER": plan.provider,
        "OSWORLD_HOST": ENV_HOST,
        "OSWORLD_PORT": str(server.port),
        "OSWORLD_UID": server.uid,
        "OSWORLD_INSECURE": "0",  # desktops of this machine could reach an env server that asks for no token
        ENV_TOKEN: plan.upstream_token,
        "PYTHONUNBUFFERED": "1",
    }
    return Launch((sys.executable, "-m", "osworld_envpod"), variables, f"{server.url}/readyz", server.port)


def router_launch(
    plan: PoolPlan, environment: Mapping[str, str], door_port: int | None = None, listen_fd: int | None = None
) -> Launch:
    """Return how the router of `plan` is started.

    Args:
        plan: The pool.
        environment: The base of its variables.
        door_port: Where it asks for moves.
        listen_fd: A socket that listens already: connections wait there while the router is started again.
    """
    variables = {key: value for key, value in environment.items() if key != ENV_TOKEN}
    variables |= {
        "OSWORLD_ROUTER_HOST": plan.host,
        "OSWORLD_ROUTER_PORT": str(plan.port),
        "OSWORLD_REGISTRY_FILE": str(plan.registry_path),
        "OSWORLD_INSECURE": str(int(plan.is_insecure)),
        ENV_UPSTREAM_TOKEN: plan.upstream_token,
        "PYTHONUNBUFFERED": "1",
    }
    if door_port is not None:
        variables["OSWORLD_ROUTER_MOVE_URL"] = f"http://{ENV_HOST}:{door_port}"
    if listen_fd is not None:
        variables["OSWORLD_ROUTER_LISTEN_FD"] = str(listen_fd)
    if plan.router_token:
        variables[ENV_TOKEN] = plan.router_token
    fds = () if listen_fd is None else (listen_fd,)
    return Launch((sys.executable, "-m", "osworld_router"), variables, f"{plan.router_url}/health", plan.port, fds)

"""A local pool: env servers and a router as processes of this machine. The one writer of its registry file.

The registry names an env server from the moment it is ready and has an env_idx. The env_idx of one that ends goes to a
spare at once. Without a spare its old entry stays until an env server is ready, so that the router answers
``env_down`` and not ``unknown_env``. Each next entry has another uid and the next epoch.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import httpx
from pydantic import ValidationError

from osworld_contract.registry import MoveRequest, Registry, RegistryEntry, write_registry
from osworld_contract.wire import EnvState
from osworld_env.child import Child
from osworld_env.errors import CliError, ProgramError
from osworld_env.foreground import Interrupts
from osworld_env.keeper import Keeper, KeeperState, Launch
from osworld_env.pool_plan import PoolPlan, Server, env_launch, next_server, router_launch
from osworld_env.pool_seats import Seats, Tenancy
from osworld_env.ports import PortPicker, listen

_logger = logging.getLogger(__name__)

STATE_TIMEOUT_S: Final = 2.0
STARTS_AT_ONCE: Final = max(2, os.cpu_count() or 2)
"""More desktops starting at a time than processors only make each of them late."""


@dataclass(frozen=True)
class EnvView:
    """One env server as the live table shows it."""

    env_idx: int | None
    """None for a spare."""
    epoch: int
    pid: int | None
    port: int | None
    keeper: KeeperState
    state: EnvState | None
    """None while the env server does not answer."""


class LocalPool:
    """The programs of `plan`. Made and ended by `running_pool`."""

    def __init__(self, plan: PoolPlan, ports: PortPicker) -> None:
        self.plan = plan
        self._seats = Seats(plan.envs)
        self._servers: dict[int, Server] = {}
        """The last env server of each slot, starting, living or ended."""
        self._ports = ports
        self._listener: socket.socket | None = None
        """The router's, which outlives it."""
        self._door_port = self._ports.pick() if plan.spares else None
        self._envs = [
            Keeper(
                f"env {slot}",
                partial(self._launch_env, slot),
                partial(self._came_up, slot),
                plan.log_path(f"env {slot}"),
                plan.limits,
                partial(self._ended, slot),
            )
            for slot in range(plan.envs + plan.spares)
        ]
        self._router = Keeper(
            "router",
            self._launch_router,
            lambda _: None,
            plan.log_path("router"),
            plan.limits,
        )

    async def start(self) -> None:
        """Start all env servers, then the router.

        Raises:
            ProgramError: One did not become ready.
        """
        gate = asyncio.Semaphore(STARTS_AT_ONCE)

        async def start_one(keeper: Keeper) -> None:
            async with gate:
                await keeper.start()

        try:
            async with asyncio.TaskGroup() as starts:
                for keeper in self._envs:
                    starts.create_task(start_one(keeper), name=keeper.name)
        except ExceptionGroup as group:
            raise _first_cli_error(group) from group
        self._listener = listen(self.plan.host, self.plan.port)
        await self._router.start()
        _logger.info("router at %s", self.plan.router_url)

    async def watch(self) -> None:
        """Keep all programs running until cancelled.

        Raises:
            ProgramError: The router, or every env server, was given up.
        """
        try:
            async with asyncio.TaskGroup() as watches:
                watches.create_task(self._watch_router())
                watches.create_task(self._watch_envs())
        except ExceptionGroup as group:
            raise _first_cli_error(group) from group

    async def stop(self) -> None:
        """End all programs, the router first, so that no call is sent to an env server on its way out."""
        await self._router.stop()
        if self._listener is not None:
            self._listener.close()
        await asyncio.gather(*(keeper.stop() for keeper in self._envs))

    def kill(self) -> None:
        """Send SIGKILL to all programs at once; `stop` then has only to reap them."""
        for keeper in (self._router, *self._envs):
            keeper.kill()

    async def views(self) -> list[EnvView]:
        """Return all envs as they are now, then the spares; each is asked for its state once, at the same time."""
        headers = {"Authorization": f"Bearer {self.plan.upstream_token}"}
        timeout = httpx.Timeout(STATE_TIMEOUT_S)
        async with httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=False) as http:
            tenancies = {tenancy.server.slot: tenancy for tenancy in self._seats.tenancies}
            views = (self._view(slot, tenancies.get(slot), http) for slot in range(len(self._envs)))
            return sorted(await asyncio.gather(*views), key=_by_env_idx)

    def move(self, env_idx: int, wanted: MoveRequest) -> RegistryEntry | None:
        """Give `env_idx` to a spare, and end the env server that had it. Returns who has it then, None without a spare.

        Whatever it is still doing must not go on beside its successor's work; it comes back clean, as a spare.
        """
        before = {tenancy.env_idx: tenancy for tenancy in self._seats.tenancies}.get(env_idx)
        after = self._seats.move(env_idx, wanted.from_uid, wanted.epoch)
        if after is not None and before is not None and after is not before:
            self._write_registry()
            self._log_move(after)
            self._envs[before.server.slot].kill()
        return after.entry() if after is not None else None

    @asynccontextmanager
    async def door(self) -> AsyncIterator[None]:
        """Answer the router's wishes while the context is open, where there are spares."""
        if self._door_port is None:
            yield
            return
        from osworld_env.pool_door import open_door  # noqa: PLC0415 - needs the router's extra, the client does not

        async with open_door(self._door_port, self.plan.upstream_token, self.move):
            yield

    async def _view(self, slot: int, tenancy: Tenancy | None, http: httpx.AsyncClient) -> EnvView:
        keeper = self._envs[slot]
        state = None
        if keeper.port is not None and keeper.state is KeeperState.READY:
            try:
                reply = await http.get(f"http://127.0.0.1:{keeper.port}/state")
                state = EnvState.model_validate_json(reply.content)
            except (httpx.HTTPError, ValidationError):
                _logger.debug("%s gave no state", keeper.name, exc_info=True)
        pid = keeper.child.pid if keeper.child is not None and keeper.child.returncode is None else None
        env_idx, epoch = (tenancy.env_idx, tenancy.epoch) if tenancy else (None, 0)
        return EnvView(env_idx, epoch, pid, keeper.port, keeper.state, state)

    def _launch_router(self) -> Launch:
        assert self._listener is not None, "the pool is not started"
        return router_launch(self.plan, os.environ, self._door_port, self._listener.fileno())

    def _launch_env(self, slot: int) -> Launch:
        server = self._servers[slot] = next_server(slot, self._ports.pick())
        return env_launch(self.plan, server, os.environ)

    def _came_up(self, slot: int, child: Child) -> None:
        server = self._servers[slot]
        self._ports.release(server.port)
        tenancy = self._seats.came_up(server)
        if tenancy is None:
            _logger.info("spare %d is ready: pid %d, port %d", slot, child.pid, server.port)
            return
        self._write_registry()
        _logger.info(
            "env %d is ready: pid %d, port %d, epoch %d", tenancy.env_idx, child.pid, server.port, tenancy.epoch
        )

    def _ended(self, slot: int) -> None:
        self._ports.release(self._servers[slot].port)
        tenancy = self._seats.ended(slot)
        if tenancy is not None:
            self._write_registry()
            self._log_move(tenancy)

    def _log_move(self, tenancy: Tenancy) -> None:
        spare = self._envs[tenancy.server.slot].name
        _logger.info("env %d moved to the spare %r, epoch %d", tenancy.env_idx, spare, tenancy.epoch)

    def _write_registry(self) -> None:
        entries = tuple(tenancy.entry() for tenancy in self._seats.tenancies)
        try:
            write_registry(self.plan.registry_path, Registry(envs=entries))
        except OSError as error:
            raise CliError(f"the registry {self.plan.registry_path} cannot be written: {error.strerror}") from error

    async def _watch_router(self) -> None:
        await self._router.watch()
        raise ProgramError("the router keeps ending and was given up", self._log_tail(self._router))

    async def _watch_envs(self) -> None:
        await asyncio.gather(*(keeper.watch() for keeper in self._envs))
        raise ProgramError("every env server keeps ending and was given up", self._log_tail(self._envs[0]))

    @staticmethod
    def _log_tail(keeper: Keeper) -> tuple[str, ...]:
        return keeper.child.log_tail() if keeper.child is not None else ()


@asynccontextmanager
async def running_pool(plan: PoolPlan, interrupts: Interrupts) -> AsyncIterator[LocalPool]:
    """Start the pool of `plan`, keep it running, end it on the way out, whatever happened.

    A second interrupt of `interrupts` kills the pool's programs instead of waiting for them.

    Raises:
        ProgramError: It did not start, or was given up while in use.
        CliError: Its registry cannot be written.
    """
    with PortPicker() as ports:
        pool = LocalPool(plan, ports)
        interrupts.on_more = pool.kill
        try:
            await pool.start()
            try:
                async with pool.door(), asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(pool.watch())
                    yield pool
                    watch.cancel()
            except ExceptionGroup as group:
                raise _first_cli_error(group) from group
        finally:
            await pool.stop()


def _by_env_idx(view: EnvView) -> tuple[bool, int]:
    return view.env_idx is None, view.env_idx or 0


def _first_cli_error(group: ExceptionGroup[Exception]) -> Exception:
    errors: list[Exception] = [group]
    while errors:
        error = errors.pop(0)
        if isinstance(error, CliError):
            return error
        if isinstance(error, ExceptionGroup):
            errors.extend(error.exceptions)
    return group

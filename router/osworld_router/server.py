"""The router's life: bind, serve until SIGTERM or SIGINT, let running calls end, stop."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn

from osworld_router.acks import Acks
from osworld_router.app import Access, App
from osworld_router.auth import Gate
from osworld_router.body import BodyLimits
from osworld_router.courier import Courier
from osworld_router.ends import Ends
from osworld_router.errors import StartError
from osworld_router.exchange import CallLimits
from osworld_router.front import Front
from osworld_router.health import HealthBoard
from osworld_router.journal import Journals
from osworld_router.metrics import Metrics
from osworld_router.mover import Mover
from osworld_router.pages import Pages
from osworld_router.peers import Peers
from osworld_router.persistence import Carriers, Persistence
from osworld_router.proxy import Notes, Proxy
from osworld_router.rebuild import Rebuild
from osworld_router.recall import Recall
from osworld_router.recovery import Recovery, RecoveryTools
from osworld_router.registry import RegistryFile
from osworld_router.scores import Scores
from osworld_router.scribe import Scribe
from osworld_router.settings import MIB_BYTES, RouterSettings
from osworld_router.snapshots import LiveRegistry
from osworld_router.upstream import Upstream

logger = logging.getLogger(__name__)

BACKLOG: Final = 2048
"""Connections that wait to be accepted: a trainer opens one per env and call, all at the same moment."""

CUT_OFF_S: Final = 2
"""How long the replies to calls that were ended at the stop deadline may take to be sent."""


class _Server(uvicorn.Server):
    """uvicorn, but signals are ours: its own handler would raise the signal again and end the process by it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(settings: RouterSettings) -> socket.socket:
    """Return a listening socket.

    Raises:
        StartError: The address cannot be had.
    """
    if settings.router_listen_fd is not None:
        return _inherited(settings.router_listen_fd)
    address = f"{settings.router_host}:{settings.router_port}"
    try:
        family = socket.getaddrinfo(settings.router_host, settings.router_port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.router_host, settings.router_port), family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise StartError(f"cannot listen on {address}: there is no such host") from error
    except OSError as error:
        why = "something else listens there" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise StartError(f"cannot listen on {address}: {why}; choose another with --port or --host") from error


def _inherited(fd: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=fd)
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"OSWORLD_ROUTER_LISTEN_FD: {fd} is no socket: {error.strerror}") from error
    if not is_listening:
        listener.close()
        raise StartError(f"OSWORLD_ROUTER_LISTEN_FD: the socket {fd} does not listen")
    listener.set_inheritable(False)
    return listener


async def serve(settings: RouterSettings, listener: socket.socket) -> None:
    """Serve on `listener` until this process is told to stop, and close it."""
    registry = _registry(settings)
    await registry.refresh()
    metrics = Metrics()
    upstream_token = settings.upstream_token.get_secret_value() if settings.upstream_token else None
    async with (
        Upstream(settings.router_connect_timeout_s, upstream_token) as upstream,
        Acks(upstream, metrics) as acks,
        asyncio.TaskGroup() as tasks,
    ):
        mover = Mover(settings.router_move_url, settings.router_move_token_file, upstream, registry, metrics)
        scribe = Scribe(Journals(settings.router_recovery_mib * MIB_BYTES))
        token = settings.token.get_secret_value() if settings.token else None
        scores = Scores()
        peers = Peers(registry, upstream, scribe, scores, token)
        rebuild = Rebuild(registry, upstream, scribe)
        recovery = Recovery(RecoveryTools(registry, mover, upstream, scribe, peers, rebuild), metrics)
        carriers = Carriers(Courier(upstream, metrics, scribe), mover, recovery, rebuild)
        persistence = Persistence(registry, carriers, _limits(settings), metrics)
        proxy = Proxy(persistence, Notes(acks, scribe, scores, peers, Ends(scribe)), _limits(settings), metrics)
        gate = Gate(token)
        pages = Pages(registry, HealthBoard(registry, upstream, metrics), metrics, peers)
        recall = Recall(rebuild, scribe.journals, _limits(settings))
        app = App(Access(gate, are_metrics_open=settings.is_loopback), pages, proxy, recall, metrics)
        watches = [tasks.create_task(work) for work in (registry.watch(), rebuild.run())]
        await _serve_app(app, proxy, listener, settings.router_stop_timeout_s)
        for watch in watches:
            watch.cancel()
    logger.info("router stopped")


def _registry(settings: RouterSettings) -> LiveRegistry:
    if settings.router_pool is None:
        assert settings.registry_file is not None  # one of the two is there
        return RegistryFile(settings.registry_file, settings.peers)
    # Imported here only: the client library takes some 40 MB, which a router beside a file need not have.
    from osworld_router.pods import PodRegistry  # noqa: PLC0415

    return PodRegistry(settings.router_namespace, settings.router_pool)


async def _serve_app(app: App, proxy: Proxy, listener: socket.socket, stop_timeout_s: int) -> None:
    loop = asyncio.get_running_loop()
    server = _Server(
        uvicorn.Config(
            app,
            http=Front,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            date_header=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=stop_timeout_s + CUT_OFF_S,
        )
    )

    def stop(number: signal.Signals) -> None:
        if not server.should_exit:
            logger.info("router stopping on %s: running calls have %d s to end", number.name, stop_timeout_s)
            loop.call_later(stop_timeout_s, proxy.stop)
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    host, port = listener.getsockname()[:2]
    logger.info("router listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    await server.serve(sockets=[listener])


def _limits(settings: RouterSettings) -> CallLimits:
    return CallLimits(
        deadlines_s=settings.deadlines_s,
        env_wait_s=settings.router_env_wait_s,
        retry_s=settings.router_retry_s,
        hedge_after_s=settings.router_hedge_after_s,
        body=BodyLimits(settings.router_body_limit_mib * MIB_BYTES, settings.router_body_idle_timeout_s),
    )

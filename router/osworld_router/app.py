"""The router as an ASGI application: who may ask, and which part answers."""

import logging
from dataclasses import dataclass
from typing import Final

from osworld_contract.faults import Fault, FaultError, FaultReason, fault_error
from osworld_router.asgi import WIRE, Receive, Scope, Send, request_of
from osworld_router.auth import Gate
from osworld_router.metrics import Metrics
from osworld_router.pages import Page, Pages
from osworld_router.proxy import Proxy
from osworld_router.recall import Recall
from osworld_router.reply import Reply
from osworld_router.resolve import OPEN_PAGES, Operation, Request, Route, route

logger = logging.getLogger(__name__)

METRICS_PATH: Final = "/metrics"
PATH_SHOWN_CHARS: Final = 200
"""Most of a path that a log line shows. A guess: the longest that is routed has some 40."""


@dataclass(frozen=True)
class Access:
    """Who is let in where."""

    gate: Gate
    are_metrics_open: bool
    """Whether ``/metrics`` needs no token: so on loopback, where a scraper of this machine needs no set-up."""

    def check(self, request: Request, *, is_open: bool) -> None:
        """Return if `request` may go on.

        Raises:
            FaultError: ``client/unauthorized``.
        """
        if not is_open and not self.gate.admits(request.values("authorization")):
            raise fault_error(FaultReason.UNAUTHORIZED)


class App:
    """The ASGI application."""

    def __init__(self, access: Access, pages: Pages, proxy: Proxy, recall: Recall, metrics: Metrics) -> None:
        self._access = access
        self._pages = pages
        self._proxy = proxy
        self._recall = recall
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = request_of(scope)
        reply = Reply(send, scope["state"][WIRE])
        try:
            page = self._pages.by_path.get(request.path)
            if page is not None:
                await self._show(page, request, reply)
            else:
                await self._carry(request, self._admit(request), receive, reply)
        except FaultError as error:
            await self._refuse(request, reply, error.fault)
        except Exception:
            logger.exception("defect in %s %r", request.method, request.path[:PATH_SHOWN_CHARS])
            if reply.status is None:
                await self._refuse(request, reply, fault_error(FaultReason.INTERNAL).fault)

    async def _carry(self, request: Request, wanted: Route, receive: Receive, reply: Reply) -> None:
        handler = self._recall if wanted.operation is Operation.JOURNAL else self._proxy
        await handler.handle(request, wanted, receive, reply)

    async def _refuse(self, request: Request, reply: Reply, fault: Fault) -> None:
        """Answer a request that reached no env with `fault`."""
        self._metrics.fault_answered(fault)
        logger.info("refused %s %r: %s", request.method, request.path[:PATH_SHOWN_CHARS], fault.header)
        await reply.error(fault)

    async def _show(self, page: Page, request: Request, reply: Reply) -> None:
        is_open = request.path in OPEN_PAGES or (request.path == METRICS_PATH and self._access.are_metrics_open)
        self._access.check(request, is_open=is_open)
        if request.method != "GET":
            raise fault_error(FaultReason.METHOD_NOT_ALLOWED, f"{request.path} takes GET", allow="GET")
        await page(reply)

    def _admit(self, request: Request) -> Route:
        """Return what `request` asks for.

        Raises:
            FaultError: It may not, or there is no such thing. Who may not is told nothing else.
        """
        try:
            wanted = route(request)
        except FaultError:
            self._access.check(request, is_open=False)
            raise
        self._access.check(request, is_open=wanted.is_open)
        return wanted

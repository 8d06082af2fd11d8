"""The client of one env: reset, step, evaluate, with every fault raised as a `FaultError`.

It speaks the trainer's wire, and says ``X-Osworld-Client: v2``, so faults arrive as error statuses with their body
instead of the values that an unmodified trainer can read. How a failed call becomes a fault is in `client_faults`.
"""

import math
import time
import uuid
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from osworld_contract.faults import FaultError, FaultKind, FaultReason, fault_error
from osworld_contract.names import HEADER_CLIENT, HEADER_CLIENT_V2, HEADER_IDEMPOTENCY_KEY, HEADER_SEEN
from osworld_contract.replay import HEADER_SIGHT, OWN_JOURNAL_PATH
from osworld_contract.wire import EnvReply, EnvState, HealthReply, HistoryReply
from osworld_env.address import parse_address
from osworld_env.client_faults import fault_of_failure, fault_of_reply
from osworld_env.connections import is_lost, transport_to
from osworld_env.own_journal import Answered, OwnJournal

RESET_TIMEOUT_S: Final = 1200.0
STEP_TIMEOUT_S: Final = 300.0
EVALUATE_TIMEOUT_S: Final = 300.0
"""Per socket read. Source: the trainer's client; the servers' deadlines nest inside (design, "Deadlines nest")."""

CONNECT_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 60.0
"""How long a call is sent again, from the first break of its connection on. A guess: a router that died is back after
two seconds on one machine, after some ten in a cluster."""

RETRY_PAUSE_S: Final = 0.2
RETRY_PAUSE_MAX_S: Final = 2.0
"""Between two tries, twice as long each time."""

TELL_TIMEOUT_S: Final = 60.0
"""For the client's own journal, up to 24 MB. A guess with room."""

QUERY_TIMEOUT_S: Final = 10.0
"""For calls that touch no desktop. A guess with room."""

_Model = TypeVar("_Model", bound=BaseModel)
_SCORE: Final = TypeAdapter(float)


class EnvClient:
    """One env at `url`: an env server, a router (env 0), or ``ROUTER/envs/3``. A context manager; used by one thread.

    Every call opens a connection of its own, as the trainer's client does. One that breaks in a call is no fault yet:
    the call has a key, and goes out again, to be answered from record where it was carried out. So does one whose other
    end is lost without a word. A server that has never answered is not waited for. A step or evaluate whose episode is
    lost to those who knew it is made again, once, after a router was told of that episode (`own_journal`).

    Example:
        >>> with EnvClient("http://job:TOKEN@router:15001/envs/3") as env:
        ...     env.reset(task)
        ...     env.step("Thought: done.\\nAction: finished(content='')")
        ...     score = env.evaluate()
    """

    def __init__(self, url: str, *, token: str | None = None, env_idx: int | None = None) -> None:
        """Prepare for `url`, or for env `env_idx` of the router there; nothing is sent yet.

        User info in the URL goes before `token`.

        Raises:
            AddressError: `url` is not an address.
        """
        self.address = parse_address(url, token).of_env(env_idx)
        headers = {HEADER_CLIENT: HEADER_CLIENT_V2}
        if self.address.authorization:
            headers["Authorization"] = self.address.authorization
        self._seen: str | None = None
        """Key of the last reset or step, None where its reply is not here."""
        self._journal = OwnJournal()
        self._has_answered = False
        self._http = httpx.Client(
            headers=headers, transport=transport_to(self.address), trust_env=not self.address.is_loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection pool. The episode lives on: the wire has no close call."""
        self._http.close()

    def reset(self, task: dict[str, JsonValue]) -> EnvReply:
        """Begin an episode of `task` (OSWorld's JSON form) and return its first three messages.

        Raises:
            FaultError: The episode has not begun.
        """
        return self._keyed("reset", "reset", {"task_config": task}, RESET_TIMEOUT_S, None)

    def step(self, prediction: str, *, since: int | None = None, key: str | None = None) -> EnvReply:
        """Carry out the actions of `prediction` and return the history with the new screenshot.

        ``obs_messages`` is None where the episode has ended: by ``finished``, by a prediction that cannot be parsed
        (``format_reward`` says so), or by the maximum of steps.

        Args:
            prediction: The model's text.
            since: Ask only for messages from this index on.
            key: A repeat with the same key gets the recorded reply and is not carried out again. Fresh by default.

        Raises:
            FaultError: The actions were not carried out, or it is not known whether they were.
        """
        query = "" if since is None else f"?since={since}"
        return self._keyed("step", f"step{query}", {"prediction": prediction}, STEP_TIMEOUT_S, key)

    def evaluate(self) -> float:
        """Return the score that OSWorld's evaluator computed. Can be called again; the score is kept.

        Raises:
            FaultError: There is no score.
        """
        headers = {HEADER_SEEN: self._seen} if self._seen is not None else {}
        self._journal.note_evaluate()
        reply = self._recalled("evaluate", {}, EVALUATE_TIMEOUT_S, headers)
        try:
            score: float = _SCORE.validate_json(reply.content, strict=True)
        except ValidationError as error:
            raise _not_in_form("evaluate", reply) from error
        self._journal.clear()  # it has its score, and another must not follow
        return score

    def history(self, since: int = 0) -> HistoryReply:
        """Return the episode's messages from index `since` on; none before a reset.

        Raises:
            FaultError: The history cannot be had.
        """
        query = f"?since={since}" if since else ""
        return _parsed(HistoryReply, "history", self._post(f"history_messages{query}", {}, STEP_TIMEOUT_S))

    def health(self) -> HealthReply:
        """Return ``GET /health``; needs no token.

        Raises:
            FaultError: The server cannot be reached or is not one of ours.
        """
        return _parsed(HealthReply, "health", self._get("health"))

    def state(self) -> EnvState:
        """Return ``GET /state``: phase, step, desktop, fault.

        Raises:
            FaultError: The server cannot be reached, or offers no state.
        """
        return _parsed(EnvState, "state", self._get("state"))

    def _keyed(
        self, operation: str, call: str, body: dict[str, JsonValue], timeout_s: float, key: str | None
    ) -> EnvReply:
        """Make a call that changes what a score would be about."""
        key = key or uuid.uuid4().hex
        headers = {HEADER_IDEMPOTENCY_KEY: key}
        if operation == "step" and self._seen is not None:
            headers[HEADER_SEEN] = self._seen
        self._seen = None
        sent = time.monotonic()
        try:
            response = self._recalled(call, body, timeout_s, headers)
            reply = self._env_reply(operation, response)
        except BaseException:
            self._journal.clear()
            raise
        came, sight = time.monotonic(), response.headers.get(HEADER_SIGHT)
        self._journal.note(Answered(body, key, sight, reply, sent, came))
        self._seen = key
        return reply

    def _env_reply(self, operation: str, reply: httpx.Response) -> EnvReply:
        parsed = _parsed(EnvReply, operation, reply)
        if parsed.fault is not None:
            raise FaultError(parsed.fault)
        return parsed

    def _recalled(
        self, call: str, body: dict[str, JsonValue], timeout_s: float, headers: dict[str, str]
    ) -> httpx.Response:
        """Make a call; if its episode is lost, tell a router of that, and make it again within `timeout_s` in all."""
        end = time.monotonic() + timeout_s
        try:
            return self._post(call, body, timeout_s, headers)
        except FaultError as error:
            if call == "reset" or not _is_loss(error) or not self._tell(end):
                raise
        return self._post(call, body, max(CONNECT_TIMEOUT_S, end - time.monotonic()), headers)

    def _tell(self, end: float) -> bool:
        """Return whether a router knows the episode from here on, before `end` on the monotonic clock."""
        journal, left_s = self._journal.document(), end - time.monotonic()
        if journal is None or left_s <= 0:
            return False
        try:
            self._send("journal", self._request("POST", OWN_JOURNAL_PATH, min(TELL_TIMEOUT_S, left_s), content=journal))
        except FaultError:
            return False  # what is told of is the loss, not that it could not be mended
        return True

    def _post(
        self, call: str, body: dict[str, JsonValue], timeout_s: float, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        operation = call.partition("?")[0].removesuffix("_messages")
        return self._send(operation, self._request("POST", f"/env/{call}", timeout_s, json=body, headers=headers))

    def _get(self, call: str) -> httpx.Response:
        return self._send(call, self._request("GET", f"/{call}", QUERY_TIMEOUT_S))

    def _request(self, method: str, path: str, timeout_s: float, **contents: Any) -> httpx.Request:
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        return self._http.build_request(method, self.address.url + path, timeout=timeout, **contents)

    def _send(self, operation: str, request: httpx.Request) -> httpx.Response:
        try:
            reply = self._sent_until_answered(request) if request.method == "POST" else self._http.send(request)
        except httpx.HTTPError as error:
            raise FaultError(fault_of_failure(operation, self.address, error)) from error
        self._has_answered = True
        if not reply.is_success:
            raise FaultError(fault_of_reply(operation, reply.status_code, reply.content))
        return reply

    def _sent_until_answered(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, and again while its connection breaks, from a server that has answered before."""
        pause_s, end = RETRY_PAUSE_S, math.inf
        while True:
            try:
                return self._http.send(request)
            except httpx.TransportError as error:
                end = min(end, time.monotonic() + RETRY_S)
                if not _is_broken(error) or not self._has_answered or time.monotonic() + pause_s > end:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_PAUSE_MAX_S)


def _is_loss(error: FaultError) -> bool:
    """Return whether a server said that the episode may be lost, and could be had again."""
    is_said = not isinstance(error.__cause__, httpx.HTTPError)
    is_ours = error.fault.kind is FaultKind.INFRA and error.fault.retryable
    return is_said and (is_ours or error.fault.reason is FaultReason.NO_EPISODE)


def _is_broken(error: httpx.TransportError) -> bool:
    """Return whether a connection broke, or none came: nobody is at the call for this client any more."""
    return is_lost(error) or isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout)


def _parsed(model: type[_Model], operation: str, reply: httpx.Response) -> _Model:
    try:
        return model.model_validate_json(reply.content)
    except ValidationError as error:
        raise _not_in_form(operation, reply) from error


def _not_in_form(operation: str, reply: httpx.Response) -> FaultError:
    return fault_error(
        FaultReason.INTERNAL,
        f"the reply of {operation} is not in the form of the wire: is this an env server?",
        operation=operation,
        http_status=reply.status_code,
        body=reply.text[:200],
    )

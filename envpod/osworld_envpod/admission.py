"""Who may call: what a router says in a request's headers, against what this env server is and has seen."""

from collections.abc import Mapping
from dataclasses import dataclass

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.names import HEADER_ENV_IDX, HEADER_EPOCH, HEADER_STEP, HEADER_UID

MAX_DIGITS = 15
"""Keeps numbers in headers inside what JSON clients can hold."""

ENV_IDX_MAX = 1_000_000
"""A guess with room; keeps an absurd header out of replies."""


@dataclass(frozen=True)
class Tenancy:
    """For which env_idx, and since which move of it, a router calls. No other has both of its numbers."""

    env_idx: int
    epoch: int


class Admission:
    """What this env server is known by, and the newest epoch that it was called with."""

    def __init__(self, uid: str | None) -> None:
        self._uid = uid
        self._epoch = 0

    def admit(self, headers: Mapping[str, str]) -> int:
        """Return the env_idx to echo.

        Raises:
            FaultError: ``client/stale_epoch`` for a caller that resolved this env_idx before its last move,
                ``client/wrong_server`` as for `check_uid`, ``client/bad_request``.
        """
        self.check_uid(headers)
        epoch = _whole_number(headers, HEADER_EPOCH)
        if epoch is not None:
            if epoch < self._epoch:
                raise fault_error(FaultReason.STALE_EPOCH, f"epoch {epoch} is over; {self._epoch} was seen")
            self._epoch = epoch
        return env_idx_of(headers)

    def look(self, headers: Mapping[str, str]) -> None:
        """Admit a caller of any epoch, and note a newer one: so the operator ends that of a pod which lost its env_idx.

        Raises:
            FaultError: ``client/wrong_server`` as for `check_uid`, ``client/bad_request``.
        """
        self.check_uid(headers)
        self._epoch = max(self._epoch, _whole_number(headers, HEADER_EPOCH) or 0)

    def check_uid(self, headers: Mapping[str, str]) -> None:
        """Refuse a caller that means another env server: an address is given again when a pod is gone.

        Without the header whoever is here is meant; a server that was given no uid is everybody's.

        Raises:
            FaultError: ``client/wrong_server``.
        """
        uid = headers.get(HEADER_UID)
        if uid is not None and self._uid and uid != self._uid:
            raise fault_error(FaultReason.WRONG_SERVER, f"this is {self._uid}")


def env_idx_of(headers: Mapping[str, str]) -> int:
    """Return the env_idx that the router named, 0 without one. An env server stores none; it echoes.

    Raises:
        FaultError: ``client/bad_request`` where the header is not a number of at least 0.
    """
    text = headers.get(HEADER_ENV_IDX, "0")
    if not (text.isascii() and text.isdigit() and int(text[:10]) <= ENV_IDX_MAX):
        raise fault_error(FaultReason.BAD_REQUEST, f"{HEADER_ENV_IDX} must be a whole number of at least 0")
    return int(text)


def tenancy_of(headers: Mapping[str, str]) -> Tenancy | None:
    """Return for whom the caller calls, None where it is no router.

    Raises:
        FaultError: ``client/bad_request``.
    """
    epoch = _whole_number(headers, HEADER_EPOCH)
    return None if epoch is None else Tenancy(env_idx_of(headers), epoch)


def step_number(headers: Mapping[str, str]) -> int | None:
    """Return the number of the step that the caller means, None without one.

    Raises:
        FaultError: ``client/bad_request``.
    """
    return _whole_number(headers, HEADER_STEP)


def _whole_number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise fault_error(FaultReason.BAD_REQUEST, f"{name} must be a whole number of at least 0")
    return int(text)

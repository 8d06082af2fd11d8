"""Who calls the operator: the name behind a service account token, as the API server has it."""

import hashlib
import time
from typing import Final

from osworld_contract.kube_names import OPERATOR_AUDIENCE
from osworld_operator.cluster import Cluster

KNOWN_S: Final = 60.0
"""How long an answer of the API server counts. A guess: a batch of resets that hang asks once, and a token that was
taken back (its pod is gone) is of use for a minute more."""

KNOWN_MAX: Final = 1024
"""Tokens at once. A guess: pools times routers, and the hour's renewals."""


class Callers:
    """Looks tokens up. What is kept of a token is its hash."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[bytes, tuple[str, float]] = {}

    async def name(self, token: str) -> str | None:
        """Return the user name of a token that was made for the operator, or None.

        Raises:
            ClusterError: The API server cannot say now.
        """
        key, now = hashlib.sha256(token.encode()).digest(), time.monotonic()
        name, until_s = self._known.get(key, (None, 0.0))
        if name is not None and now < until_s:
            return name
        name = await self._cluster.user_of(token, OPERATOR_AUDIENCE)
        self._known = {key: known for key, known in self._known.items() if now < known[1]}
        if name is not None and len(self._known) < KNOWN_MAX:
            self._known[key] = (name, now + KNOWN_S)
        return name

"""How long the pool's resets take: what is late for one is told by the others. Pure."""

import math
from collections import deque
from typing import Final

RESETS_KEPT: Final = 200
RESETS_MIN: Final = 5
"""Guesses: a batch or a few, so that a change of tasks is followed soon; of fewer there is no share to speak of."""

SHARE: Final = 0.95


class Paces:
    """The last resets that came through."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=RESETS_KEPT)

    def note(self, seconds: float) -> None:
        """Note a reset that came through after so long at its env server."""
        self._seconds.append(seconds)

    def patience_s(self, hedge_after_s: float) -> float:
        """Return how long a reset may take before it is begun anew on a spare.

        Not before `hedge_after_s`, nor before most others were through: where every reset boots a machine, a limit
        that is shorter than that would begin each of them twice.
        """
        if len(self._seconds) < RESETS_MIN:
            return hedge_after_s
        ordered = sorted(self._seconds)
        return max(hedge_after_s, ordered[math.ceil(SHARE * len(ordered)) - 1])

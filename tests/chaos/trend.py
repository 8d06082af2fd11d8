"""Whether a figure of a long run is flat. Pure: rows of numbers in, a verdict out."""

import statistics
from dataclasses import dataclass

FEWEST_ROWS = 9
"""Below it a third has less than three rows, and its median says nothing."""


@dataclass(frozen=True)
class Bound:
    """How much a figure may grow from the first third of a run to the last: the larger of the two."""

    part: float
    """As a part of the first third's median."""
    least: float
    """In the figure's own unit: what one process more or less, in the one instant of a sample, makes."""

    def allowed(self, first: float) -> float:
        """Return the growth that is still flat."""
        return max(self.part * first, self.least)


@dataclass(frozen=True)
class Trend:
    """How one figure went."""

    first: float
    """Median of the first third."""
    last: float
    """Median of the last third."""
    slope_per_hour: float
    """By Theil and Sen: the median of all pairs' slopes, which single rows in the midst of a repair do not move."""
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Say whether it grew no more than its bound."""
        return self.last - self.first <= self.allowed


def trend(rows: list[tuple[float, float]], bound: Bound) -> Trend | None:
    """Return how a figure went, None of too few rows to say so.

    Args:
        rows: Seconds and value, in the order of time.
        bound: What is still flat.
    """
    if len(rows) < FEWEST_ROWS:
        return None
    third = len(rows) // 3
    first = statistics.median(value for _, value in rows[:third])
    last = statistics.median(value for _, value in rows[-third:])
    slopes = [(b - a) / (t - s) for i, (s, a) in enumerate(rows) for t, b in rows[i + 1 :] if t > s]
    return Trend(first, last, statistics.median(slopes) * 3600 if slopes else 0.0, bound.allowed(first))

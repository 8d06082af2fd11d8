"""When a long run's figure is flat."""

import pytest

from chaos.trend import Bound, trend

BOUND = Bound(0.10, 4)


def rows(*values: float) -> list[tuple[float, float]]:
    return [(60.0 * i, value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    "values",
    [
        [100.0] * 30,
        [100.0, 108.0] * 15,
        [100.0] * 25 + [400.0] * 3 + [100.0] * 2,  # single rows in the midst of a repair
        [float(100 - i) for i in range(30)],
        [float(1 + i // 10) for i in range(30)],  # within the least
    ],
)
def test_it_is_flat(values: list[float]) -> None:
    found = trend(rows(*values), BOUND)
    assert found is not None and found.is_flat


@pytest.mark.parametrize("values", [[100.0 + i for i in range(30)], [10.0] * 20 + [15.0] * 10])
def test_it_grows(values: list[float]) -> None:
    found = trend(rows(*values), BOUND)
    assert found is not None and not found.is_flat


def test_its_slope_is_that_of_the_most() -> None:
    found = trend(rows(*[100.0 + i for i in range(29)], 9999.0), BOUND)
    assert found is not None
    assert found.slope_per_hour == pytest.approx(60)


def test_a_handful_of_rows_says_nothing() -> None:
    assert trend(rows(*[1.0] * 8), BOUND) is None

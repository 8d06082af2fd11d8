"""How far a guest's clock is off, as far as a question and its answer tell."""

import pytest

from osworld_envpod.osworld_guest import ClockReading


@pytest.mark.parametrize(
    ("shown", "ahead_s", "least_drift_s"),
    [(100.0, -1.0, 0.0), (101.0, 0.0, 0.0), (102.0, 1.0, 0.0), (99.0, -2.0, -1.0), (105.0, 4.0, 3.0)],
)
def test_a_slow_answer_is_no_drift(shown: float, ahead_s: float, least_drift_s: float) -> None:
    reading = ClockReading(shown, asked=100.0, answered=102.0)
    assert (reading.ahead_s, reading.least_drift_s) == (ahead_s, least_drift_s)

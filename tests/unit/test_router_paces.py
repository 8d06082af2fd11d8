from osworld_router.paces import RESETS_KEPT, RESETS_MIN, Paces


def test_a_reset_is_late_after_the_limit_and_after_most_others() -> None:
    paces = Paces()
    for _ in range(RESETS_MIN - 1):
        paces.note(100)
    assert paces.patience_s(30) == 30, "too few to tell"
    paces.note(100)
    assert paces.patience_s(30) == 100
    assert paces.patience_s(300) == 300


def test_one_slow_reset_in_twenty_changes_nothing() -> None:
    paces = Paces()
    for _ in range(19):
        paces.note(2)
    paces.note(500)
    assert paces.patience_s(1) == 2


def test_old_resets_are_forgotten() -> None:
    paces = Paces()
    for seconds in [100] * RESETS_KEPT + [1] * RESETS_KEPT:
        paces.note(seconds)
    assert paces.patience_s(30) == 30

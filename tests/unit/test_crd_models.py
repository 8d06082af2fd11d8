from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from osworld_contract.crd import Duration, IntOrPercent, OSWorldEnv, Quantity
from pools import BAD_POOLS, QEMU, BadPool, pool


def test_a_pool_needs_a_provider_and_nothing_else() -> None:
    spec = OSWorldEnv.model_validate(pool()).spec
    assert (spec.replicas, spec.spares, spec.router.replicas) == (1, 1, 2)
    assert (spec.episode.reset_timeout.seconds, spec.episode.step_pause.seconds) == (360, 0.5)
    assert spec.desktop.memory.mib == 4096


def test_a_virtual_machine_has_an_image() -> None:
    spec = OSWorldEnv.model_validate(pool(desktop=QEMU)).spec
    assert spec.desktop.image is not None
    assert spec.desktop.image.url == QEMU["image"]["url"]  # type: ignore[index]  # a plain dict


@pytest.mark.parametrize("bad", BAD_POOLS, ids=lambda bad: bad.why)
def test_a_bad_pool_is_refused_with_the_fields_name(bad: BadPool) -> None:
    with pytest.raises(ValidationError) as caught:
        OSWorldEnv.model_validate(bad.body)
    assert bad.field in str(caught.value)


def test_a_field_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValidationError, match="replica"):
        OSWorldEnv.model_validate(pool(replica=3))


@pytest.mark.parametrize("name", ["4desks", "Desks", "a.b", "x" * 41, "desks-"])
def test_a_pools_name_fits_its_children(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        OSWorldEnv.model_validate(pool(name))


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("360s", 360), ("1h30m", 5400), ("1.5m", 90)])
def test_a_duration_is_what_go_makes_of_it(text: str, seconds: float) -> None:
    assert Duration(text).seconds == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "-1s", "1 s", "1d", "1s\n", "s", "1h" * 13])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration(text)


@pytest.mark.parametrize(
    ("text", "amount"), [("4Gi", 4 * 2**30), ("500m", Decimal("0.5")), ("2", 2), ("1.5G", 15 * 10**8)]
)
def test_a_quantity_is_what_kubernetes_makes_of_it(text: str, amount: int | Decimal) -> None:
    assert Quantity(text).value == amount


@pytest.mark.parametrize("text", ["", "4GiB", "-1", "1e3", "Gi", "4 Gi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        Quantity(text)


@pytest.mark.parametrize(
    ("given", "total", "count"), [(3, 64, 3), ("10%", 64, 7), ("10%", 1, 1), ("100%", 5, 5), ("1%", 0, 1)]
)
def test_a_share_rounds_up_so_that_an_update_goes_on(given: int | str, total: int, count: int) -> None:
    assert IntOrPercent(given).of(total) == count


@pytest.mark.parametrize("given", [0, -1, "0%", "101%", "10", True, 1.5])
def test_what_is_neither_count_nor_share_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="neither"):
        IntOrPercent(given)


def test_values_are_written_as_they_were_read() -> None:
    class Holder(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=False)

        duration: Duration
        share: IntOrPercent

    given = {"duration": "1h30m", "share": "10%"}
    assert Holder.model_validate(given).model_dump() == given

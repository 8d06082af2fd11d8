"""The pools in ``examples/pools`` against the models, so that none of them is refused."""

from pathlib import Path

import pytest
import yaml

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import API_GROUP, API_VERSION, KIND

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "pools").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_pool(path: Path) -> None:
    body = yaml.safe_load(path.read_text())
    assert (body["apiVersion"], body["kind"]) == (f"{API_GROUP}/{API_VERSION}", KIND)
    assert OSWorldEnv.model_validate(body).metadata.name == body["metadata"]["name"]


def test_there_is_an_example_of_each_kind() -> None:
    assert {path.stem for path in EXAMPLES} == {"xvfb", "qemu-tcg", "qemu-kvm"}

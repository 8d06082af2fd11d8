"""What docs/ec2.md is about, as far as it can be checked without an account."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from nodes.node import POD_PIDS
from nodes.real_cluster import NODE_GRACE_S, NODE_PERIOD_S
from osworld_contract.names import ROUTER_PORT
from osworld_operator.observe import LEAVING_TAINTS
from osworld_operator.pod_parts import SERVER_UID

ROOT = Path(__file__).parents[2]
EC2 = ROOT / "deploy" / "ec2"
BIN = Path(sys.executable).parent


class Functions(yaml.SafeLoader):
    """Reads CloudFormation's functions as pairs of name and content."""


def _function(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> tuple[str, Any]:
    if isinstance(node, yaml.SequenceNode):
        return name, loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return name, loader.construct_scalar(node)


Functions.add_multi_constructor("!", _function)


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_bootstrap_script_is_sound() -> None:
    run(str(BIN / "shellcheck"), "--severity=style", str(EC2 / "bootstrap.sh"))


def test_the_bootstrap_script_says_what_it_needs() -> None:
    text = (EC2 / "bootstrap.sh").read_text()
    assert "--nonroot-devices" in text
    assert "169.254.169.254" in text and "X-aws-ec2-metadata-token" in text


def test_the_cache_of_the_example_is_made_for_the_user_of_env_pods() -> None:
    [made] = re.findall(r"install -d .*", (EC2 / "bootstrap.sh").read_text())
    example = (ROOT / "examples" / "pools" / "qemu-kvm.yaml").read_text()
    path = yaml.safe_load(example)["spec"]["cache"]["hostPath"]["path"]
    assert made == f"install -d -o {SERVER_UID} -g {SERVER_UID} -m 0770 {path}"
    assert made in example and made in (ROOT / "docs" / "pools.md").read_text()


def test_the_stack_is_valid() -> None:
    run(str(BIN / "cfn-lint"), "--regions", "us-east-1", "--include-checks", "W", "--", str(EC2 / "nodes.yaml"))


def test_agents_may_be_spot_and_the_server_is_not() -> None:
    stack = yaml.load((EC2 / "nodes.yaml").read_text(), Functions)
    assert stack["Parameters"]["Spot"]["Default"] == "false"
    assert stack["Conditions"] == {"AgentsAreSpot": ("Equals", [("Ref", "Spot"), "true"])}
    [agents] = [item for item in stack["Resources"].values() if item["Type"] == "AWS::EC2::LaunchTemplate"]
    function, (condition, spot, otherwise) = agents["Properties"]["LaunchTemplateData"]["InstanceMarketOptions"]
    assert (function, condition, otherwise) == ("If", "AgentsAreSpot", ("Ref", "AWS::NoValue"))
    assert spot["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in stack["Resources"]["Server"]["Properties"]
    page = (ROOT / "docs" / "ec2.md").read_text()
    assert "`Spot=true`" in page and "--set taintNode=true" in page
    assert "aws-node-termination-handler/spot-itn" in LEAVING_TAINTS


def test_ports_and_labels_are_the_same_everywhere() -> None:
    stack, page = (EC2 / "nodes.yaml").read_text(), (ROOT / "docs" / "ec2.md").read_text()
    assert f"FromPort: {ROUTER_PORT}" in stack and f"NODE:{ROUTER_PORT}" in page
    script = (EC2 / "bootstrap.sh").read_text()
    assert "osworld.dev/kvm-node" in script and f"POD_MAX_PIDS:-{POD_PIDS}" in script
    assert f"NODE_GRACE_S:-{NODE_GRACE_S}" in script and f"NODE_PERIOD_S:-{NODE_PERIOD_S}" in script
    values = yaml.safe_load((ROOT / "charts" / "osworld-env" / "values.yaml").read_text())
    assert values["node"]["nodeSelector"] == {"osworld.dev/kvm-node": "true"}

"""What docs/ec2.md is about, as far as it can be checked without an account."""

import subprocess
import sys
from pathlib import Path

import yaml

from osworld_contract.names import ROUTER_PORT

ROOT = Path(__file__).parents[2]
EC2 = ROOT / "deploy" / "ec2"
BIN = Path(sys.executable).parent


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_bootstrap_script_is_sound() -> None:
    run(str(BIN / "shellcheck"), "--severity=style", str(EC2 / "bootstrap.sh"))


def test_the_bootstrap_script_says_what_it_needs() -> None:
    text = (EC2 / "bootstrap.sh").read_text()
    assert "--nonroot-devices" in text
    assert "169.254.169.254" in text and "X-aws-ec2-metadata-token" in text


def test_the_stack_is_valid() -> None:
    run(str(BIN / "cfn-lint"), "--regions", "us-east-1", "--include-checks", "W", "--", str(EC2 / "nodes.yaml"))


def test_ports_and_labels_are_the_same_everywhere() -> None:
    stack, page = (EC2 / "nodes.yaml").read_text(), (ROOT / "docs" / "ec2.md").read_text()
    assert f"FromPort: {ROUTER_PORT}" in stack and f"NODE:{ROUTER_PORT}" in page
    assert "osworld.dev/kvm-node" in (EC2 / "bootstrap.sh").read_text()
    plugin = yaml.safe_load((EC2 / "kvm-device-plugin.yaml").read_text())
    assert plugin["spec"]["template"]["spec"]["nodeSelector"] == {"osworld.dev/kvm-node": "true"}

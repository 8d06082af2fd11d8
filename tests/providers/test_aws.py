"""The aws provider: desktop-env's own code, EC2 as moto plays it, a small guest at the instances' addresses."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from osworld_contract.faults import FaultError
from osworld_env.ports import free_port
from osworld_envpod.desktops.base import DesktopState
from osworld_envpod.desktops.osworld import BootedDesktop
from osworld_envpod.desktops.osworld.aws import AwsBooter, AwsSettings
from osworld_envpod.osworld_guest import OsworldGuestClient
from osworld_envpod.settings import load_settings
from providers.cloud import GUESTS, KEYS, Cloud, Guests, cloud, guests, metadata
from providers.conftest import BOOT_S, ENDED_S
from server_process import ServerProcess, clean_environment
from task_parts import EVALUATOR, execute
from waiting import wait_for, wait_until

AMI = "ami-12345678"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A running moto."""
    with cloud(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """A guest at every address that an instance can get."""
    with guests(tmp_path_factory.mktemp("guest")) as there:
        yield there


@pytest.fixture
def settings(moto: Cloud, guest: Guests, monkeypatch: pytest.MonkeyPatch) -> AwsSettings:
    """Settings for a subnet of moto's whose addresses are the guest's."""
    moto.forget()
    for name, value in (moto.variables | {"ENABLE_TTL": "false"}).items():
        monkeypatch.setenv(name, value)
    vpc = moto.ask("ec2", "create_vpc", CidrBlock=str(GUESTS))["Vpc"]["VpcId"]
    subnet = moto.ask("ec2", "create_subnet", VpcId=vpc, CidrBlock=str(GUESTS))["Subnet"]["SubnetId"]
    group = moto.ask("ec2", "create_security_group", GroupName="guests", Description="guests", VpcId=vpc)["GroupId"]
    return AwsSettings(subnet_id=subnet, security_group_id=group, ami=AMI, pool="tests", credentials=KEYS)


@contextlib.asynccontextmanager
async def desktop(chosen: AwsSettings, spares: int = 0) -> AsyncIterator[BootedDesktop]:
    running = BootedDesktop(AwsBooter(chosen), spares)
    await running.start(BOOT_S)
    try:
        yield running
    finally:
        await running.stop(ENDED_S)


async def test_an_instance_for_each_episode_one_ahead_and_none_afterwards(moto: Cloud, settings: AwsSettings) -> None:
    async with desktop(settings, spares=1) as running:
        first = running.machine_id
        made = moto.ask("ec2", "describe_instances", InstanceIds=[first])["Reservations"][0]["Instances"][0]
        assert (made["ImageId"], made["InstanceType"], made["SubnetId"]) == (AMI, "t3.medium", settings.subnet_id)
        assert [each["GroupId"] for each in made["NetworkInterfaces"][0]["Groups"]] == [settings.security_group_id]
        tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
        assert tags == {"Name": "osworld-env", "osworld-env:provider": "aws", "osworld-env:pool": "tests"}
        assert running.addresses.host == made["PrivateIpAddress"]
        async with OsworldGuestClient(running.addresses) as client:
            assert (await client.execute("echo on", 30, shell=True)).output == "on\n"
        await wait_for(lambda: len(moto.running()) == 2, BOOT_S, "a second instance")
        (spare,) = set(moto.running()) - {first}
        await running.revert(BOOT_S)
        assert running.machine_id == spare
        await wait_for(lambda: moto.instances()[first] == "terminated", ENDED_S, "the first instance's end")
    assert moto.running() == []


async def test_an_instance_that_is_gone_fails_the_desktop(moto: Cloud, settings: AwsSettings, tmp_path: Path) -> None:
    async with desktop(replace(settings, look_every_s=1.0)) as running:
        moto.ask("ec2", "terminate_instances", InstanceIds=[running.machine_id])
        await wait_for(lambda: running.state is DesktopState.FAILED, ENDED_S, "a failed desktop")


async def test_subnet_and_group_come_from_the_instances_metadata(
    moto: Cloud, settings: AwsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.subnet_id and settings.security_group_id
    async with metadata(settings.subnet_id, settings.security_group_id) as service:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        async with desktop(replace(settings, subnet_id=None, security_group_id=None)) as running:
            made = moto.ask("ec2", "describe_instances", InstanceIds=[running.machine_id])
            assert made["Reservations"][0]["Instances"][0]["SubnetId"] == settings.subnet_id
        assert service.asked[0] == "PUT /latest/api/token"
        before = len(service.asked)
        async with desktop(settings):
            pass
        assert len(service.asked) == before, "what is set is not asked for"


async def test_without_metadata_the_missing_variables_are_named(
    settings: AwsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(FaultError, match=r"AWS_SUBNET_ID must be set: this machine is no EC2 instance"):
        async with desktop(replace(settings, subnet_id=None)):
            pass


async def test_what_ec2_refuses_is_said_in_its_words(moto: Cloud, settings: AwsSettings) -> None:
    with pytest.raises(FaultError, match=r"EC2 refuses: InvalidSubnetID.NotFound"):
        async with desktop(replace(settings, subnet_id="subnet-00000000")):
            pass
    with pytest.raises(FaultError, match=r"eu-west-3 is not supported.*OSWORLD_AWS_AMI"):
        async with desktop(replace(settings, region="eu-west-3", ami=None)):
            pass
    assert moto.running() == []


async def test_credentials_that_are_missing_are_said(settings: AwsSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(FaultError, match="Unable to locate credentials"):
        async with desktop(replace(settings, credentials={})):
            pass


async def test_an_end_is_ordered_at_the_cloud_too(
    moto: Cloud, settings: AwsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENABLE_TTL", "true")
    role = "arn:aws:iam::123456789012:role/end"
    monkeypatch.setenv("AWS_SCHEDULER_ROLE_ARN", role)
    async with desktop(settings) as running:
        (schedule,) = moto.ask("scheduler", "list_schedules")["Schedules"]
        assert running.machine_id in schedule["Name"]


def test_the_aws_image_has_a_password_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER", "aws")
    assert load_settings().guest_password.get_secret_value() == "osworld-public-evaluation"
    monkeypatch.setenv("OSWORLD_GUEST_PASSWORD", "another")
    assert load_settings().guest_password.get_secret_value() == "another"


TASK = {"instruction": "Say yes.", "config": [execute("true")], "evaluator": EVALUATOR}


def test_an_episode_is_played_and_a_killed_env_server_leaves_no_instance(
    moto: Cloud, settings: AwsSettings, tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / ".env").write_text(
        f"AWS_SUBNET_ID={settings.subnet_id}\nAWS_SECURITY_GROUP_ID={settings.security_group_id}\n"
        f"AWS_ACCESS_KEY_ID={KEYS['AWS_ACCESS_KEY_ID']}\nAWS_SECRET_ACCESS_KEY={KEYS['AWS_SECRET_ACCESS_KEY']}\n"
    )
    variables = {"PROVIDER": "aws", "OSWORLD_AWS_AMI": AMI, "OSWORLD_PORT": str(port), "OSWORLD_STEP_PAUSE_S": "0.1"}
    environment = clean_environment(**variables)
    for name in KEYS:
        del environment[name]
    with ServerProcess("osworld_envpod", tmp_path, environment, port) as running:
        running.wait_ready()
        for path, body in (("reset", {"task_config": TASK}), ("evaluate", {})):
            reply = httpx.post(f"{running.url}/env/{path}", json=body, timeout=200)
            assert reply.status_code == 200, reply.text[:500]
        assert reply.json() == 1.0
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in running.log
        wait_until(lambda: len(moto.running()) == 2, BOOT_S, "two instances")
        psutil.Process(running.pid).kill()
        wait_until(lambda: moto.running() == [], ENDED_S, "no instances")

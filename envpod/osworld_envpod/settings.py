"""Settings of the env server: one frozen object, built once from the environment and ``.env``."""

import platform
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from osworld_contract.names import BOOTED_PROVIDERS, ENV_SERVER_PORT, GUEST_PASSWORD
from osworld_contract.settings import ENV_PREFIX, SettingsError, describe
from osworld_envpod.actions import FormatReward
from osworld_envpod.images.address import parse_address

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class Provider(StrEnum):
    """Providers that this version has."""

    XVFB = "xvfb"
    QEMU = "qemu"
    DOCKER = "docker"
    VMWARE = "vmware"
    AWS = "aws"


BOOTED_RESET_TIMEOUT_S = 1080.0
"""Deadline of a reset that may have to wait for a boot, by default: what fits under the router's 1140 s."""

AWS_PASSWORD = "osworld-public-evaluation"  # noqa: S105 - published
"""Of the user in OSWorld's image on EC2. Source: desktop-env's ``DesktopEnv``."""


def usual_provider() -> Provider:
    """Return what an unset PROVIDER means to today's users."""
    return Provider.VMWARE if platform.system() == "Darwin" else Provider.DOCKER


class LogLevel(StrEnum):
    """Levels of Python's logging."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class EnvServerSettings(BaseSettings):
    """All settings. A variable is ``OSWORLD_`` and the field's name in capitals, but for ``PROVIDER``."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=False
    )

    provider: Annotated[Provider, Field(validation_alias=AliasChoices("PROVIDER", "provider"))] = Provider.DOCKER
    """The desktop. The default is that of today's users, on macOS vmware. Chart value ``desktop.provider``."""
    host: str = "127.0.0.1"
    """Address to listen on. Another one than loopback needs a token."""
    port: Annotated[int, Field(ge=1, le=65535)] = ENV_SERVER_PORT
    """Port to listen on."""
    token: SecretStr | None = None
    """What clients must show, as bearer or as the password of HTTP Basic. None: loopback clients only."""
    insecure: bool = False
    """Answer everybody without a token. For networks that are closed by other means."""
    uid: Annotated[str, StringConstraints(max_length=200)] = ""
    """Name of this env server in logs; the pod's uid in a cluster."""
    pool: Annotated[str, StringConstraints(max_length=200)] = "local"
    """Label ``pool`` of metrics."""

    max_steps: Annotated[int, Field(ge=1, le=1000)] = 15
    """Actions of an episode. 15 is the trainer's; a larger one than the trainer's ends its run (wire, legal pairs)."""
    step_pause_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    """Pause after each action, in seconds. 0.5 is the trainer's; another one changes the dynamics."""
    reset_timeout_s: Annotated[float, Field(ge=1, le=1140)] = 360.0
    """Deadline of a reset, retries included. Must stay under the router's 1140 s. Where a machine is booted for each
    episode the default is `BOOTED_RESET_TIMEOUT_S`."""
    step_timeout_s: Annotated[float, Field(ge=1, le=270)] = 120.0
    """Deadline of a step, pauses included. Must stay under the router's 270 s."""
    evaluate_timeout_s: Annotated[float, Field(ge=1, le=270)] = 240.0
    """Deadline of an evaluate. Must stay under the router's 270 s."""
    idle_timeout_s: Annotated[float, Field(ge=1)] = 1800.0
    """Seconds without a call after which an episode ends: v1 has no call that closes one."""
    canary_every_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds between canaries of an idle desktop: two episodes of known score. 0: none. Chart value
    ``episode.canaryEvery``."""
    pause_between_steps: bool = True
    """Pause the desktop while the model thinks, where the provider can."""
    actions: Annotated[str, StringConstraints(pattern="^arpo$")] = "arpo"
    """Dialect of predictions."""
    format_reward: FormatReward = FormatReward.PLAIN
    """How ``format_reward`` is computed."""

    qemu_image: str | None = None
    """Address of a virtual machine's disk, with kernel and initrd beside it or a whole one, as OSWorld's is: a file,
    folder or zip, see docs/images.md. None: the image that ``osworld_guest.image`` built. Chart value
    ``desktop.image.url``."""
    image_sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the file at the image's address. None: taken as it comes. Chart value ``desktop.image.sha256``."""
    image_timeout_s: Annotated[float, Field(ge=1)] = 3600.0
    """Deadline of fetching and unpacking the image. A guess: 12 GB at 4 MB/s."""
    image_stall_timeout_s: Annotated[float, Field(ge=1)] = 60.0
    """How long the image's server may send nothing before the fetch is tried again."""
    qemu_accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """``auto``: KVM where a proof boot under it passes, else emulation. Chart value ``desktop.accelerator``."""
    qemu_cpus: Annotated[int, Field(ge=1, le=64)] = 2
    """Processors of a virtual machine. Chart value ``desktop.cpus``."""
    qemu_memory_mib: Annotated[int | None, Field(ge=512)] = None
    """Memory of a virtual machine. None: 1024, which hold our own desktop; 4096 for a whole disk, as OSWorld's."""
    qemu_firmware: Literal["uefi", "bios"] = "uefi"
    """What boots an image that is a whole disk. OSWorld's needs UEFI."""

    templates_max: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Frozen virtual machines, booted once for each image and shape, that a machine keeps; the least recently used ones
    that no env server uses go."""
    templates_max_bytes: Annotated[int, Field(ge=0)] = 32 * 2**30
    """What they may take of a machine's disk: 0.4 GB for one of our image, up to 4 GB for OSWorld's."""
    task_snapshots: bool = True
    """Freeze a virtual machine after a task's setup, where that is safe, and fork it there at the task's next resets.
    Chart value ``snapshots.tasks.enabled``."""
    task_snapshots_max: Annotated[int, Field(ge=0, le=10_000)] = 32
    """How many a machine keeps; the least recently used ones go. Chart value ``snapshots.tasks.maxPerNode``."""
    task_snapshots_max_bytes: Annotated[int, Field(ge=0)] = 200 * 2**30
    """What they may take of a machine's disk, 0.5 GB each and more. Chart value ``snapshots.tasks.maxBytes``."""

    docker_image: str = "happysixd/osworld-docker"
    """The container image; the engine fetches it where it has none."""
    docker_disk: str | None = None
    """Address of the guest's disk: a qcow2 file or a zip with one, see docs/images.md. None: ``Ubuntu.qcow2`` in
    ``./docker_vm_data`` where it is there, else the one that OSWorld publishes, fetched once for this machine."""
    docker_cpus: Annotated[int, Field(ge=1, le=64)] = 4
    """Processors of the guest. desktop-env's number, as the two below."""
    docker_memory_mib: Annotated[int, Field(ge=512)] = 4096
    """Memory of the guest."""
    docker_disk_gib: Annotated[int, Field(ge=1)] = 32
    """Size of the guest's disk."""
    vmware_vm: Path | None = None
    """The machine's ``.vmx``. None: the one that desktop-env has installed in ``./vmware_vm_data``, or installs."""
    vmware_snapshot: str = "init_state"
    """Its snapshot, taken while the screen showed. desktop-env's name."""
    vmware_headless: bool = True
    """Start it without a window."""
    aws_region: Annotated[str, Field(validation_alias=AliasChoices("AWS_REGION"))] = "us-east-1"
    """Region of EC2 instances."""
    aws_subnet_id: Annotated[str | None, Field(validation_alias=AliasChoices("AWS_SUBNET_ID"))] = None
    """Their subnet. None: that of the instance that this server runs on, by its metadata (IMDSv2)."""
    aws_security_group_id: Annotated[str | None, Field(validation_alias=AliasChoices("AWS_SECURITY_GROUP_ID"))] = None
    """Their security group; it must let this server reach port 5000, 9222 and 8080. None: as the subnet."""
    aws_access_key_id: Annotated[str | None, Field(validation_alias=AliasChoices("AWS_ACCESS_KEY_ID"))] = None
    """Credentials for EC2 and S3. None: the AWS libraries look for a profile or a role, as usual."""
    aws_secret_access_key: Annotated[
        SecretStr | None, Field(validation_alias=AliasChoices("AWS_SECRET_ACCESS_KEY"))
    ] = None
    """The key's secret part."""
    aws_session_token: Annotated[SecretStr | None, Field(validation_alias=AliasChoices("AWS_SESSION_TOKEN"))] = None
    """Of credentials that end."""
    aws_instance_type: str = "t3.medium"
    """desktop-env's."""
    aws_ami: str | None = None
    """Machine image. None: OSWorld's, which desktop-env knows for us-east-1 and ap-east-1."""
    boot_timeout_s: Annotated[float, Field(ge=1)] = 2400.0
    """Deadline of one boot, where a machine is booted for each episode. 20 to 40 min are known under emulation. A reset
    does not wait as long: it is answered by its own deadline, and the boot goes on."""

    desktop_control: Path | None = None
    """Folder shared with the xvfb desktop's container; set in a pod. None: desktops are sandboxes of this machine."""
    task_mirror: Path | None = None
    """Folder with copies of the files that tasks download; see docs/operations.md."""
    worker_memory_mib: Annotated[int, Field(ge=256)] = 4096
    """Memory (PSS) that a task worker may use. A guess with room: the largest metrics load an image model's input."""
    worker_sandbox: bool = True
    """Run OSWorld's evaluators in a sandbox: some of them run what the agent wrote. False where the pod is the box."""
    guest_password: SecretStr = SecretStr(GUEST_PASSWORD)
    """Password of the guest's user, for setup commands. ``password`` is that of OSWorld's images."""
    openai_api_key: Annotated[SecretStr | None, Field(validation_alias=AliasChoices("OPENAI_API_KEY"))] = None
    """For evaluators that ask a model; reaches the task worker alone."""
    openai_base_url: Annotated[SecretStr | None, Field(validation_alias=AliasChoices("OPENAI_BASE_URL"))] = None
    """Where that model is, if not at OpenAI. As the key."""
    worker_http_proxy: SecretStr | None = None
    """Proxy of the task worker's downloads and look-ups over http; may hold a password. As the key."""
    worker_https_proxy: SecretStr | None = None
    """As above, over https."""
    worker_no_proxy: str | None = None
    """Hosts that the task worker reaches without a proxy."""
    spare_desktops: Annotated[int, Field(ge=0, le=1)] = 1
    """Desktops booted ahead, so that a reset only swaps. Costs the memory of one more idle desktop."""
    episode_records: bool = True
    """Keep a record of each episode on disk: actions, timings, faults, score, screenshots."""
    episode_records_dir: Path | None = None
    """Folder of the records, which env servers may share. None: ``episodes`` in the cache."""
    episode_records_max_mib: Annotated[int, Field(ge=16)] = 2048
    """Size of all records in that folder; beyond it the oldest go. 2048 holds about a thousand episodes. A guess."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """Largest request body. A guess with room: tasks have some kB, predictions at most some 100 kB."""
    log_level: LogLevel = LogLevel.INFO
    """Level of the log."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: object) -> object:
        """Take an empty variable as unset, and give a provider its own defaults."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value != ""}
        provider = given.get("PROVIDER", given.get("provider", usual_provider()))
        own: dict[str, object] = {"provider": provider} if "PROVIDER" not in given else {}
        if provider in BOOTED_PROVIDERS:
            own["reset_timeout_s"] = BOOTED_RESET_TIMEOUT_S
        if provider == Provider.AWS:
            own["guest_password"] = AWS_PASSWORD
        return own | given

    @field_validator("qemu_image", "docker_disk")
    @classmethod
    def _is_address(cls, text: str | None) -> str | None:
        if text is not None:
            parse_address(text)
        return text

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what no log may hold."""
        given = (
            self.token, self.guest_password, self.openai_api_key, self.openai_base_url, self.worker_http_proxy,
            self.worker_https_proxy, self.aws_secret_access_key, self.aws_session_token,
        )  # fmt: skip
        secrets = [secret.get_secret_value() for secret in given if secret]
        return tuple(secret for secret in secrets if secret not in {GUEST_PASSWORD, AWS_PASSWORD})  # known to all

    @property
    def worker_environment(self) -> dict[str, str]:
        """Return the variables of the task worker that are beyond its own, by their names there."""
        given: dict[str, SecretStr | str | None] = {
            "OPENAI_API_KEY": self.openai_api_key,
            "OPENAI_BASE_URL": self.openai_base_url,
            "HTTP_PROXY": self.worker_http_proxy,
            "HTTPS_PROXY": self.worker_https_proxy,
            "NO_PROXY": self.worker_no_proxy,
        }
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in given.items()
            if value is not None
        }

    @property
    def aws_credentials(self) -> dict[str, str]:
        """Return the credentials by the AWS libraries' names; none where they are to look by themselves."""
        given = {
            "AWS_ACCESS_KEY_ID": self.aws_access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.aws_secret_access_key and self.aws_secret_access_key.get_secret_value(),
            "AWS_SESSION_TOKEN": self.aws_session_token and self.aws_session_token.get_secret_value(),
        }
        return {name: value for name, value in given.items() if value}

    def refuse_open_door(self) -> None:
        """Raise `SettingsError` where the server would answer strangers without a token."""
        if self.host not in LOOPBACK_HOSTS and self.token is None and not self.insecure:
            raise SettingsError(
                f"OSWORLD_HOST={self.host} is reachable from other machines: set OSWORLD_TOKEN, or say --insecure"
                " (OSWORLD_INSECURE=1) if the network is closed by other means"
            )


def load_settings() -> EnvServerSettings:
    """Read the settings.

    Raises:
        SettingsError: A variable is missing or wrong; the message names each and what is accepted.
    """
    try:
        return EnvServerSettings()
    except ValidationError as error:
        names = {"provider": "PROVIDER"} | {name: name for name in ("PROVIDER", "OPENAI_API_KEY", "OPENAI_BASE_URL")}
        raise SettingsError(describe(error, names)) from error

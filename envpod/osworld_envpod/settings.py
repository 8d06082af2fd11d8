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

from osworld_contract.names import ENV_SERVER_PORT, GUEST_PASSWORD
from osworld_contract.settings import ENV_PREFIX, SettingsError, describe
from osworld_envpod.actions import FormatReward
from osworld_envpod.images.address import parse_address

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class Provider(StrEnum):
    """Providers that this version has."""

    XVFB = "xvfb"
    QEMU = "qemu"


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

    provider: Annotated[Provider, Field(validation_alias=AliasChoices("PROVIDER", "provider"))]
    """The desktop. Chart value ``desktop.provider``."""
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
    """Deadline of a reset, retries included. Must stay under the router's 1140 s."""
    step_timeout_s: Annotated[float, Field(ge=1, le=270)] = 120.0
    """Deadline of a step, pauses included. Must stay under the router's 270 s."""
    evaluate_timeout_s: Annotated[float, Field(ge=1, le=270)] = 240.0
    """Deadline of an evaluate. Must stay under the router's 270 s."""
    idle_timeout_s: Annotated[float, Field(ge=1)] = 1800.0
    """Seconds without a call after which an episode ends: v1 has no call that closes one."""
    pause_between_steps: bool = True
    """Pause the desktop while the model thinks, where the provider can."""
    actions: Annotated[str, StringConstraints(pattern="^arpo$")] = "arpo"
    """Dialect of predictions."""
    format_reward: FormatReward = FormatReward.PLAIN
    """How ``format_reward`` is computed."""

    qemu_image: str | None = None
    """Address of a virtual machine's disk, kernel and initrd: a folder or zip, see docs/images.md. None: the image that
    ``osworld_guest.image`` built. Chart value ``desktop.image.url``."""
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
    qemu_memory_mib: Annotated[int, Field(ge=512)] = 1024
    """Memory of a virtual machine. 1024 holds our own desktop; OSWorld's image wants 4096."""

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
    def _empty_means_unset(cls, data: object) -> object:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value != ""}
        return data

    @field_validator("qemu_image")
    @classmethod
    def _is_address(cls, text: str | None) -> str | None:
        if text is not None:
            parse_address(text)
        return text

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what no log may hold."""
        secrets = [
            secret.get_secret_value() for secret in (self.token, self.openai_api_key, self.guest_password) if secret
        ]
        return tuple(secret for secret in secrets if secret != GUEST_PASSWORD)  # OSWorld's own is known to all

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
        if any(item["loc"] in (("provider",), ("PROVIDER",)) and item["type"] == "missing" for item in error.errors()):
            raise SettingsError(_no_provider()) from error
        names = {"provider": "PROVIDER", "PROVIDER": "PROVIDER", "OPENAI_API_KEY": "OPENAI_API_KEY"}
        raise SettingsError(describe(error, names)) from error


def _no_provider() -> str:
    """Say what an unset PROVIDER would mean for today's users, and what can be chosen."""
    usual = "vmware" if platform.system() == "Darwin" else "docker"
    choices = ", ".join(provider.value for provider in Provider)
    return (
        f"PROVIDER is not set. It would mean {usual} here, which this version does not have yet;"
        f" set PROVIDER to one of: {choices}"
    )

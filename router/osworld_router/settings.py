"""Settings of the router: one frozen object, read from the environment, ``.env`` and the command line."""

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from osworld_contract.names import ENV_TOKEN, ROUTER_PORT
from osworld_contract.settings import ENV_PREFIX, SettingsError, describe
from osworld_router.calls import origin
from osworld_router.resolve import Operation

ENV_FILE: Final = ".env"
MIB_BYTES: Final = 1024 * 1024

JOURNAL_TIMEOUT_S: Final = 60.0
"""How long a client's journal may take to come. A guess with room: 24 MB are 3 s at 64 Mbit/s."""

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class RouterSettings(BaseSettings):
    """What a router can be told. The variable of each field is ``OSWORLD_`` and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    router_host: str = "127.0.0.1"
    """Address to listen on. Loopback by default: nothing is offered to a network that was not asked for."""
    router_port: int = Field(default=ROUTER_PORT, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, which the log names."""
    router_listen_fd: int | None = Field(default=None, ge=3)
    """A socket that listens already, inherited from who starts the router, in place of host and port: connections wait
    there while a router that ended is started again. `osworld-env up` sets it."""
    registry_file: Path | None = None
    """The registry that `osworld-env up` writes. It may come later; its folder must be there."""
    router_peers: str | None = None
    """URLs of other routers beside the same file, with commas between them, each with the same token. Without them an
    episode that went on through another one could be played again as this one knows it."""
    router_pool: str | None = None
    """In a cluster, in place of a file: the OSWorldEnv whose pods are watched. Set by the operator."""
    router_namespace: str = "default"
    """The namespace of that pool."""
    token: SecretStr | None = None
    """What clients must show, as bearer or as the password of HTTP Basic. None: everybody is let in."""
    upstream_token: SecretStr | None = None
    """The bearer that the router shows to env servers. None: no Authorization goes upstream."""
    insecure: bool = False
    """Allow an address other than loopback without a token."""

    router_reset_timeout_s: Seconds = 1140
    router_step_timeout_s: Seconds = 270
    router_evaluate_timeout_s: Seconds = 270
    """From the first byte of the request to the last of the reply. Below the trainer's 1200, 300 and 300 s, above an
    env server's 360, 120 and 240 s (design, "Deadlines nest"). History uses the step's."""
    router_page_timeout_s: Seconds = 10
    """The same for pages of an env server (``/envs/{i}/state``). A guess: they are answered from memory."""
    router_env_wait_s: Annotated[float, Field(ge=0, le=600)] = 5
    """How long a call waits for an env_idx that no env server has. Source: design, "Epochs"."""
    router_retry_s: Annotated[float, Field(ge=0, le=3600)] = 30
    """How long a step, an evaluate or a history whose env server was lost is sent to it again, from the first loss on;
    0 sends once. A guess: a frozen machine or a broken link that lasts longer costs the env its env_idx. A reset is
    tried for its whole time."""
    router_move_url: str | None = None
    """Where the one writer is asked to give an env_idx to a spare. `osworld-env up --spares` sets it, and in a cluster
    the operator. None: resets stay with their env server."""
    router_move_token_file: Path | None = None
    """The bearer that is shown there; read at every move, for it is renewed. None: that of the env servers. The
    operator mounts it."""
    router_hedge_after_s: Seconds = 30
    """How long a reset may take before it is begun anew on a spare, once. Source: design, "OSWorldEnv"."""
    router_recovery_mib: int = Field(default=256, ge=0, le=65_536)
    """Memory for what is kept of running episodes, so that one that is lost can be played again; beyond it the one
    without a call for longest is forgotten. 0: none is played again. A guess: 64 episodes of 4 MB."""
    router_connect_timeout_s: Seconds = 3
    """A guess: a TCP connection inside a cluster takes milliseconds, one lost SYN is sent again after 1 s."""
    router_body_limit_mib: int = Field(default=64, ge=1, le=4096)
    """Largest request body. A guess with room: tasks are kilobytes, 50 MB bodies must get an answer."""
    router_body_idle_timeout_s: Seconds = 30
    """How long the client may be silent in the middle of its body. A guess."""
    router_stop_timeout_s: Annotated[int, Field(gt=0, le=86_400)] = 25
    """How long running calls may go on after SIGTERM. Below the 30 s that Kubernetes gives a pod by default."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("token", "upstream_token")
    @classmethod
    def _fits_in_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all("!" <= char <= "~" for char in value.get_secret_value()):
            raise ValueError("must be printable ASCII without spaces or line ends")
        return value

    @field_validator("router_peers")
    @classmethod
    def _are_addresses(cls, value: str | None) -> str | None:
        for url in value.split(",") if value else ():
            origin(url)
        return value

    @property
    def peers(self) -> Sequence[str]:
        """The routers beside the same file."""
        return self.router_peers.split(",") if self.router_peers else ()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the router."""
        try:
            return ipaddress.ip_address(self.router_host).is_loopback
        except ValueError:
            return self.router_host == "localhost"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        return tuple(secret.get_secret_value() for secret in (self.token, self.upstream_token) if secret)

    @property
    def deadlines_s(self) -> Mapping[Operation, float]:
        """Total time of a call, by operation."""
        return {
            Operation.RESET: self.router_reset_timeout_s,
            Operation.STEP: self.router_step_timeout_s,
            Operation.EVALUATE: self.router_evaluate_timeout_s,
            Operation.HISTORY: self.router_step_timeout_s,
            Operation.JOURNAL: JOURNAL_TIMEOUT_S,
            Operation.PAGE: self.router_page_timeout_s,
        }


def load_settings(overrides: Mapping[str, str | bool]) -> RouterSettings:
    """Return the settings, with those of the command line over those of the environment.

    Raises:
        SettingsError: A value is missing or wrong, there is no registry or are two, or the router would be open to a
            network without a token.
    """
    try:
        settings = RouterSettings(**overrides)  # type: ignore[arg-type]  # parsed by the model, as all its input is
    except ValidationError as error:
        raise SettingsError(describe(error, {})) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{ENV_FILE}: not a text file in UTF-8") from error
    if (settings.registry_file is None) == (settings.router_pool is None):
        raise SettingsError("OSWORLD_REGISTRY_FILE: set this, or OSWORLD_ROUTER_POOL in a cluster, and not both")
    if not settings.is_loopback and settings.token is None and not settings.insecure:
        raise SettingsError(
            f"OSWORLD_ROUTER_HOST: {settings.router_host} can be reached from other machines: "
            f"set {ENV_TOKEN}, or pass --insecure to let everybody in"
        )
    return settings

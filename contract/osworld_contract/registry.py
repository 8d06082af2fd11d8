"""The registry file: which env server has which env_idx, where there is no Kubernetes.

`osworld-env up` is its one writer; the router watches it. It holds no secret.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from osworld_contract.names import ENV_SERVER_PORT


class RegistryEntry(BaseModel):
    """One env."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_idx: int = Field(ge=0)
    uid: str = Field(min_length=1)
    """Names the env server's process; another one gets another uid."""
    epoch: int = Field(ge=1)
    """Grows with every move of this env_idx."""
    url: str = Field(pattern=r"^https?://[^/?#]+$")
    """Where the env server listens, without a trailing slash."""


class Registry(BaseModel):
    """All envs of a pool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pool: str = "local"
    envs: tuple[RegistryEntry, ...] = ()

    @model_validator(mode="after")
    def _env_idx_is_unique(self) -> "Registry":
        seen = [entry.env_idx for entry in self.envs]
        if len(set(seen)) != len(seen):
            raise ValueError("an env_idx occurs twice")
        return self


def env_server_url(address: str, port: int = ENV_SERVER_PORT) -> str:
    """Return the URL of the env server of a pod with the IP `address`."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


class MoveRequest(BaseModel):
    """A wish that an env_idx goes to a spare: who has it in the eyes of the one who asks.

    Posted to ``/envs/{env_idx}/move`` below the URL of the one writer, which answers 200 with who has it then (a
    `RegistryEntry`; somebody else where it has moved already) or 503 where there is no spare.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_uid: str = Field(min_length=1)
    epoch: int = Field(ge=1)


def read_registry(path: Path) -> Registry:
    """Return the registry in `path`.

    Raises:
        OSError: The file cannot be read.
        pydantic.ValidationError: Its content is not a registry.
    """
    return Registry.model_validate_json(path.read_bytes())


def write_registry(path: Path, registry: Registry) -> None:
    """Replace the file at `path` in one step, so that a reader never sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(registry.model_dump_json(indent=1) + "\n")
    draft.replace(path)

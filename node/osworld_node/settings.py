"""Settings of the node plugin: one frozen object, read from the environment."""

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from osworld_contract.settings import ENV_PREFIX, SettingsError, describe

SOCKET_NAME: Final = "osworld-kvm.sock"


class NodeSettings(BaseSettings):
    """What the plugin can be told. The variable of each field is ``OSWORLD_`` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    node_kvm_resource: str = "osworld.dev/kvm"
    """The resource advertised. Chart value ``node.resource``."""
    node_kvm_slots: Annotated[int, Field(ge=1, le=1000)] = 16
    """How many env pods may have the device at once. Chart value ``node.slots``."""
    node_kvm_device: Path = Path("/dev/kvm")
    """The device itself."""
    node_kubelet_dir: Path = Path("/var/lib/kubelet/device-plugins")
    """Where the kubelet's socket is, and the plugin's beside it."""
    node_proof_command: Annotated[tuple[str, ...], Field(min_length=1)]
    """As JSON: succeeds if a machine starts under KVM; the image's own boots a kernel. Chart value
    ``node.proofCommand``."""
    node_name: str = ""
    """Whose condition ``KVMReady`` tells the health, and why; empty: none does. The chart takes it from the pod."""
    node_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the metrics; 0: none. The chart's is 15003."""
    node_proof_timeout: Annotated[float, Field(gt=0, le=3600)] = 60
    """Seconds that a proof may take."""
    node_proof_interval: Annotated[float, Field(gt=0, le=86400)] = 300
    """Seconds between proofs. Chart value ``node.proofInterval``."""
    node_proof_failures: Annotated[int, Field(ge=1, le=1000)] = 3
    """So many failures in a row make the device unhealthy."""


def load_settings() -> NodeSettings:
    """Return the settings.

    Raises:
        SettingsError: A value is missing or wrong.
    """
    try:
        return NodeSettings()
    except ValidationError as error:
        raise SettingsError(describe(error, {})) from error
    except UnreadableError as error:
        raise SettingsError(f"OSWORLD_NODE_PROOF_COMMAND: not JSON, a list of words is accepted ({error})") from error

"""What the `aws` provider boots: an EC2 instance of OSWorld's machine image for each episode."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osworld_contract.faults import FaultReason, fault_error
from osworld_contract.names import SCREEN_HEIGHT_PX, SCREEN_WIDTH_PX
from osworld_envpod.desktops.base import DesktopFacts
from osworld_envpod.desktops.osworld.ec2_metadata import ENDPOINT, NoMetadata, subnet_and_group
from osworld_envpod.desktops.osworld.machine import BootPlan, Machine
from osworld_envpod.tasks.settings import worker_python

INSTANCE_TYPE: Final = "t3.medium"
"""Source: desktop-env's AWSVMManager."""

PREPARE_DEADLINE_S: Final = 30.0
METADATA_ENDPOINT_VARIABLE: Final = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""As every AWS library has it."""

PASSED_ON: Final = (
    "ENABLE_TTL", "DEFAULT_TTL_MINUTES", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
    "no_proxy",
)  # fmt: skip
"""desktop-env's own variables, and the way to EC2's API; AWS's own variables all go along."""

TAGS: Final[Mapping[str, str]] = {"Name": "osworld-env", "osworld-env:provider": "aws"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AwsSettings:
    """Settings of the aws provider."""

    region: str = "us-east-1"
    subnet_id: str | None = None
    security_group_id: str | None = None
    """None, of these two: those of the instance that this runs on."""
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Variables of the AWS libraries that are secrets, by their names. Without them the libraries look as usual."""
    instance_type: str = INSTANCE_TYPE
    ami: str | None = None
    """None: OSWorld's, which desktop-env knows for two regions."""
    pool: str = "local"
    look_every_s: float = 60.0
    """How soon an instance that ended by itself is noticed. A look is a call of EC2's API, which are limited."""
    boot_deadline_s: float = 2400.0
    python: Path = field(default_factory=worker_python)


class AwsBooter:
    """See `Booter`."""

    has_one_machine = False

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        self._place: tuple[str, str] | None = None

    @property
    def facts(self) -> DesktopFacts:
        """Return what its desktops can do: an instance that stands still costs what a running one does."""
        return DesktopFacts(
            "aws", "none", can_pause=False, can_fork=False, root="real", image_digest=self._settings.ami,
            proof="screen",
        )  # fmt: skip

    @property
    def boot_deadline_s(self) -> float:
        """Return the seconds that a boot may take."""
        return self._settings.boot_deadline_s

    @property
    def prepare_deadline_s(self) -> float:
        """Return the seconds that the metadata's answers may take."""
        return PREPARE_DEADLINE_S

    async def prepare(self) -> None:
        """Have the subnet and the security group of instances."""
        if self._place is not None:
            return
        subnet, group = self._settings.subnet_id, self._settings.security_group_id
        if not (subnet and group):
            missing = [
                name for name, value in (("AWS_SUBNET_ID", subnet), ("AWS_SECURITY_GROUP_ID", group)) if not value
            ]
            try:
                own_subnet, own_group = await subnet_and_group(os.environ.get(METADATA_ENDPOINT_VARIABLE, ENDPOINT))
            except NoMetadata as error:
                raise fault_error(
                    FaultReason.DESKTOP_START_FAILED,
                    f"{' and '.join(missing)} must be set: this machine is no EC2 instance that could tell its own",
                    error=str(error)[:300],
                ) from error
            subnet, group = subnet or own_subnet, group or own_group
            logger.info("%s: that of this instance, %s, %s", " and ".join(missing), subnet, group)
        self._place = (subnet, group)

    async def boot(self) -> Machine:
        """Return an instance whose guest shows a screen."""
        assert self._place is not None
        settings, (subnet, group) = self._settings, self._place
        options = {
            "region": settings.region,
            "look_every_s": settings.look_every_s,
            "instance_type": settings.instance_type,
            "ami": settings.ami,
            "screen": [SCREEN_WIDTH_PX, SCREEN_HEIGHT_PX],
            "tags": dict(TAGS) | {"osworld-env:pool": settings.pool},
        }
        given = {
            name: value for name, value in os.environ.items() if name.startswith("AWS_") or name in PASSED_ON
        }  # an instance's role, a profile, an endpoint of one's own
        own = {"AWS_REGION": settings.region, "AWS_SUBNET_ID": subnet, "AWS_SECURITY_GROUP_ID": group}
        secrets = tuple(settings.credentials.values())
        environment = given | own | dict(settings.credentials)
        return await Machine.boot(
            BootPlan("aws", settings.python, options, settings.boot_deadline_s, environment, secrets)
        )

    async def close(self) -> None:
        """Have nothing to give back."""

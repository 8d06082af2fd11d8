"""Machines on EC2: desktop-env's AWSVMManager and AWSProvider, one instance for each.

desktop-env takes subnet and group from the environment, which the env server has filled in, and instance type and image
from its own constants. What is put around it: the constants are the settings', instances carry a tag, and one whose
allocation is given up is terminated.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

import boto3  # type: ignore[import-not-found]  # as desktop-env
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-not-found]
from desktop_env.providers.aws import manager as desktop_env_manager  # type: ignore[import-not-found]
from desktop_env.providers.aws import provider as desktop_env_provider

from .service import MachineError

ENDED_STATES = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
SERVER_PORT, CHROMIUM_PORT, VNC_PORT, VLC_PORT = 5000, 9222, 5910, 8080
"""Source: desktop-env's ``DesktopEnv`` and the address that its AWS provider logs."""

log = logging.getLogger(__name__)
Tell = Callable[..., None]


class Machine:
    """One instance. See `service.Machine`."""

    def __init__(self, options: dict[str, Any], tell: Tell) -> None:
        self.look_every_s: float = options["look_every_s"]
        self._options = options
        self._tell = tell
        self._lock = threading.Lock()
        self._is_ending = False
        self._made: list[str] = []
        boto3.setup_default_session(region_name=options["region"])
        events = boto3.DEFAULT_SESSION.events
        events.register("before-parameter-build.ec2.RunInstances", self._before)
        events.register("after-call.ec2.RunInstances", self._after)
        self._provider = desktop_env_provider.AWSProvider(options["region"])
        desktop_env_manager.INSTANCE_TYPE = options["instance_type"]
        if options["ami"]:
            desktop_env_manager.IMAGE_ID_MAP[options["region"]] = {tuple(options["screen"]): options["ami"]}

    def boot(self) -> dict[str, Any]:
        """Start an instance, and return its address as soon as it has one: the env server waits for its guest."""
        region, screen = self._options["region"], tuple(self._options["screen"])
        try:
            self._tell(
                "progress", message=f"an EC2 instance ({self._options['instance_type']}) is asked for in {region}"
            )
            instance = desktop_env_manager.AWSVMManager().get_vm_path(region=region, screen_size=screen)
            self._provider.start_emulator(instance, True)
            host = self._provider.get_ip_address(instance)
        except ClientError as error:
            raise MachineError("desktop_start_failed", f"EC2 refuses: {_words(error)}") from error
        except BotoCoreError as error:
            raise MachineError("desktop_start_failed", f"EC2 cannot be asked: {str(error)[:500]}") from error
        except ValueError as error:  # desktop-env knows the images of two regions
            raise MachineError(
                "desktop_start_failed", f"{str(error)[:300]}: set OSWORLD_AWS_AMI to a copy of OSWorld's image there"
            ) from error
        if not host:
            raise MachineError("desktop_start_failed", f"the instance {instance} has no private address")
        return {
            "id": instance, "host": host, "server_port": SERVER_PORT, "chromium_port": CHROMIUM_PORT,
            "vnc_port": VNC_PORT, "vlc_port": VLC_PORT,
        }  # fmt: skip

    def pause(self) -> None:
        """Do nothing: an instance that stands still is one that is stopped."""

    def resume(self) -> None:
        """Do nothing."""

    def lost(self) -> str | None:
        """Return the state of an instance that runs no more, None while it runs or EC2 cannot be asked."""
        client = boto3.client("ec2", region_name=self._options["region"])
        try:
            found = client.describe_instances(InstanceIds=self._made)["Reservations"]
            states = [each["State"]["Name"] for one in found for each in one["Instances"]]
        except ClientError as error:
            return f"EC2 does not know the instance any more: {_words(error)}" if _is_unknown(error) else None
        except BotoCoreError as error:
            log.warning("EC2 cannot be asked for the instance: %s", error)
            return None
        ended = [state for state in states if state in ENDED_STATES]
        return f"the instance {self._made[0]} is {ended[0]}" if ended else None

    def end(self) -> None:
        """Terminate the instance; none is started any more."""
        with self._lock:
            self._is_ending = True
            for instance in self._made:
                self._provider.stop_emulator(instance)

    def _before(self, params: dict[str, Any], **_: Any) -> None:
        """Give what is about to be started our tags."""
        if self._is_ending:
            raise MachineError("desktop_start_failed", "the env server ends")
        tags = [{"Key": key, "Value": value} for key, value in self._options["tags"].items()]
        params["TagSpecifications"] = [{"ResourceType": "instance", "Tags": tags}]

    def _after(self, parsed: dict[str, Any], **_: Any) -> None:
        """Note what was started. desktop-env gives its name away only when it runs, minutes later."""
        with self._lock:
            made = [each["InstanceId"] for each in parsed.get("Instances", [])]
            self._made += made
            if self._is_ending:  # `end` has come between the call and its answer
                for instance in made:
                    self._provider.stop_emulator(instance)


def _is_unknown(error: Any) -> bool:
    return str(error.response.get("Error", {}).get("Code", "")).startswith("InvalidInstanceID")


def _words(error: Any) -> str:
    found = error.response.get("Error", {})
    return f"{found.get('Code')}: {str(found.get('Message'))[:500]}"

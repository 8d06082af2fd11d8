"""Whether KVM works: a command that starts a machine under it, run at the lowest priority."""

import asyncio
import contextlib
import os
import signal
from typing import Final

from osworld_node.settings import NodeSettings

_SAID: Final = 400


async def prove(settings: NodeSettings) -> str:
    """Return why KVM does not work; nothing if it does."""
    if not settings.node_kvm_device.exists():
        return f"{settings.node_kvm_device} is not there"
    try:
        process = await asyncio.create_subprocess_exec(
            "nice",
            "-n19",
            *settings.node_proof_command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"the proof did not start: {error}"
    try:
        async with asyncio.timeout(settings.node_proof_timeout):
            said, _ = await process.communicate()
    except TimeoutError:
        return f"the proof took more than {settings.node_proof_timeout:g} s"
    finally:
        # What the command left running goes with it, also when it ended well or the plugin ends.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode == 0:
        return ""
    return f"the proof ended with {process.returncode}: {said.decode(errors='replace').strip()[-_SAID:]}"


class Health:
    """What the last proofs say, and an event for whoever waits for a change."""

    def __init__(self, failures: int) -> None:
        self._allowed = failures
        self._failed = 0
        self._changed = asyncio.Event()
        self.reason = "no proof yet"

    @property
    def healthy(self) -> bool:
        """Return whether pods may be given the device."""
        return not self.reason

    def proved(self) -> None:
        """Note a proof that passed."""
        self._failed = 0
        self._set("")

    def failed(self, reason: str) -> None:
        """Note a proof that failed: a device that was good stays so until as many failed as are allowed."""
        self._failed += 1
        if self.reason or self._failed >= self._allowed:
            self._set(reason)

    def gone(self, reason: str) -> None:
        """Note at once that the device went away."""
        self._failed = self._allowed
        self._set(reason)

    @property
    def change(self) -> asyncio.Event:
        """Return what is set once a proof says something else than the last one."""
        return self._changed

    def _set(self, reason: str) -> None:
        if reason == self.reason:
            return
        self.reason = reason
        self._changed.set()
        self._changed = asyncio.Event()

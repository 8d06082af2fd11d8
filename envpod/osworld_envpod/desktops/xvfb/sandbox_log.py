"""What a sandbox's session writes: read slowly, kept in part."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LOG_MAX_BYTES: Final = 1024 * 1024
LOG_TAIL_LINES: Final = 40
LOG_CHUNK_BYTES: Final = 64 * 1024
LOG_PAUSE_S: Final = 0.02
"""After each read: a desktop that floods its log is read at 3 MiB/s at most, and waits."""

logger = logging.getLogger(__name__)


class SandboxLog:
    """What session, X server and agent write: the last lines in memory, the first part in a file."""

    def __init__(self, fd: int, path: Path) -> None:
        self._lines: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self._file = path.open("wb")
        self._left = LOG_MAX_BYTES
        self.drained = asyncio.Event()
        """Set when the last writer is gone and everything was read."""
        self._task = asyncio.create_task(self._read(fd))

    def tail(self) -> Sequence[str]:
        """Return the last lines."""
        return tuple(self._lines)

    def close(self) -> None:
        """Stop to read; can run twice."""
        self._task.cancel()
        self._file.close()

    async def _read(self, fd: int) -> None:
        reader = asyncio.StreamReader(limit=LOG_CHUNK_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb")
        )
        try:
            while chunk := await reader.read(LOG_CHUNK_BYTES):
                self._keep(chunk)
                await asyncio.sleep(LOG_PAUSE_S)
            self.drained.set()
        finally:
            transport.close()

    def _keep(self, chunk: bytes) -> None:
        self._lines.extend(line[:500] for line in chunk.decode(errors="replace").splitlines() if line.strip())
        if self._left > 0 and not self._file.closed:
            try:
                self._file.write(chunk[: self._left])
                self._file.flush()
            except OSError as error:  # a full disk costs the log, not the desktop
                logger.warning("the log of a desktop cannot be written: %s", error.strerror)
                self._left = 0
            self._left -= len(chunk)

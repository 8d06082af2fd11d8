"""What is fetched, and within which limits."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osworld_contract.places import fetched_image_dir
from osworld_envpod.images.address import Address, FileAddress
from osworld_envpod.images.s3 import S3Access

GIB: Final = 1024**3


@dataclass(frozen=True)
class FetchLimits:
    """Deadlines and bounds of a fetch."""

    total_s: float = 3600.0
    """For all of it, waiting for another process's fetch included. A guess: 12 GB at 4 MB/s, then unpacked."""

    stall_s: float = 60.0
    """How long a server may send nothing. A guess with room: object stores answer in seconds."""

    attempts: int = 5
    """Tries in a row that bring nothing. One that brings bytes starts the count again."""

    retry_pause_s: float = 1.0
    """Before the first further try; it doubles with each."""

    disk_max_bytes: int = 256 * GIB
    """Largest image, packed or unpacked. A guess with room: OSWorld's disk has some 30 GB."""


@dataclass(frozen=True)
class ImageRequest:
    """An image that is wanted."""

    address: Address
    sha256: str | None = None
    """Of the file at the address, packed as it is there."""

    store: Path = field(default_factory=fetched_image_dir)
    limits: FetchLimits = FetchLimits()
    s3: S3Access | None = None
    """How to ask S3, where the image is there."""

    @property
    def is_elsewhere(self) -> bool:
        """Say whether the image is on another machine."""
        return not isinstance(self.address, FileAddress)

"""Images of virtual machines: fetched once per node by their address, verified, unpacked, kept read-only."""

from osworld_envpod.images.address import Address, parse_address
from osworld_envpod.images.progress import Show, show_nothing
from osworld_envpod.images.request import FetchLimits, ImageRequest
from osworld_envpod.images.s3 import S3Access
from osworld_envpod.images.store import fetch_image

__all__ = ["Address", "FetchLimits", "ImageRequest", "S3Access", "Show", "fetch_image", "parse_address", "show_nothing"]

"""What an EC2 instance is told of itself by the metadata service, version 2: the token first, then the questions."""

from typing import Final

import httpx

ENDPOINT: Final = "http://169.254.169.254"
LIFE_S: Final = "60"
"""Of the token."""
DEADLINE_S: Final = 3.0
"""For each question. A guess with room: the service is in the host. Elsewhere nobody answers that address."""


class NoMetadata(Exception):
    """This is no EC2 instance, or its metadata service is off or hidden behind a container's hop."""


async def subnet_and_group(endpoint: str = ENDPOINT) -> tuple[str, str]:
    """Return the subnet and the first security group of this instance's first interface.

    Raises:
        NoMetadata: Nobody tells.
    """
    base = f"{endpoint.rstrip('/')}/latest"
    try:
        async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
            asked = await client.put(f"{base}/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": LIFE_S})
            asked.raise_for_status()
            client.headers["X-aws-ec2-metadata-token"] = asked.text

            async def told(path: str) -> str:
                reply = await client.get(f"{base}/meta-data/{path}")
                reply.raise_for_status()
                return reply.text.split("\n")[0].strip()

            interface = f"network/interfaces/macs/{await told('mac')}"
            return await told(f"{interface}/subnet-id"), await told(f"{interface}/security-group-ids")
    except httpx.HTTPError as error:
        raise NoMetadata(str(error) or type(error).__name__) from error

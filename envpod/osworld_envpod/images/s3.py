"""An object in S3 as the target of a download: an address that is signed anew for each try."""

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from osworld_envpod.images.address import S3Address
from osworld_envpod.images.errors import unavailable
from osworld_envpod.images.target import Target

SIGNER: Final = Path(__file__).with_name("sign_s3.py")
SIGN_DEADLINE_S: Final = 60.0
"""A guess with room: the library takes a second to be loaded; a role's credentials are asked of a service."""

LIFE_S: Final = 43_200
"""Of a signature. A try is one request, which needs it only at its begin; a role's credentials may end before."""

PASSED_ON: Final = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class S3Access:
    """How S3 is asked."""

    python: Path
    """Interpreter of the environment that has the AWS library."""
    region: str = "us-east-1"
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Variables of the AWS library that are secrets. Without them it looks as usual."""


async def resolve_s3(address: S3Address, access: S3Access) -> Target:
    """Return the signed address.

    Raises:
        FaultError: ``image_unavailable``: it cannot be signed.
    """
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name in PASSED_ON}
    question = {"bucket": address.bucket, "key": address.key, "region": access.region, "life_s": LIFE_S}
    try:
        process = await asyncio.create_subprocess_exec(
            str(access.python), "-I", "-B", "-W", "ignore", str(SIGNER),
            stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment | dict(access.credentials),
        )  # fmt: skip
    except OSError as error:
        raise unavailable(
            f"the image {address.shown} needs the AWS library of the task worker's environment, which is not there:"
            " `python -m osworld_envpod.tasks.provision` makes it"
        ) from error
    try:
        async with asyncio.timeout(SIGN_DEADLINE_S):
            output, errors = await process.communicate(json.dumps(question).encode())
    except TimeoutError as error:
        raise unavailable(f"the address {address.shown} was not signed in {SIGN_DEADLINE_S:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        answer = json.loads(output)
    except ValueError as error:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise unavailable(f"the address {address.shown} could not be signed: {last[0][:300]}") from error
    if "url" not in answer:
        raise unavailable(f"the address {address.shown} could not be signed: {answer.get('error')}")
    return Target(str(answer["url"]))

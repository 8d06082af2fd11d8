"""Reads a value out of a Secret."""

import base64
from typing import Any

from osworld_operator.errors import NotFoundError


def secret_value(secret: dict[str, Any], key: str) -> str:
    """Return the value of `key`.

    Raises:
        NotFoundError: The Secret does not have it.
    """
    encoded = (secret.get("data") or {}).get(key)
    if not encoded:
        raise NotFoundError(f"the Secret {secret['metadata']['name']} has no key {key}")
    return base64.b64decode(encoded).decode()

"""Wishes for moves as a pool's router has them, by hand."""

from typing import Any

import httpx

from cluster.operator_rig import Operator, Pool
from osworld_contract.kube_names import LABEL_ENV_EPOCH, OPERATOR_AUDIENCE


def token(pool: Pool, account: str = "desks-router", audience: str = OPERATOR_AUDIENCE) -> str:
    """Return a token of a service account; an empty `audience` is the API server's own."""
    argv = ["create", "token", account, "-n", pool.namespace, *([f"--audience={audience}"] if audience else [])]
    return pool.plane.kubectl(*argv).strip()


def holder(pool: Pool, idx: int = 0) -> dict[str, Any]:
    """Return the wish that `idx` leaves the pod that has it now."""
    head = pool.pod(idx)["metadata"]
    return {"from_uid": head["uid"], "epoch": int(head["labels"][LABEL_ENV_EPOCH])}


def ask(running: Operator, pool: Pool, bearer: str, body: Any, idx: str = "0") -> httpx.Response:
    """Ask the operator for a move of `idx`."""
    url = f"http://127.0.0.1:{running.port}/pools/{pool.namespace}/{pool.name}/envs/{idx}/move"
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    return httpx.post(url, json=body, headers=headers, timeout=10, trust_env=False)

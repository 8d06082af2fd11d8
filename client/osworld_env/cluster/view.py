"""From pods and env servers' words to rows: env_idx, pod, node, state, episode, since when. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from osworld_contract.crd import OSWorldEnv
from osworld_contract.kube_names import LABEL_ENV_EPOCH, LABEL_ENV_IDX
from osworld_contract.wire import EnvState

NO_POD = "no pod"
READY = "ready"


@dataclass(frozen=True)
class EnvRow:
    """One env, or one pod without a number."""

    env_idx: int | None
    pod: str | None
    node: str | None
    epoch: int | None
    state: str
    """The phase of its episode where the env server says it, else what its pod is at."""
    task: str | None
    step: int | None
    since: float | None
    """Unix time from which on `state` holds."""
    fault: str | None

    @property
    def is_fine(self) -> bool:
        """Whether nothing keeps it from its work."""
        return self.fault is None and self.pod is not None


def env_rows(env: OSWorldEnv, pods: Sequence[dict[str, Any]], states: Mapping[int, EnvState]) -> list[EnvRow]:
    """Return a row for each env_idx that the pool should have or has, then one for each other pod, by name.

    Where two pods have one env_idx, the later one has it.
    """
    troubles = {item.pod: item.reason for item in env.status.troubled}
    rows = [_row(pod, troubles.get(pod["metadata"]["name"]), states) for pod in pods]
    served: dict[int, EnvRow] = {}
    others: list[EnvRow] = []
    for row in sorted(rows, key=lambda row: row.epoch or 0):
        if row.env_idx is None:
            others.append(row)
        else:
            served[row.env_idx] = row
    numbers = sorted({*range(env.spec.replicas), *served})
    return [
        *(served.get(idx) or EnvRow(idx, None, None, None, NO_POD, None, None, None, None) for idx in numbers),
        *sorted(others, key=lambda row: str(row.pod)),
    ]


def _row(pod: dict[str, Any], trouble: str | None, states: Mapping[int, EnvState]) -> EnvRow:
    head, status = pod["metadata"], pod.get("status", {})
    labels = head.get("labels", {})
    idx = _number(labels.get(LABEL_ENV_IDX))
    known = states.get(idx) if idx is not None else None
    word, since = _pod_state(head, status)
    is_serving = word == READY
    if known is not None and is_serving:
        word, since = ("draining" if known.is_draining else str(known.phase)), known.since
    elif is_serving and idx is None:
        word = "spare"
    fault = known.fault.header if known is not None and known.fault is not None else trouble
    in_episode = known is not None and known.episode_id is not None
    return EnvRow(
        env_idx=idx,
        pod=head["name"],
        node=pod.get("spec", {}).get("nodeName"),
        epoch=_number(labels.get(LABEL_ENV_EPOCH)),
        state=word,
        task=known.task_id if known is not None and in_episode else None,
        step=known.step if known is not None and in_episode else None,
        since=since,
        fault=fault,
    )


def _pod_state(head: dict[str, Any], status: dict[str, Any]) -> tuple[str, float | None]:
    """Return what a pod is at, and since when."""
    if "deletionTimestamp" in head:
        return "terminating", _time(head["deletionTimestamp"])
    ready = next((item for item in status.get("conditions", ()) if item["type"] == "Ready"), None)
    began = _time(head.get("creationTimestamp"))
    if ready is not None:
        word = READY if ready["status"] == "True" else "not ready"
        return word, _time(ready.get("lastTransitionTime")) or began
    return str(status.get("phase", "Pending")).lower(), began


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _time(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()

"""The remote worker, with the trainer's names and habits."""

from typing import Any

import httpx
import numpy as np
import ray


@ray.remote(num_cpus=1)
class RemoteEnvWorker:
    def __init__(self, worker_idx: int, max_steps: int, config: Any, remote_server_url: str) -> None:
        self.worker_idx = worker_idx
        self.remote_server_url = remote_server_url.rstrip("/")
        self.history_messages: list[dict[str, Any]] = []
        self._is_done = False
        self.labels: list[int] = []

    def process_message(self, message: list[dict[str, Any]]) -> None:
        for turn in message:
            self.labels.append(len(turn["content"][0]["text"]) if turn["role"] == "assistant" else -100)

    def get_train_dict(self) -> dict[str, Any]:
        return {"labels": np.array(self.labels)}

    def _post(self, path: str, json_body: dict[str, Any], timeout: float | None = None) -> Any:
        return httpx.post(self.remote_server_url + path, json=json_body, timeout=timeout).raise_for_status().json()

    def _take(self, reply: dict[str, Any], new: int) -> dict[str, Any]:
        self._is_done = reply["is_done"]
        if reply["obs_messages"]:
            self.history_messages = reply["obs_messages"]
            self.process_message(self.history_messages[-new:])
        return {**reply, "env_idx": self.worker_idx}

    def reset(self, task_config: dict[str, Any]) -> dict[str, Any]:
        self.labels = []
        self.history_messages = []
        return self._take(self._post("/env/reset", {"task_config": task_config}, timeout=1200), 3)

    def step(self, prediction: str) -> dict[str, Any]:
        return self._take(self._post("/env/step", {"prediction": prediction}, timeout=300), 2)

    def evaluate(self) -> float:
        return float(self._post("/env/evaluate", {}, timeout=300))

    def get_history_messages(self) -> list[dict[str, Any]]:
        return self.history_messages

    def is_done(self) -> bool:
        return self._is_done

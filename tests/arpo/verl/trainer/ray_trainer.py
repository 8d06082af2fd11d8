"""The trainer's loop: data, envs, lock-step episodes, advantages, validation, in its order and under its names."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import ray

from .gui_agent import RemoteEnvWorker


def compute_advantage(data: Any, adv_estimator: str, gamma: float = 1.0) -> Any:
    """Compute GRPO's, as the trainer: a group of one has mean 0 and deviation 1."""
    scores, uids = data.batch["token_level_rewards"].sum(-1), data.non_tensor_batch["uid"]
    groups = {uid: scores[uids == uid] for uid in uids}
    norms = {uid: (g.mean(), g.std(ddof=1)) if len(g) > 1 else (0.0, 1.0) for uid, g in groups.items()}
    values = [(score - norms[uid][0]) / (norms[uid][1] + 1e-6) for score, uid in zip(scores, uids, strict=True)]
    data.batch["advantages"] = np.array(values)[:, None] * data.batch["response_mask"]
    return data


class RayPPOTrainer:
    def __init__(self, config: Any) -> None:
        self.config = config
        self.report: dict[str, Any] = {"batches": []}
        self._create_dataloader()
        self._create_envs()

    def _create_dataloader(self) -> None:
        envs = 1 if self.config.env.remote_server_url else self.config.env.num_envs
        self.val_dataset = self.config.data.val_tasks
        self.val_batch = min(envs, len(self.val_dataset))

    def _create_envs(self) -> None:
        env = self.config.env
        named = RemoteEnvWorker.options(name="remote_env_worker_0")  # type: ignore[attr-defined]  # Ray's decorator
        self.env_workers = [named.remote(0, env.max_steps, self.config, env.remote_server_url)]

    def _play(self, tasks: list[Any], script: list[list[str]]) -> tuple[list[float], list[float]]:
        workers = self.env_workers[: len(tasks)]
        outputs = ray.get([worker.reset.remote(task) for worker, task in zip(workers, tasks, strict=True)])
        evaluations: list[Any] = [None] * len(tasks)
        formats = [0.0] * len(tasks)
        for step in range(self.config.env.max_steps):
            valid = [output["env_idx"] for output in outputs if output["obs_messages"] is not None]
            outputs = ray.get([workers[idx].step.remote(script[idx][step]) for idx in valid])
            for output in outputs:
                formats[output["env_idx"]] = output["format_reward"]
                if output["is_done"]:
                    evaluations[output["env_idx"]] = workers[output["env_idx"]].evaluate.remote()
            if all(output["is_done"] for output in outputs):
                break
        assert None not in evaluations, "eval_results_objects should not be None"
        return ray.get(evaluations), formats

    def _validate(self) -> dict[str, Any]:
        scores: list[float] = []
        for first in range(0, len(self.val_dataset), self.val_batch):
            tasks = self.val_dataset[first : first + self.val_batch]
            scores += self._play(tasks, self.config.script.validation)[0]
        return {"val/reward_score": float(np.mean(scores)), "val_batch": self.val_batch, "val_scores": scores}

    def fit(self) -> None:
        for script in self.config.script.batches:
            tasks = [task for task in self.config.data.tasks for _ in range(self.config.worker.rollout.n)]
            assert len(tasks) == len(self.env_workers)
            scores, formats = self._play(tasks, script)
            samples = ray.get([worker.get_train_dict.remote() for worker in self.env_workers])
            self._update(tasks, scores, formats, [sample["labels"].tolist() for sample in samples])
        self.report |= self._validate()

    def _update(self, tasks: list[Any], scores: list[float], formats: list[float], labels: list[list[int]]) -> None:
        longest = max(len(row) for row in labels)
        mask = np.array([[token != -100 for token in row] + [False] * (longest - len(row)) for row in labels], float)
        rewards = (np.array(scores) + 0.5 * np.array(formats))[:, None]
        tensors = {"response_mask": mask, "token_level_rewards": rewards}
        uids = np.array([task["id"] for task in tasks], dtype=object)
        data = SimpleNamespace(batch=tensors, non_tensor_batch={"uid": uids})
        data = compute_advantage(data, adv_estimator="grpo", gamma=1.0)
        seen = {"scores": scores, "formats": formats, "labels": labels}
        self.report["batches"].append(seen | {"advantages": data.batch["advantages"].tolist()})

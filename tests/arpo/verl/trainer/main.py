"""Entry: a config, Ray, the loop in an actor of its own."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from .ray_trainer import RayPPOTrainer


@ray.remote(num_cpus=1)
class Runner:
    def run(self, config: Any) -> None:
        trainer = RayPPOTrainer(config)
        trainer.fit()
        Path(config.report.path).write_text(json.dumps(trainer.report))


def main() -> None:
    config = _config(json.loads(Path(sys.argv[1].removeprefix("config=")).read_text()))
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        os.environ.pop(name)
    ray.init(
        address="local",
        num_cpus=8,  # a share for each actor, whatever this machine has
        include_dashboard=False,
        object_store_memory=100_000_000,
        runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "true"}},
    )
    ray.get(Runner.remote().run.remote(config))  # type: ignore[attr-defined]  # Ray's decorator


def _config(sections: dict[str, Any]) -> Any:
    config = SimpleNamespace(**{name: SimpleNamespace(**section) for name, section in sections.items()})
    config.worker.rollout = SimpleNamespace(**config.worker.rollout)
    return config


if __name__ == "__main__":
    main()

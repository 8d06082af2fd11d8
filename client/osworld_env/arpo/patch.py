"""Replaces names of the trainer the moment their module is imported, in the driver and in each of its Ray processes.

The training loop runs in a Ray actor, which imports the trainer anew. So ``ray.init`` is given a setup hook: Ray calls
`install` first in every worker process. Environment variables would not do, as the trainer removes Ray's own.
"""

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import wrapt

from osworld_env.arpo.masking import corrected_mean, mask_advantages
from osworld_env.arpo.plan import check_config, check_envs
from osworld_env.arpo.trainer import ADVANTAGE, GUI_AGENT, RAY_TRAINER, TRAINER, WORKER, check_names, plain_class
from osworld_env.arpo.worker import FaultMasking
from osworld_env.errors import TrainerMismatchError

_logger = logging.getLogger(__name__)

HOOK: Final = "worker_process_setup_hook"
INSTALL: Final = f"{__name__}.install"
SCORE: Final = "val/reward_score"
MASKED: Final = "val/masked"

Wrapped = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def install() -> None:
    """Register the replacements. Called before the trainer is imported, once in a process."""
    wrapt.register_post_import_hook(_patch_ray, "ray")
    wrapt.register_post_import_hook(_patch_gui_agent, GUI_AGENT)
    wrapt.register_post_import_hook(_patch_ray_trainer, RAY_TRAINER)


def _patch_ray(ray: ModuleType) -> None:
    wrapt.wrap_function_wrapper(ray, "init", _init)


def _patch_gui_agent(module: ModuleType) -> None:
    import ray  # noqa: PLC0415 - the trainer's, imported by it by now

    check_names(module)
    base = plain_class(getattr(module, WORKER))
    setattr(module, WORKER, ray.remote(type(WORKER, (FaultMasking, base), {"__module__": base.__module__})))


def _patch_ray_trainer(module: ModuleType) -> None:
    check_names(module)
    wrapt.wrap_function_wrapper(module, f"{TRAINER}._create_dataloader", _create_dataloader)
    wrapt.wrap_function_wrapper(module, f"{TRAINER}._create_envs", _create_envs)
    wrapt.wrap_function_wrapper(module, f"{TRAINER}._validate", _validate)
    wrapt.wrap_function_wrapper(module, ADVANTAGE, _compute_advantage)


def _init(init: Wrapped, _: object, args: Args, kwargs: Kwargs) -> Any:
    """Let every worker process of the trainer's job call `install`."""
    runtime_env = dict(kwargs.get("runtime_env") or {})
    if runtime_env.setdefault(HOOK, INSTALL) != INSTALL:
        raise TrainerMismatchError(f"the trainer gives Ray a {HOOK} of its own: {runtime_env[HOOK]}; accepted: none")
    return init(*args, **kwargs | {"runtime_env": runtime_env})


def _create_dataloader(create: Wrapped, trainer: Any, args: Args, kwargs: Kwargs) -> None:
    """Make the validation batch as large as there are envs: the trainer makes it 1 where it sees a remote URL."""
    env = trainer.config.env
    url, env.remote_server_url = env.remote_server_url, None
    try:
        create(*args, **kwargs)
    finally:
        env.remote_server_url = url


def _create_envs(create: Wrapped, trainer: Any, args: Args, kwargs: Kwargs) -> None:
    """Let the trainer create its one remote worker and all else, then add the others."""
    config, url = trainer.config, trainer.config.env.remote_server_url
    if not url:
        raise TrainerMismatchError("env.remote_server_url is not set; accepted: the router's URL")
    check_config(config)
    check_envs(url, config.env.num_envs)
    create(*args, **kwargs)
    workers = trainer.env_workers
    worker = getattr(__import__(GUI_AGENT, fromlist=[WORKER]), WORKER)
    for idx in range(len(workers), config.env.num_envs):
        named = worker.options(name=f"remote_env_worker_{idx}")
        workers.append(named.remote(idx, config.env.max_steps, config, url))
    _logger.warning("%d remote envs, whatever the trainer says above about one", len(workers))


def _validate(validate: Wrapped, trainer: Any, args: Args, kwargs: Kwargs) -> dict[str, Any]:
    """Leave masked episodes out of the mean score, and say how many there were."""
    _take_masked(trainer)
    metrics: dict[str, Any] = validate(*args, **kwargs)
    masked = _take_masked(trainer)
    if SCORE in metrics:
        metrics[SCORE] = corrected_mean(metrics[SCORE], len(trainer.val_dataset), masked)
    return metrics | {MASKED: masked}


def _compute_advantage(compute: Wrapped, _: object, args: Args, kwargs: Kwargs) -> Any:
    mask_advantages(args[0] if args else kwargs["data"])
    return compute(*args, **kwargs)


def _take_masked(trainer: Any) -> int:
    import ray  # noqa: PLC0415 - as above

    return sum(ray.get([worker.take_masked.remote() for worker in trainer.env_workers]))

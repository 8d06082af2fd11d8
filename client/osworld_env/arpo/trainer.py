"""The names of the trainer that are replaced or called, and the check that they are what is expected.

Source: the public trainer's ``verl/trainer/gui_agent.py`` and ``ray_trainer.py``, in all versions with a remote worker.
"""

import importlib.util
import inspect
from types import ModuleType
from typing import Any, Final

from osworld_env.errors import TrainerMismatchError

GUI_AGENT: Final = "verl.trainer.gui_agent"
RAY_TRAINER: Final = "verl.trainer.ray_trainer"
WORKER: Final = "RemoteEnvWorker"
TRAINER: Final = "RayPPOTrainer"
ADVANTAGE: Final = "compute_advantage"

_ACCEPTED: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    GUI_AGENT: {
        f"{WORKER}.__init__": ("self", "worker_idx", "max_steps", "config", "remote_server_url"),
        f"{WORKER}._post": ("self", "path", "json_body", "timeout"),
        f"{WORKER}.reset": ("self", "task_config"),
        f"{WORKER}.step": ("self", "prediction"),
        f"{WORKER}.evaluate": ("self",),
        f"{WORKER}.process_message": ("self", "message"),
        f"{WORKER}.get_train_dict": ("self",),
        f"{WORKER}.get_history_messages": ("self",),
        f"{WORKER}.is_done": ("self",),
    },
    RAY_TRAINER: {
        f"{TRAINER}._create_dataloader": ("self",),
        f"{TRAINER}._create_envs": ("self",),
        f"{TRAINER}._validate": ("self",),
        ADVANTAGE: ("data",),
    },
}
"""Name → its first parameters. More may follow where they have defaults, or are only passed on (`ADVANTAGE`)."""


def require_trainer() -> None:
    """Check that the trainer is there to be imported.

    Raises:
        TrainerMismatchError: One of its modules is not.
    """
    for name in (GUI_AGENT, RAY_TRAINER):
        try:
            is_there = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            is_there = False
        if not is_there:
            raise TrainerMismatchError(
                f"found no module {name}; accepted: the ARPO trainer's checkout, as working directory or installed"
            )


def check_names(module: ModuleType) -> None:
    """Check that the trainer's `module` has what is replaced and called in it.

    Raises:
        TrainerMismatchError: It has not; the message says for each name what was found and what is accepted.
    """
    wrong = [line for name, wanted in _ACCEPTED[module.__name__].items() if (line := _mismatch(module, name, wanted))]
    if wrong:
        where = f"{module.__name__} ({module.__file__})"
        raise TrainerMismatchError(f"this version of the trainer cannot be driven, {where}: {'; '.join(wrong)}")


def plain_class(cls: Any) -> type[Any]:
    """Return the class under Ray's decorator; `cls` itself where there is none. The trainer itself unwraps it so."""
    plain: type[Any] = getattr(cls, "__ray_actor_class__", cls)
    return plain


def _mismatch(module: ModuleType, name: str, wanted: tuple[str, ...]) -> str | None:
    accepted = f"{name}({', '.join(wanted)})"
    found: Any = module
    for part in name.split("."):
        found = getattr(plain_class(found), part, None)
    if not callable(found):
        return f"found no {name}, accepted is {accepted}"
    parameters = list(inspect.signature(found).parameters.values())
    names = tuple(parameter.name for parameter in parameters[: len(wanted)])
    more = parameters[len(wanted) :] if name != ADVANTAGE else []
    is_needed = any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in more)
    if names == wanted and not is_needed:
        return None
    return f"found {name}({', '.join(p.name for p in parameters)}), accepted is {accepted}"

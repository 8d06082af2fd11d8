"""What of a trainer and its config is accepted, and what is said of the rest."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from osworld_env.arpo.patch import HOOK, INSTALL, _init
from osworld_env.arpo.plan import check_config, env_url
from osworld_env.arpo.trainer import GUI_AGENT, check_names
from osworld_env.errors import BadUsageError, TrainerMismatchError


class RemoteEnvWorker:
    """Every name that is replaced or called, and some that are not."""

    def __init__(
        self, worker_idx: int, max_steps: int, config: Any, remote_server_url: str, slot_id: int | None = None
    ) -> None: ...
    def _post(self, path: str, json_body: object, timeout: object = None) -> None: ...
    def reset(self, task_config: object) -> None: ...
    def step(self, prediction: str) -> None: ...
    def evaluate(self) -> None: ...
    def process_message(self, message: object) -> None: ...
    def get_train_dict(self) -> None: ...
    def get_history_messages(self) -> None: ...
    def get_history_images(self) -> None: ...
    def is_done(self) -> None: ...


def module_with(**names: Callable[..., object]) -> ModuleType:
    module = ModuleType(GUI_AGENT)
    module.__file__ = "/trainer/verl/trainer/gui_agent.py"
    module.RemoteEnvWorker = type("RemoteEnvWorker", (RemoteEnvWorker,), dict(names))  # type: ignore[attr-defined]
    return module


def config(**changes: Any) -> Any:
    values = {"envs": 4, "url": "http://router:15001", "batch": 1, "n": 4, "estimator": "grpo"} | changes
    return SimpleNamespace(
        env=SimpleNamespace(num_envs=values["envs"], remote_server_url=values["url"]),
        data=SimpleNamespace(rollout_batch_size=values["batch"]),
        worker=SimpleNamespace(rollout=SimpleNamespace(n=values["n"])),
        algorithm=SimpleNamespace(adv_estimator=values["estimator"]),
    )


def test_parameters_with_defaults_may_follow_and_other_names_are_left_alone() -> None:
    check_names(module_with())


@pytest.mark.parametrize(
    ("name", "found"),
    [("step", lambda self, text: None), ("evaluate", lambda self, deadline_s: None), ("_post", None)],
)
def test_a_name_that_differs_is_refused_with_what_was_found_and_what_is_accepted(name: str, found: Any) -> None:
    with pytest.raises(TrainerMismatchError, match=rf"found .*RemoteEnvWorker\.{name}.* accepted is .*{name}\(self"):
        check_names(module_with(**{name: found}))


def test_every_name_that_differs_is_in_the_one_message() -> None:
    with pytest.raises(TrainerMismatchError) as error:
        check_names(module_with(step=lambda self: None, reset=lambda self: None))
    assert "/trainer/verl/trainer/gui_agent.py" in str(error.value)
    assert "found RemoteEnvWorker.step(self), accepted is RemoteEnvWorker.step(self, prediction)" in str(error.value)
    assert "RemoteEnvWorker.reset(self, task_config)" in str(error.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://job:t@router:15001/", "http://job:t@router:15001/envs/3"),
        ("http://router:15001/pools/a", "http://router:15001/pools/a/envs/3"),
        ("http://router:15001/envs/7", "http://router:15001/envs/7"),
    ],
)
def test_worker_i_is_env_i_but_where_the_url_names_an_env(url: str, expected: str) -> None:
    assert env_url(url, 3) == expected


@pytest.mark.parametrize("good", [{}, {"envs": 2}, {"envs": 8, "batch": 2}, {"envs": 1, "url": "http://r/envs/7"}])
def test_a_config_that_can_be_played(good: dict[str, Any]) -> None:
    check_config(config(**good))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"envs": 5}, "env.num_envs=5.*accepted: 1 to 4"),
        ({"envs": 0}, "env.num_envs=0"),
        ({"url": "http://router:15001/envs/0"}, "names one env"),
        ({"estimator": "rloo"}, "adv_estimator=rloo"),
    ],
)
def test_a_config_that_cannot_be_played_is_refused_by_its_setting(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(BadUsageError, match=words):
        check_config(config(**bad))


def test_ray_keeps_the_trainers_runtime_environment_and_gets_the_hook() -> None:
    seen: dict[str, Any] = {}
    _init(lambda **kwargs: seen.update(kwargs), None, (), {"address": "local", "runtime_env": {"env_vars": {"A": "1"}}})
    assert seen == {"address": "local", "runtime_env": {"env_vars": {"A": "1"}, HOOK: INSTALL}}
    module, _, name = INSTALL.rpartition(".")
    assert callable(getattr(sys.modules[module], name)), "Ray imports it by this path"


def test_a_hook_of_the_trainers_own_is_not_replaced_in_silence() -> None:
    with pytest.raises(TrainerMismatchError, match="of its own: theirs"):
        _init(lambda **_: None, None, (), {"runtime_env": {HOOK: "theirs"}})

"""What the trainer's config asks for: how many envs, where each is, and whether a batch can be played on them."""

import re
from typing import Any, Final

from osworld_contract.faults import FaultError, FaultKind
from osworld_env.client import EnvClient
from osworld_env.errors import BadUsageError

_ENV_PATH: Final = re.compile(r"/envs/\d+/*$")


def env_url(url: str, env_idx: int) -> str:
    """Return where env `env_idx` of the router at `url` is; a URL that names an env already is that env."""
    return url if _ENV_PATH.search(url) else f"{url.rstrip('/')}/envs/{env_idx}"


def check_config(config: Any) -> None:
    """Check that the trainer's `config` can be played on ``env.num_envs`` envs.

    Raises:
        BadUsageError: It cannot; the message names the setting, what was found and what is accepted.
    """
    envs, url = config.env.num_envs, config.env.remote_server_url
    episodes = config.data.rollout_batch_size * config.worker.rollout.n
    if envs > 1 and _ENV_PATH.search(url):
        raise BadUsageError(f"env.remote_server_url names one env and env.num_envs={envs}; accepted: the router's URL")
    if not 1 <= envs <= episodes:
        raise BadUsageError(
            f"env.num_envs={envs}, but a batch has data.rollout_batch_size * worker.rollout.n = {episodes} episodes; "
            f"accepted: 1 to {episodes}"
        )
    if str(getattr(config.algorithm.adv_estimator, "value", config.algorithm.adv_estimator)) == "rloo":
        raise BadUsageError("algorithm.adv_estimator=rloo cannot leave a faulted sample out; accepted: grpo and others")


def check_envs(url: str, envs: int) -> None:
    """Ask each of the `envs` envs at `url` for its state. One that is down may come; one that is refused will not.

    Raises:
        BadUsageError: The token is wrong, or the router knows no such env.
    """
    for env_idx in range(envs):
        with EnvClient(env_url(url, env_idx)) as client:
            try:
                client.state()
            except FaultError as error:
                if error.fault.kind is FaultKind.CLIENT:
                    raise BadUsageError(f"env {env_idx} of {envs} (env.num_envs): {error.fault.message}") from error

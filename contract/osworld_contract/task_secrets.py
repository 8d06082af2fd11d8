"""The keys of a Secret that reach the task worker (``spec.tasks.secretRef``), and how they get there."""

from typing import Final

from osworld_contract.settings import ENV_PREFIX

TASK_SECRETS: Final = {
    "OPENAI_API_KEY": "OPENAI_API_KEY",
    "OPENAI_BASE_URL": "OPENAI_BASE_URL",
    "HTTP_PROXY": f"{ENV_PREFIX}WORKER_HTTP_PROXY",
    "HTTPS_PROXY": f"{ENV_PREFIX}WORKER_HTTPS_PROXY",
    "NO_PROXY": f"{ENV_PREFIX}WORKER_NO_PROXY",
}
"""Key of the Secret, which is the worker's variable, to the variable of the env server that hands it on. A proxy has a
name of its own there: the env server's own connections must not take it."""

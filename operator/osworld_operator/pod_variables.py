"""From an OSWorldEnv to the settings of its env servers, as variables. Pure.

A test holds every name against the env server's own settings.
"""

from typing import Any, Final

from osworld_contract.crd import Accelerator, OSWorldEnv, OSWorldEnvSpec, Provider
from osworld_contract.desktop_control import CONTROL_FOLDER
from osworld_contract.kube_names import SECRET_KEY_UPSTREAM_TOKEN, tokens_secret_name
from osworld_contract.names import ENV_SERVER_PORT, ENV_TOKEN
from osworld_contract.places import CACHE_VARIABLE, SHARED_VARIABLE, SYSTEM_CACHE
from osworld_contract.task_secrets import TASK_SECRETS
from osworld_operator.child_settings import ChildSettings
from osworld_operator.pod_parts import given_variable, secret_variable, variables
from osworld_operator.pod_volumes import SHARED

WORKER_MEMORY_MIB: Final = 2048
"""Limit of a task worker in a pod. A guess: the usual metrics need some 500."""


def server_variables(env: OSWorldEnv, settings: ChildSettings) -> list[dict[str, Any]]:
    """Return the variables of the container ``server``. ``podTemplate.env`` wins, but over identity and tokens."""
    spec = env.spec
    ours = variables({**_episode(spec), **_desktop(spec), "OSWORLD_LOG_LEVEL": settings.log_level})
    ours += _task_secrets(spec)
    given = [given_variable(variable) for variable in spec.pod_template.env]
    fixed = [*_identity(env), *_secrets(env)]
    by_name = {variable["name"]: variable for variable in (*ours, *given, *fixed)}
    return list(by_name.values())


def _identity(env: OSWorldEnv) -> list[dict[str, Any]]:
    fixed = {
        "OSWORLD_HOST": "0.0.0.0",  # noqa: S104 - the pod's own address; a token and a NetworkPolicy guard it
        "OSWORLD_PORT": str(ENV_SERVER_PORT),
        "OSWORLD_POOL": env.metadata.name,
        CACHE_VARIABLE: str(SYSTEM_CACHE),
        SHARED_VARIABLE: SHARED,
    }
    uid = {"name": "OSWORLD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    return [*variables(fixed), uid]


def _secrets(env: OSWorldEnv) -> list[dict[str, Any]]:
    spec = env.spec
    found = [secret_variable(ENV_TOKEN, tokens_secret_name(env.metadata.name), SECRET_KEY_UPSTREAM_TOKEN)]
    if spec.desktop.password is not None:
        reference = spec.desktop.password.secret_ref
        found.append(secret_variable("OSWORLD_GUEST_PASSWORD", reference.name, reference.key))
    return found


def _task_secrets(spec: OSWorldEnvSpec) -> list[dict[str, Any]]:
    """Return what the env server hands on to the task worker: each key by its name, and none has to be there."""
    if spec.tasks.secret_ref is None:
        return []
    secret = spec.tasks.secret_ref.name
    return [secret_variable(name, secret, key, optional=True) for key, name in TASK_SECRETS.items()]


def _episode(spec: OSWorldEnvSpec) -> dict[str, str]:
    episode = spec.episode
    found = {
        "OSWORLD_MAX_STEPS": str(episode.max_steps),
        "OSWORLD_STEP_PAUSE_S": f"{episode.step_pause.seconds:g}",
        "OSWORLD_RESET_TIMEOUT_S": f"{episode.reset_timeout.seconds:g}",
        "OSWORLD_STEP_TIMEOUT_S": f"{episode.step_timeout.seconds:g}",
        "OSWORLD_EVALUATE_TIMEOUT_S": f"{episode.evaluate_timeout.seconds:g}",
        "OSWORLD_IDLE_TIMEOUT_S": f"{episode.idle_timeout.seconds:g}",
        "OSWORLD_CANARY_EVERY_S": f"{episode.canary_every.seconds:g}",
        "OSWORLD_PAUSE_BETWEEN_STEPS": str(episode.pause_between_steps).lower(),
        "OSWORLD_ACTIONS": episode.actions,
        "OSWORLD_FORMAT_REWARD": episode.format_reward.value,
    }
    if spec.tasks.mirror is not None:
        found["OSWORLD_TASK_MIRROR"] = spec.tasks.mirror
    return found


def _desktop(spec: OSWorldEnvSpec) -> dict[str, str]:
    desktop = spec.desktop
    found = {
        "PROVIDER": desktop.provider.value,
        "OSWORLD_WORKER_SANDBOX": "false",  # bubblewrap needs namespaces, which a restricted pod may not make
        "OSWORLD_WORKER_MEMORY_MIB": str(WORKER_MEMORY_MIB),
    }
    if desktop.provider is Provider.XVFB:
        return {**found, "OSWORLD_SPARE_DESKTOPS": "0", "OSWORLD_DESKTOP_CONTROL": CONTROL_FOLDER}
    assert desktop.image is not None  # a rule of the model
    found["OSWORLD_QEMU_IMAGE"] = desktop.image.url
    if desktop.image.sha256 is not None:
        found["OSWORLD_IMAGE_SHA256"] = desktop.image.sha256
    return {
        **found,
        "OSWORLD_QEMU_ACCELERATOR": accelerator(spec).value,
        "OSWORLD_QEMU_CPUS": str(desktop.cpus),
        "OSWORLD_QEMU_MEMORY_MIB": str(desktop.memory.mib),
        **_snapshots(spec),
    }


def _snapshots(spec: OSWorldEnvSpec) -> dict[str, str]:
    tasks = spec.snapshots.tasks
    # As many for each pod as there may be for a node would fill its disk, and serve one env's resets alone.
    is_shared = spec.cache.host_path is not None or spec.cache.persistent_volume_claim is not None
    return {
        "OSWORLD_TASK_SNAPSHOTS": str(tasks.enabled and is_shared).lower(),
        "OSWORLD_TASK_SNAPSHOTS_MAX": str(tasks.max_per_node),
        "OSWORLD_TASK_SNAPSHOTS_MAX_BYTES": str(int(tasks.max_bytes.value)),
    }


def accelerator(spec: OSWorldEnvSpec) -> Accelerator:
    """Return what the env server is told: ``auto`` without a device is emulation, and needs no proof of KVM first."""
    if spec.desktop.accelerator is Accelerator.AUTO and not spec.scheduling.kvm_resource:
        return Accelerator.TCG
    return spec.desktop.accelerator

"""OSWorldEnvs for tests: good ones, and bad ones that models and API server alike must refuse, naming the field."""

import copy
from dataclasses import dataclass
from typing import Any

from osworld_contract.kube_names import API_GROUP, API_VERSION, KIND


def pool(name: str = "desks", **spec: Any) -> dict[str, Any]:
    """Return an OSWorldEnv of xvfb desktops with `spec` laid over it."""
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"desktop": {"provider": "xvfb"}, **copy.deepcopy(spec)},
    }


QEMU = {"provider": "qemu", "image": {"url": "https://images.test/desktop.zip", "sha256": "0" * 64}}


@dataclass(frozen=True)
class BadPool:
    """One that must be refused."""

    why: str
    spec: dict[str, Any]
    field: str
    """The field's name, as both say it."""

    @property
    def body(self) -> dict[str, Any]:
        """Return the whole object."""
        return pool(**self.spec)


def _qemu(**fields: Any) -> dict[str, Any]:
    return {"desktop": {**QEMU, **fields}}


BAD_POOLS = (
    BadPool("fewer than none", {"replicas": -1}, "replicas"),
    BadPool("more than can be", {"replicas": 5001}, "replicas"),
    BadPool("too many spares", {"spares": 201}, "spares"),
    BadPool("no such provider", {"desktop": {"provider": "vmware"}}, "provider"),
    BadPool("no provider", {"desktop": {"cpus": 2}}, "provider"),
    BadPool("qemu without an image", {"desktop": {"provider": "qemu"}}, "image"),
    BadPool("xvfb with an image", {"desktop": {**QEMU, "provider": "xvfb"}}, "image"),
    BadPool("xvfb under KVM", {"desktop": {"provider": "xvfb", "accelerator": "kvm"}}, "accelerator"),
    BadPool("no address", _qemu(image={"url": "ftp://images.test/a"}), "url"),
    BadPool("no hash", _qemu(image={"url": "https://images.test/a", "sha256": "abc"}), "sha256"),
    BadPool("memory without a unit that is known", _qemu(memory="4GiB"), "memory"),
    BadPool("too little memory", _qemu(memory="256Mi"), "memory"),
    BadPool("another screen", {"desktop": {"provider": "xvfb", "screen": "800x600"}}, "screen"),
    BadPool("too many processors", _qemu(cpus=65), "cpus"),
    BadPool("reset over the router's total", {"episode": {"resetTimeout": "20m"}}, "resetTimeout"),
    BadPool("step as long as the router's total", {"episode": {"stepTimeout": "270s"}}, "stepTimeout"),
    BadPool("evaluate over the router's total", {"episode": {"evaluateTimeout": "1h"}}, "evaluateTimeout"),
    BadPool("a number is no duration", {"episode": {"idleTimeout": "30"}}, "idleTimeout"),
    BadPool("pause longer than the step", {"episode": {"stepTimeout": "10s", "stepPause": "10s"}}, "stepPause"),
    BadPool("no steps", {"episode": {"maxSteps": 0}}, "maxSteps"),
    BadPool("no such dialect", {"episode": {"actions": "qwen"}}, "actions"),
    BadPool(
        "KVM without a device",
        {**_qemu(accelerator="kvm"), "scheduling": {"kvmResource": ""}},
        "kvmResource",
    ),
    BadPool("two caches", {"cache": {"emptyDir": {}, "hostPath": {"path": "/var/cache/osworld-env"}}}, "cache"),
    BadPool("a relative folder", {"cache": {"hostPath": {"path": "cache"}}}, "path"),
    BadPool("no routers", {"router": {"replicas": 0}}, "replicas"),
    BadPool("hedge at once", {"router": {"hedgeAfter": "0s"}}, "hedgeAfter"),
    BadPool("nothing may be replaced", {"update": {"maxUnavailable": 0}}, "maxUnavailable"),
    BadPool("a share over the whole", {"update": {"maxUnavailable": "110%"}}, "maxUnavailable"),
    BadPool("value twice", {"podTemplate": {"env": [{"name": "A", "value": "", "valueFrom": {}}]}}, "env"),
)

"""``pool create``: a pool from options, from a file, or from both."""

from pathlib import Path
from typing import Annotated, Any

import typer

from osworld_contract.crd import Accelerator, Provider, UpdateStrategy
from osworld_contract.crd.spec import REPLICAS_MAX, SPARES_MAX
from osworld_env import terminal
from osworld_env.cluster.manifest import make_manifest
from osworld_env.cluster.options import ContextOption, NamespaceOption, kubectl_extra, open_pools
from osworld_env.cluster.show import describe
from osworld_env.errors import BadUsageError, CliError


def create(  # noqa: PLR0913, PLR0917 - one parameter for each option
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Its name; without it, that of the file.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="An OSWorldEnv, YAML or JSON.")] = None,
    replicas: Annotated[int | None, typer.Option(min=0, max=REPLICAS_MAX, help="How many envs.")] = None,
    spares: Annotated[int | None, typer.Option(min=0, max=SPARES_MAX, help="Ready pods beside them.")] = None,
    provider: Annotated[Provider | None, typer.Option(help="What a desktop is made of.")] = None,
    image: Annotated[str | None, typer.Option(help="Address of a virtual machine's image.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Its SHA-256.")] = None,
    accelerator: Annotated[Accelerator | None, typer.Option(help="What runs a virtual machine.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Processors of a desktop.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of a desktop, for example 4Gi.")] = None,
    disk: Annotated[str | None, typer.Option(help="Space of a desktop on its node, for example 32Gi.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Actions of an episode, as the trainer's max_steps.")] = None,
    service: Annotated[str | None, typer.Option(help="ClusterIP, NodePort or LoadBalancer.")] = None,
    update: Annotated[UpdateStrategy | None, typer.Option(help="How a changed spec reaches the pods.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be created, and end.")] = False,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Wait so many seconds until all envs are ready.")] = 0,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Make a pool. What neither an option nor the file says has the definition's default.

    Everything is checked before it is sent, and each wrong field is named.
    """
    options = {
        "replicas": replicas,
        "spares": spares,
        "desktop.provider": provider and str(provider),
        "desktop.image.url": image,
        "desktop.image.sha256": sha256,
        "desktop.accelerator": accelerator and str(accelerator),
        "desktop.cpus": cpus,
        "desktop.memory": memory,
        "desktop.disk": disk,
        "episode.maxSteps": max_steps,
        "router.service.type": service,
        "update.strategy": update and str(update),
    }
    if file is None and provider is None:
        raise BadUsageError("say what a desktop is made of: --provider xvfb or qemu, or --file")
    given = {} if file is None else read_manifest(file)
    head = given.get("metadata")
    in_file = head.get("namespace") if isinstance(head, dict) else None
    if namespace and in_file and namespace != in_file:
        raise BadUsageError(f"the file is for namespace {in_file}, and --namespace says {namespace}")
    with open_pools(namespace or in_file, context) as pools:
        manifest = make_manifest(name, pools.namespace, given, options)
        if dry_run:
            terminal.out.print_json(data=manifest)
            return
        pools.create(manifest)
        created = manifest["metadata"]["name"]
        terminal.out.print(f"pool {created}: created in {manifest['metadata']['namespace']}", markup=False)
        if not wait_s:
            terminal.out.print(f"its envs: osworld-env pool get {created}; the trainer's line: pool url", markup=False)
            return
        found = pools.wait_ready(created, wait_s)
    if not found.is_ready:
        raise CliError(f"not ready within {wait_s:g} s: {describe(found)}")
    terminal.out.print(describe(found), markup=False)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the one manifest in a file.

    Raises:
        BadUsageError: The file cannot be read, or is not one mapping.
    """
    with kubectl_extra():
        import yaml  # noqa: PLC0415

    try:
        found = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadUsageError(f"the file {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadUsageError(f"the file {path} is no YAML: {' '.join(str(error).split())[:200]}") from error
    documents = [item for item in found if item is not None]
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise BadUsageError(f"the file {path} holds {len(documents)} documents where one OSWorldEnv is due")
    return documents[0]

"""``python -m osworld_operator``: reads the settings and keeps pools. Ends with 0, or with one sentence."""

import asyncio
import logging
import signal
import socket
import sys

import kopf
from aiohttp import web
from kubernetes.aio.config import ConfigException

from osworld_contract.logs import set_up_logging
from osworld_contract.settings import SettingsError
from osworld_operator.api import Api
from osworld_operator.callers import Callers
from osworld_operator.cluster import Cluster
from osworld_operator.env_servers import EnvServers
from osworld_operator.handlers import Keepers, kopf_registry, kopf_settings
from osworld_operator.keeper import Tools
from osworld_operator.lease import Lease
from osworld_operator.metrics import OperatorMetrics
from osworld_operator.nodes import NodeBook
from osworld_operator.settings import OperatorSettings, load_settings
from osworld_operator.web import application

logger = logging.getLogger(__name__)

EXIT_USAGE = 2
EXIT_FAILURE = 1


def main() -> int:
    """Run until SIGINT or SIGTERM. Return the exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    set_up_logging(settings.log_level)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # one line for each event, otherwise
    try:
        asyncio.run(_run(settings))
    except ConfigException as error:
        sys.stderr.write(f"no API server: neither a service account nor a kubeconfig is here: {error}\n")
        return EXIT_FAILURE
    except OSError as error:
        sys.stderr.write(f"OSWORLD_OPERATOR_PORT: {error}\n")
        return EXIT_FAILURE
    return 0


async def _run(settings: OperatorSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with await Api.connect() as api:
        name = settings.operator_name or socket.gethostname()
        lease = Lease(api, settings.operator_namespace, settings.operator_lease, name)
        cluster, servers, metrics = Cluster(api, lease.check), EnvServers(), OperatorMetrics()
        tools = Tools(cluster, servers, NodeBook(cluster), settings.children, metrics)
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = Keepers(tools, tasks)
                runner = web.AppRunner(application(keepers, lease, Callers(cluster), metrics), access_log=None)
                await runner.setup()
                site = web.TCPSite(runner, settings.operator_host, settings.operator_port)
                await site.start()
                logger.info("operator: listening on %s", ", ".join(str(address) for address in runner.addresses))
                lease.url = _url(settings.operator_address, runner.addresses[0][1])
                tasks.create_task(lease.keep(keepers.wake_all))
                watches = kopf.operator(
                    registry=kopf_registry(keepers, tools),
                    settings=kopf_settings(),
                    # Else kopf asks for the user's name, and an image's user has none.
                    identity=name,  # type: ignore[arg-type]  # a NewType of str, of a module that is kopf's own
                    standalone=True,
                    clusterwide=not settings.namespaces,
                    namespaces=settings.namespaces,
                    stop_flag=stop,
                )
                await watches
                await runner.cleanup()
                # The keepers stop where they are: every round is safe to give up, and the next operator begins anew.
                raise _StopError  # noqa: TRY301 - the way to end a TaskGroup
        except* _StopError:
            logger.info("operator: stopped")
        finally:
            await lease.release()
            await servers.close()


def _url(address: str, port: int) -> str:
    """Return where other operators reach this one, empty where nobody said."""
    return f"http://{f'[{address}]' if ':' in address else address}:{port}" if address else ""


class _StopError(Exception):
    """The end was asked for."""


if __name__ == "__main__":
    sys.exit(main())

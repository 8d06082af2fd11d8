"""``osworld-env pool`` against a real API server, the operator, and a real router; KWOK plays nodes and pods."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.cli_rig import Commands, router_of, say_to_kwok
from cluster.control_plane import ControlPlane
from cluster.env_servers import STEP, TASK, PlayedEnvServers, played_env_servers
from cluster.operator_rig import CONVERGE_S, Pool, operator
from osworld_contract.logs import EPISODE_BEGINS
from osworld_contract.wire import Phase
from waiting import wait_until


@pytest.fixture(scope="module")
def servers(plane: ControlPlane) -> Iterator[PlayedEnvServers]:
    with played_env_servers(plane) as running, operator(plane):
        yield running


@pytest.fixture
def pool(plane: ControlPlane, namespace: str, servers: PlayedEnvServers) -> Iterator[Pool]:
    found = Pool(plane, namespace)
    yield found
    plane.kubectl("delete", "owe", "--all", "-n", namespace, "--wait=false")


@pytest.fixture
def commands(plane: ControlPlane, namespace: str, tmp_path: Path) -> Commands:
    return Commands(plane, namespace, tmp_path)


def by_idx(commands: Commands) -> dict[int | None, dict[str, Any]]:
    return {row["env_idx"]: row for row in commands.json("get", "desks")}


def test_get_shows_each_env_with_its_pod_and_episode(
    pool: Pool, commands: Commands, servers: PlayedEnvServers, tmp_path: Path
) -> None:
    """Episodes come through the API server's port-forward from a real router."""
    pool.apply(replicas=2, spares=1)
    pool.wait_whole(2, 1)
    servers.set_phase(pool.pod(1), Phase.RUNNING)
    with router_of(pool, tmp_path):
        wait_until(lambda: by_idx(commands)[1]["state"] == "running", CONVERGE_S, "the episode of env 1")
        rows = by_idx(commands)
    served = pool.served()
    assert {idx: rows[idx]["pod"] for idx in (0, 1)} == {idx: served[idx]["metadata"]["name"] for idx in (0, 1)}
    assert {idx: rows[idx]["epoch"] for idx in (0, 1)} == pool.epochs()
    assert all(rows[idx]["node"] in ("n0", "n1") for idx in rows)
    assert (rows[0]["state"], rows[None]["state"]) == ("idle", "spare")
    assert (rows[1]["task"], rows[1]["step"]) == (TASK, STEP)


def test_without_a_way_to_a_router_pods_are_shown_alone(pool: Pool, commands: Commands) -> None:
    pool.apply(replicas=1, spares=0)
    pool.wait_whole(1, 0)
    done = commands.run("get", "desks")
    assert "note: episodes are not known" in done.stderr
    assert "desks-0" in done.stdout
    assert "1/1" in commands.run("get").stdout


def test_a_pool_that_is_not_there_is_named_with_those_that_are(pool: Pool, commands: Commands) -> None:
    pool.apply(replicas=0, spares=0)
    for arguments in (("get",), ("url",), ("scale",), ("delete", "-y")):
        extra = ("3",) if arguments[0] == "scale" else ()
        done = commands.run(arguments[0], "nobody", *extra, *arguments[1:], exit_code=1)
        assert "no pool 'nobody' in namespace" in done.stderr
        assert "there: desks" in done.stderr


def test_the_line_of_a_node_port_is_the_trainers(pool: Pool, commands: Commands) -> None:
    pool.apply(replicas=1, spares=0, router={"service": {"type": "NodePort"}})
    pool.wait_whole(1, 0)
    port = pool.plane.get(f"/api/v1/namespaces/{pool.namespace}/services/desks-router")["spec"]["ports"][0]["nodePort"]
    [line] = commands.run("url", "desks").stdout.splitlines()
    assert line.startswith("remote_server_url: http://job:")
    assert line.endswith(f"@127.0.0.1:{port}")


def test_check_tries_the_line_against_the_pools_own_router(pool: Pool, commands: Commands, tmp_path: Path) -> None:
    """The tunnel's near end is this machine's; what is behind it decides the verdict."""
    pool.apply(replicas=1, spares=0)
    pool.wait_whole(1, 0)
    refused = commands.run("url", "desks", "--via", "tunnel", "--check", exit_code=1)
    assert "connection refused" in refused.stderr
    assert "kubectl port-forward" in refused.stderr
    with router_of(pool, tmp_path, port=15001):
        done = commands.run("url", "desks", "--via", "tunnel", "--check", exit_code=1)
        assert "no ready env" in done.stderr, "played env servers answer no /health"


def test_scale_and_delete(pool: Pool, commands: Commands) -> None:
    pool.apply(replicas=1, spares=0)
    pool.wait_whole(1, 0)
    assert "1 → 3 envs" in commands.run("scale", "desks", "3").stdout
    pool.wait_whole(3, 0)
    assert "pass --yes" in commands.run("delete", "desks", exit_code=2).stderr
    commands.run("delete", "desks", "--yes")
    wait_until(lambda: pool.pods() == [], CONVERGE_S, "the pods' end")


def test_create_sends_what_was_asked_for_and_waits(pool: Pool, commands: Commands, tmp_path: Path) -> None:
    """The file's values, with an option over one of them."""
    file = tmp_path / "pool.yaml"
    file.write_text(
        "apiVersion: osworld.dev/v1alpha1\nkind: OSWorldEnv\nmetadata: {name: desks}\n"
        "spec: {replicas: 1, spares: 0, desktop: {provider: xvfb, cpus: 1, memory: 1Gi}}\n"
    )
    done = commands.run("create", "-f", str(file), "--replicas", "2", "--service", "NodePort", "--wait", "60")
    assert "2 of 2 envs ready" in done.stdout
    assert pool.is_whole(2, 0)
    assert pool.object["spec"]["router"]["service"]["type"] == "NodePort"
    assert "already exists" in commands.run("create", "-f", str(file), exit_code=1).stderr


def test_a_pool_that_does_not_come_up_in_time_says_why(pool: Pool, commands: Commands) -> None:
    device = ("--provider", "qemu", "--accelerator", "kvm", "--image", "https://images.example.com/a.zip")
    done = commands.run("create", "desks", *device, "--replicas", "1", "--wait", "20", exit_code=1)
    assert "NoKVMDevice" in done.stderr


def test_a_wrong_pool_is_refused_before_it_is_sent(pool: Pool, commands: Commands) -> None:
    done = commands.run("create", "desks", "--provider", "xvfb", "--cpus", "0", "--memory", "4GB", exit_code=2)
    assert "spec.desktop.cpus: Input should be greater than or equal to 1 (got 0)" in done.stderr
    assert "spec.desktop.memory: '4GB' is not a quantity" in done.stderr
    assert pool.plane.get(f"/apis/osworld.dev/v1alpha1/namespaces/{pool.namespace}/osworldenvs/desks") is None


def test_a_drained_env_ends_its_episode_before_its_number_moves(
    pool: Pool, commands: Commands, servers: PlayedEnvServers
) -> None:
    pool.apply(replicas=2, spares=1)
    pool.wait_whole(2, 1)
    busy, idle = pool.pod(0), pool.pod(1)
    servers.set_phase(busy, Phase.RUNNING)
    commands.run("drain", "desks", "--env", "1", "--wait", "60")
    wait_until(lambda: pool.served().get(1, idle)["metadata"]["uid"] != idle["metadata"]["uid"], CONVERGE_S, "a move")
    pool.wait_whole(2, 1)
    done = commands.run("drain", "desks", "--env", "0", "--wait", "5", exit_code=1)
    assert f"still there after 5 s: env 0 ({busy['metadata']['name']})" in done.stderr
    assert pool.pod(0)["metadata"]["uid"] == busy["metadata"]["uid"], "its episode goes on"
    servers.set_phase(busy, Phase.IDLE)
    wait_until(lambda: pool.served().get(0, busy)["metadata"]["uid"] != busy["metadata"]["uid"], CONVERGE_S, "a move")
    pool.wait_whole(2, 1)


def test_all_pods_of_a_node_can_be_drained(pool: Pool, commands: Commands) -> None:
    pool.apply(replicas=3, spares=1)
    pool.wait_whole(3, 1)
    node = pool.pod(0)["spec"]["nodeName"]
    before = {pod["metadata"]["uid"] for pod in pool.pods() if pod["spec"]["nodeName"] == node}
    commands.run("drain", "desks", "--node", node, "--wait", "80")
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in pool.pods())
    pool.wait_whole(3, 1)


def test_top_is_printed_once_where_nobody_watches(pool: Pool, commands: Commands) -> None:
    pool.apply(replicas=1, spares=1)
    pool.wait_whole(1, 1)
    said = commands.run("top", "desks").stdout
    assert "desks: 1 of 1 envs ready" in said
    assert "1 spare" in said


def test_a_cluster_that_is_away_is_one_sentence(
    plane: ControlPlane, namespace: str, commands: Commands, tmp_path: Path
) -> None:
    config = json.loads(plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    away = tmp_path / "away.kubeconfig"
    away.write_text(json.dumps(config))
    commands.use(away)
    assert "the API server cannot be reached" in commands.run("get", exit_code=1).stderr
    assert "no cluster is known here" in commands.run("get", "--context", "none", exit_code=2).stderr


def write_log(path: Path, *texts: str) -> None:
    """Add lines to a container's log, in the form of the kubelet's files."""
    with path.open("a") as file:
        for text in texts:
            stamp = datetime.now(UTC).isoformat().replace("+00:00", "000Z")
            file.write(f"{stamp} stderr F {text}\n")


def give_log(pool: Pool, pod: dict[str, Any], path: Path) -> None:
    path.touch()
    log = {"containers": ["server"], "logsFile": str(path), "follow": True}
    say_to_kwok(pool, "Logs", pod["metadata"]["name"], {"logs": [log]})


def test_logs_follow_an_env_to_its_next_pod(pool: Pool, commands: Commands, tmp_path: Path) -> None:
    pool.apply(replicas=1, spares=1)
    pool.wait_whole(1, 1)
    first = pool.pod(0)
    second = next(pod for pod in pool.pods() if pod["metadata"]["uid"] != first["metadata"]["uid"])
    give_log(pool, first, tmp_path / "first.log")
    give_log(pool, second, tmp_path / "second.log")
    write_log(tmp_path / "first.log", "up", EPISODE_BEGINS % ("e1", TASK), "step_parse: ok one")
    write_log(tmp_path / "second.log", "a spare says nothing of env 0: step_parse: no")
    epoch = pool.epochs()[0]
    head = f"[env 0 epoch {epoch} {first['metadata']['name']} {TASK}]"
    with commands.running("logs", "desks", "--env", "0", "-f", "--grep", "step_parse: ok") as out:
        wait_until(lambda: f"{head} step_parse: ok one" in out.read_text(), 30, "the past")
        write_log(tmp_path / "first.log", "step_parse: ok two", "something else")
        wait_until(lambda: f"{head} step_parse: ok two" in out.read_text(), 30, "a line as it comes")
        name = first["metadata"]["name"]
        pool.plane.kubectl("delete", "pod", "-n", pool.namespace, name, "--force", "--grace-period=0")
        wait_until(lambda: f"env 0 is at {second['metadata']['name']}" in out.read_text(), CONVERGE_S, "the move")
        write_log(tmp_path / "second.log", EPISODE_BEGINS % ("e2", "os/other"), "step_parse: ok three")
        moved = f"[env 0 epoch {pool.epochs()[0]} {second['metadata']['name']} os/other]"
        wait_until(lambda: f"{moved} step_parse: ok three" in out.read_text(), 30, "a line of the next pod")
        said = out.read_text()
    assert "something else" not in said
    assert said.count("ok two") == 1


def test_logs_of_a_number_that_nobody_has_are_refused(pool: Pool, commands: Commands) -> None:
    pool.apply(replicas=0, spares=0)
    assert "no pod of desks has env_idx 5" in commands.run("logs", "desks", "--env", "5", exit_code=1).stderr
    assert "no regular expression" in commands.run("logs", "desks", "--env", "0", "--grep", "(", exit_code=2).stderr

"""The xvfb env pod as its manifest says, in two containers: episodes, what a reset leaves, and containers that end."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from pod_rig import END_DEADLINE_S, TOKEN, Pod, running_pod
from tasks_of import INFEASIBLE, RENAME, task_config
from waiting import wait_until

TERMINAL = "Thought: open a terminal.\nAction: hotkey(key='ctrl alt t')"
RENAMING = "Thought: rename.\nAction: type(content='mv ~/Desktop/todo_list_Jan_1 ~/Desktop/todo_list_Jan_2\\n')"
STAYING = "Thought: stay.\nAction: type(content='setsid -f sleep 9998\\n')"
FINISHED = "Thought: done.\nAction: finished(content='done')"
WAIT = "Thought: wait.\nAction: wait()"

PLACES = "~ /tmp /var/tmp /dev/shm /dev/mqueue /run/user/1000"
LEAVE_TRACES = """
echo marker > ~/Desktop/marker; echo marker >> ~/.bashrc; mkdir -p ~/.config/marker
for folder in /tmp /var/tmp /dev/shm /dev/mqueue /run/user/1000; do : > $folder/marker; done
echo marker > /dev/termination-log
ipcmk --shmem 4096 --queue --semaphore 1 > /dev/null
setsid -f sleep 9999 > /dev/null 2>&1
echo -n marker | setsid -f xclip -selection clipboard > /dev/null 2>&1
gsettings set org.gnome.desktop.background picture-uri file:///marker
mkdir -p /tmp/closed/deep; : > /tmp/closed/deep/file; chmod 000 /tmp/closed/deep /tmp/closed
"""
FIND_TRACES = f"""
find {PLACES} -name '*marker*' -o -name closed; grep -rls marker ~ /tmp; cat /dev/termination-log
ipcs -m -q -s | grep -e '^0x' | grep -w user; pgrep -a sleep; xclip -selection clipboard -o 2> /dev/null
ls ~/.config/dconf 2> /dev/null; gsettings get org.gnome.desktop.background picture-uri | grep marker
"""
"""Prints nothing where nothing was left."""


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with running_pod(tmp_path_factory.mktemp("pod")) as running:
        yield running


@pytest.fixture
def own_pod(tmp_path: Path) -> Iterator[Pod]:
    """A pod for a test that breaks it."""
    with running_pod(tmp_path) as running:
        yield running


def play(pod: Pod, *, renames: bool) -> float:
    """Play OSWorld's task of a file to be renamed, at the terminal, and return its score."""
    client = pod.client()
    first = client.reset(task_config(RENAME))
    assert first.obs_messages is not None, client.errors
    assert len(str(first.obs_messages[-1])) > 100_000, "a whole screenshot"
    client.step(TERMINAL)
    wait_until(lambda: "Terminal" in pod.execute("wmctrl -l"), 30, "a terminal")
    wait_until(lambda: "pts" in pod.execute("ps -eo comm,tty | grep bash"), 30, "its shell")
    if renames:
        client.step(RENAMING)
        wait_until(lambda: "todo_list_Jan_2" in pod.execute("ls ~/Desktop"), 30, "the renamed folder")
    client.step(FINISHED)
    score = client.evaluate()
    assert not client.errors
    return score


def test_a_real_task_is_played_to_its_score_and_the_next_begins_anew(pod: Pod) -> None:
    assert play(pod, renames=True) == 1.0
    assert play(pod, renames=False) == 0.0
    assert play(pod, renames=True) == 1.0


def test_a_reset_leaves_nothing_of_the_episode_before(pod: Pod) -> None:
    client = pod.client()
    assert client.reset(task_config(INFEASIBLE[0])).is_legal
    client.step(TERMINAL)
    wait_until(lambda: "Terminal" in pod.execute("wmctrl -l"), 30, "a terminal")
    wait_until(lambda: "pts" in pod.execute("ps -eo comm,tty | grep bash"), 30, "its shell")
    client.step(STAYING)
    wait_until(lambda: "9998" in pod.execute("pgrep -a sleep"), 30, "what was typed")
    pod.execute(LEAVE_TRACES)
    wait_until(lambda: pod.execute("ls ~/.config/dconf"), 30, "the dconf file")
    found = pod.execute(FIND_TRACES)
    assert all(trace in found for trace in ("sleep 9998", "sleep 9999", "/dev/mqueue/marker", "closed", "0x")), found
    assert client.reset(task_config(INFEASIBLE[0])).is_legal
    assert pod.execute(FIND_TRACES) == ""
    assert client.errors == []


def test_the_desktop_is_what_osworld_expects(pod: Pod) -> None:
    assert pod.client().reset(task_config(INFEASIBLE[0])).is_legal
    script = "id -un; echo $HOME; stat -c %U ~/Desktop; command -v python; sudo -n id -u; echo $DISPLAY"
    found = pod.execute(script).split()
    assert found == ["user", "/home/user", "user", "/opt/osworld/bin/python", "1000", ":0"]


def test_a_killed_desktop_is_a_fault_with_a_name_and_the_next_reset_is_good(own_pod: Pod) -> None:
    client = own_pod.client()
    assert client.reset(task_config(RENAME)).is_legal
    own_pod.kill("desktop")
    assert client.step(WAIT).is_done
    reply = httpx.post(f"{own_pod.url}/env/evaluate", json={}, auth=("job", TOKEN), timeout=60)
    fault = reply.json()["fault"]
    assert reply.status_code == 503
    assert (fault["kind"], fault["masked"]) == ("infra", True)
    assert fault["reason"] in {"desktop_lost", "guest_unreachable"}
    with ThreadPoolExecutor(1) as threads:
        resetting = threads.submit(client.reset, task_config(RENAME))
        own_pod.start("desktop")
        assert resetting.result().is_legal
    assert play(own_pod, renames=True) == 1.0


def test_a_killed_env_server_ends_all_in_the_desktop_and_the_next_one_takes_it_over(own_pod: Pod) -> None:
    assert own_pod.client().reset(task_config(RENAME)).is_legal
    own_pod.execute(LEAVE_TRACES)
    pid_1 = own_pod.processes("desktop")[0]
    own_pod.kill("server")
    wait_until(lambda: own_pod.processes("desktop") == [pid_1], END_DEADLINE_S, "an empty desktop")
    own_pod.start("server")
    own_pod.wait_ready()
    assert own_pod.execute(FIND_TRACES) == ""
    assert play(own_pod, renames=True) == 1.0


def test_a_desktop_that_is_asked_to_end_lets_the_episode_end_first(own_pod: Pod) -> None:
    """A kubelet asks both containers of a pod that it ends at once; the env server's preStop waits for the episode."""
    own_pod.ask_to_end("desktop")
    assert play(own_pod, renames=True) == 1.0
    own_pod.ask_to_end("server")
    own_pod.await_end("server")
    assert own_pod.await_end("desktop") == 0


def test_pid_1_runs_as_nothing_else() -> None:
    argv = [sys.executable, "-m", "osworld_guest.container"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "as PID 1 of a container only" in done.stderr

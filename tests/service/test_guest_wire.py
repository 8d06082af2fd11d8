"""The guest wire in the form that desktop-env's controllers expect, over TCP as they use it."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from desktop_fixtures import WINDOW_DEADLINE_S, Machine, eventually, machine

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "https://accessibility.ubuntu.example.org/ns/"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Machine]:
    """A desktop that the tests of this module share."""
    async with machine(tmp_path_factory.mktemp("run")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def wire(desk: Machine) -> AsyncIterator[httpx.AsyncClient]:
    """The guest wire by TCP."""
    async with httpx.AsyncClient(base_url=desk.url, timeout=60) as client:
        yield client


async def _wait_for_window(desk: Machine, title: str) -> None:
    async def is_there() -> bool:
        return title in await desk.output("wmctrl -l")

    await eventually(is_there, WINDOW_DEADLINE_S, f"a window {title}")


async def test_screenshot_is_a_png_of_the_whole_screen(wire: httpx.AsyncClient) -> None:
    reply = await wire.get("/screenshot")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/png"
    assert reply.content.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(reply.content[16:20]) == 1920
    assert int.from_bytes(reply.content[20:24]) == 1080


@pytest.mark.parametrize(
    ("command", "shell", "output", "returncode"),
    [
        (["echo", "~/x", "a b"], False, "/home/user/x a b\n", 0),
        ("echo 'a b' c", False, "a b c\n", 0),
        ("echo $HOME | tr a-z A-Z; exit 3", True, "/HOME/USER\n", 3),
        (["echo $0-$1", "one", "two"], True, "one-two\n", 0),
        (["python", "-c", "import sys; sys.stdout.buffer.write(b'\\xff')"], False, "\ufffd", 0),
        (["/bin/bash", "-c", "history -c && echo > ~/.bash_history"], False, "", 0),
    ],
)
async def test_execute(wire: httpx.AsyncClient, command: object, shell: bool, output: str, returncode: int) -> None:
    for path in ("/execute", "/setup/execute"):
        reply = await wire.post(path, json={"command": command, "shell": shell})
        assert reply.status_code == 200
        assert reply.json() == {"status": "success", "output": output, "error": "", "returncode": returncode}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"command": ["nosuchprogram"]}', 500, "nosuchprogram"),
        (b'{"command": "a \'unclosed"}', 500, "quotation"),
        (b'{"command": []}', 500, "empty"),
        (b'{"command": "sleep 60", "timeout": 0.3}', 500, "did not end"),
        (b'{"command": 7}', 400, "command"),
        (b'{"command": ["a", 7]}', 400, "command"),
        (b"not json", 400, "JSON"),
        (b"[1, 2]", 400, "object"),
        (b"[" * 100_000, 400, "JSON"),
        (b'{"command": "echo", "timeout": "long"}', 400, "timeout"),
    ],
)
async def test_an_execute_that_cannot_be_says_why(
    wire: httpx.AsyncClient, body: bytes, status: int, words: str
) -> None:
    reply = await wire.post("/execute", content=body)
    assert reply.status_code == status
    assert reply.json()["status"] == "error"
    assert words in reply.json()["message"]


async def test_a_command_that_leaves_a_program_behind_returns(wire: httpx.AsyncClient, desk: Machine) -> None:
    reply = await wire.post("/execute", json={"command": "echo started; sleep 4444 &", "shell": True})
    assert reply.json()["output"] == "started\n"
    assert "sleep 4444" in await desk.output("pgrep -a sleep")
    await desk.output("pkill -x sleep")


async def test_a_command_out_of_time_is_ended_with_all_it_started(wire: httpx.AsyncClient, desk: Machine) -> None:
    reply = await wire.post("/execute", json={"command": "sleep 3333 | sleep 3333", "shell": True, "timeout": 0.3})
    assert reply.status_code == 500
    assert (await desk.run("pgrep -f 'sleep 3333'")).returncode == 1


async def test_run_python_uses_the_desktops_python(wire: httpx.AsyncClient) -> None:
    reply = await wire.post("/run_python", json={"code": "import pyautogui\nprint(pyautogui.size())"})
    assert reply.json()["status"] == "success"
    assert reply.json()["output"] == "Size(width=1920, height=1080)\n"
    failed = (await wire.post("/run_python", json={"code": "print(1)\nraise SystemExit('no')"})).json()
    assert (failed["status"], failed["output"], failed["error"]) == ("error", "1\n", "no\n")
    assert (await wire.post("/run_python", json={})).status_code == 400


async def test_run_bash_script(wire: httpx.AsyncClient) -> None:
    script = "#!/bin/bash\npwd\necho to-error >&2\nexit 5"
    reply = await wire.post("/run_bash_script", json={"script": script, "timeout": 10, "working_dir": "/tmp"})
    assert reply.json() == {"status": "error", "output": "/tmp\nto-error\n", "error": "", "returncode": 5}
    missing = await wire.post("/run_bash_script", json={"script": "pwd", "working_dir": "/nowhere"})
    assert (missing.status_code, missing.json()["returncode"]) == (400, -1)
    late = await wire.post("/run_bash_script", json={"script": "sleep 50", "timeout": 0.3})
    assert (late.status_code, late.json()["returncode"]) == (500, -1)


async def test_files_go_in_and_come_out_unchanged(wire: httpx.AsyncClient) -> None:
    content = bytes(range(256)) * 40_000
    form = {"file_path": "~/Documents/new folder/data.bin"}
    sent = await wire.post("/setup/upload", data=form, files={"file_data": ("data.bin", content)})
    assert (sent.status_code, sent.text) == (200, "File Uploaded")
    reply = await wire.post("/file", data={"file_path": "$HOME/Documents/new folder/data.bin"})
    assert reply.status_code == 200
    assert reply.content == content
    assert (await wire.post("/file", data={"file_path": "/nowhere"})).status_code == 404
    assert (await wire.post("/file", data={"file_path": "/home/user"})).status_code == 404
    assert (await wire.post("/file", data={})).status_code == 400
    assert (await wire.post("/setup/upload", data=form)).status_code == 400


SAVES = """
import time
for number in range({times}):
    with open("/tmp/{name}", "w") as file:
        for half in range(2):
            file.write(f"{{number}} " * 500)
            file.flush()
            time.sleep(0.05)
"""


async def test_a_file_that_is_being_saved_is_sent_when_it_is_whole(wire: httpx.AsyncClient) -> None:
    await wire.post(
        "/execute",
        json={"command": f"python -c '{SAVES.format(times=6, name='saved')}' >/dev/null 2>&1 &", "shell": True},
    )
    await eventually(lambda: _is_there(wire, "saved"), WINDOW_DEADLINE_S, "a file that is being written")
    reply = await wire.post("/file", data={"file_path": "/tmp/saved"})
    assert reply.text == "5 " * 1000


async def test_a_file_that_is_written_all_the_time_is_sent_all_the_same(wire: httpx.AsyncClient) -> None:
    appends = "timeout 20 sh -c 'while :; do echo line >> /tmp/log; sleep 0.05; done' >/dev/null 2>&1 &"
    await wire.post("/execute", json={"command": appends, "shell": True})
    await eventually(lambda: _is_there(wire, "log"), WINDOW_DEADLINE_S, "a log")
    reply = await wire.post("/file", data={"file_path": "/tmp/log"})
    assert set(reply.text.splitlines()) == {"line"}


async def _is_there(wire: httpx.AsyncClient, name: str) -> bool:
    reply = await wire.post("/execute", json={"command": f"test -s /tmp/{name}", "shell": True})
    return bool(reply.json()["returncode"] == 0)


async def test_list_directory(wire: httpx.AsyncClient, desk: Machine) -> None:
    await desk.output("mkdir -p ~/tree/sub; echo > ~/tree/file; ln -s .. ~/tree/loop")
    tree = (await wire.post("/list_directory", json={"path": "/home/user/tree"})).json()["directory_tree"]
    assert (tree["type"], tree["name"]) == ("directory", "tree")
    children = sorted(tree["children"], key=lambda child: str(child["name"]))
    assert children[0] == {"type": "file", "name": "file"}
    assert children[2] == {"type": "directory", "name": "sub", "children": []}
    assert (await wire.post("/list_directory", json={"path": "/nowhere"})).status_code == 400


async def test_sizes_paths_and_platform(wire: httpx.AsyncClient) -> None:
    assert (await wire.post("/screen_size")).json() == {"width": 1920, "height": 1080}
    assert (await wire.post("/desktop_path")).json() == {"desktop_path": "/home/user/Desktop"}
    assert (await wire.get("/platform")).text == "Linux"


async def test_windows_are_opened_activated_measured_and_closed(wire: httpx.AsyncClient, desk: Machine) -> None:
    opened = await wire.post("/setup/open_file", json={"path": "/home/user/Documents"})
    assert opened.status_code == 200
    assert (await wire.post("/setup/launch", json={"command": "gnome-terminal"})).status_code == 200
    await _wait_for_window(desk, "Terminal")
    for body in ({"window_name": "documents"}, {"window_name": "Terminal", "strict": True}):
        assert (await wire.post("/setup/activate_window", json=body)).status_code == 200
        title = str(body["window_name"])

        async def is_active(title: str = title) -> bool:
            return title.lower() in (await desk.output("xdotool getactivewindow getwindowname")).lower()

        assert await eventually(is_active, 5, f"{title} active")
    size = (await wire.post("/window_size", data={"app_class_name": "Gnome-Terminal"})).json()
    assert size["width"] > 300
    assert (await wire.post("/window_size", data={"app_class_name": "nosuch"})).status_code == 404
    closing = {"window_name": "gnome-terminal-server.Gnome-terminal", "strict": True, "by_class": True}
    assert (await wire.post("/setup/close_window", json=closing)).status_code == 200

    async def is_closed() -> bool:
        return "Terminal" not in await desk.output("wmctrl -l")

    assert await eventually(is_closed, 5, "no terminal")
    assert (await wire.post("/setup/activate_window", json={"window_name": "no such"})).status_code == 200
    assert (await wire.post("/setup/activate_window", json={})).status_code == 400
    assert (await wire.post("/setup/open_file", json={"path": "/nowhere"})).status_code == 404


async def test_a_new_wallpaper_is_shown_and_returned(wire: httpx.AsyncClient, desk: Machine) -> None:
    first = await wire.post("/wallpaper")
    assert first.content.startswith(b"\x89PNG")
    await desk.output(
        "python -c \"from PIL import Image; Image.new('RGB', (64, 64), (0, 200, 0)).save('/home/user/w.png')\""
    )
    assert (await wire.post("/setup/change_wallpaper", json={"path": "~/w.png"})).status_code == 200
    assert (await wire.post("/wallpaper")).content == await desk.read("/home/user/w.png")
    pixel = "import pyautogui; print(pyautogui.screenshot().getpixel((1900, 1000)))"

    async def is_shown() -> bool:
        return "(0, 200, 0)" in await desk.output(f"python -c '{pixel}'")

    assert await eventually(is_shown, 10, "the wallpaper on the screen")
    assert (await wire.post("/setup/change_wallpaper", json={"path": "/nowhere.png"})).status_code == 404


async def test_the_accessibility_tree_has_osworlds_form(wire: httpx.AsyncClient, desk: Machine) -> None:
    await wire.post("/setup/launch", json={"command": ["gnome-terminal"]})
    await _wait_for_window(desk, "Terminal")

    async def tree() -> str:
        found = str((await wire.get("/accessibility")).json()["AT"])
        return found if 'name="gnome-terminal-server"' in found else ""

    text = await eventually(tree, WINDOW_DEADLINE_S, "the terminal in the tree")
    assert text.startswith("<desktop-frame ")
    for prefix, name in (("st", "state"), ("attr", "attributes"), ("cp", "component"), ("act", "action")):
        assert f'xmlns:{prefix}="{NAMESPACE}{name}"' in text
    assert "<terminal " in text
    assert 'st:showing="true"' in text
    assert "cp:screencoord=" in text


async def test_terminal_returns_what_the_active_terminal_shows(wire: httpx.AsyncClient, desk: Machine) -> None:
    await wire.post("/setup/activate_window", json={"window_name": "Terminal"})
    await desk.typed("echo out''put")

    async def shown() -> bool:
        reply = (await wire.get("/terminal")).json()
        assert reply["status"] == "success"
        return "\noutput" in (reply["output"] or "")

    assert await eventually(shown, 15, "the output in the terminal")


async def test_execute_with_verification(wire: httpx.AsyncClient) -> None:
    body = {"command": ["true"], "verification": {"command_success": "test -d /home/user"}, "max_wait_time": 3}
    reply = (await wire.post("/setup/execute_with_verification", json=body)).json()
    assert (reply["status"], reply["verification"], reply["returncode"]) == ("success", "passed", 0)
    body |= {"verification": {"window_exists": "no such window"}, "max_wait_time": 0.4, "check_interval": 0.1}
    failed = await wire.post("/setup/execute_with_verification", json=body)
    assert (failed.status_code, failed.json()["status"]) == (500, "verification_failed")


async def test_a_recording_is_a_video(wire: httpx.AsyncClient) -> None:
    assert (await wire.post("/end_recording")).status_code == 400
    assert (await wire.post("/start_recording")).json()["status"] == "success"
    assert (await wire.post("/start_recording")).status_code == 400
    video = await wire.post("/end_recording")
    assert video.status_code == 200
    assert b"ftyp" in video.content[:16]


async def test_an_unknown_path_and_a_wrong_method_are_no_failure_of_the_agent(wire: httpx.AsyncClient) -> None:
    assert (await wire.get("/nosuch")).status_code == 404
    assert (await wire.get("/execute")).status_code == 405


async def test_many_clients_at_once(desk: Machine) -> None:
    async with httpx.AsyncClient(base_url=desk.url, timeout=60) as client:
        replies = await asyncio.gather(*(client.get("/screenshot") for _ in range(12)))
    assert {reply.status_code for reply in replies} == {200}

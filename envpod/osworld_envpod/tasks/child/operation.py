"""One setup or evaluation, by desktop-env's own code: ``SetupController.setup`` and ``DesktopEnv.evaluate``.

It runs in a process of its own that ends with it, so nothing that a task or a file of the agent's does to the
interpreter is left for the next one. ``DesktopEnv.reset`` itself is not called: past the same two calls it only adds a
screenshot that nobody reads and four repeats of a setup that failed.
"""

import logging
import math
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from desktop_env.desktop_env import DesktopEnv  # type: ignore[import-not-found]  # in the worker's environment only

from . import browser, judge, missing, network, programs, provider
from .files import Files
from .trouble import Trouble, module_missing, named
from .watch import Step, Watch

SETUP = "setup"
EVALUATE = "evaluate"
_TASK_ID = "task"
"""Stands for the task's own id, which desktop-env makes a folder's name of."""
_TRACEBACK_CHARS = 2000
SETTLE_S = 1.0
"""Between the last step of a postconfig and the first look at what it left. Steps of public tasks end programs that
save as they end and are read at once: a shell whose terminal was killed wrote its history up to 0.1 s later here, with
a load of 8 on 2 cores, and an episode done right had scored 0. Ten times that; a ``sleep`` at the end does it itself.
"""
_REASON = {SETUP: "setup_failed", EVALUATE: "evaluate_failed"}

Send = Callable[[dict[str, Any]], None]


def run(request: dict[str, Any], send: Send, files: Files) -> None:
    """Carry out `request` and send its one result or fault."""
    operation = str(request["op"])
    watch = Watch(operation, float(request["deadline_s"]), send)
    logging.getLogger("desktopenv").addHandler(watch)
    try:
        value = _carry_out(request, watch, files)
    except BaseException as error:  # the process's boundary: evaluators may raise even SystemExit
        trouble = watch.trouble or named(error, operation) or _unnamed(error, watch)
        trouble.evidence.setdefault("traceback", traceback.format_exc()[-_TRACEBACK_CHARS:])
        send({"event": "fault", **watch.report(trouble)})
    else:
        send({"event": "result", "value": value})


def _carry_out(request: dict[str, Any], watch: Watch, files: Files) -> Any:
    at = provider.Addresses(**request["addresses"])
    guest = network.Guest(at.host, at.server_port, frozenset({at.chromium_port, at.vlc_port, at.vnc_port}))
    missing.on_use(lambda module: watch.fail(module_missing(module, watch.operation)))
    network.install(watch, guest, files)
    browser.install(watch)
    programs.install(watch)
    provider.install(at)
    env = _env(request, watch)
    network.probe(guest)
    if watch.operation == SETUP:
        if not env.setup_controller.setup(env.config, False):
            raise Trouble("guest_unreachable", "the guest agent could not be reached")
        return len(env.config)
    env.action_history[:] = request["actions"]
    _settle_after_postconfig(env)
    score = env.evaluate()
    if trouble := judge.evaluation(watch):
        raise trouble
    return _number(score)


def _env(request: dict[str, Any], watch: Watch) -> Any:
    """Return a ``DesktopEnv`` at the running desktop that knows the task, as ``reset`` leaves it before the setup."""
    task = dict(request["task"]) | {"id": _TASK_ID}
    folder = Path(request["folder"])
    env = DesktopEnv(
        provider_name=provider.PROVIDER_NAME,
        path_to_vm="desktop",
        cache_dir=str(folder),
        screen_size=tuple(request["screen"]),
        require_a11y_tree=False,
        client_password=request["client_password"],
    )
    for step in [*task.get("config", []), *task["evaluator"].get("postconfig", [])]:
        step.setdefault("parameters", {})
    env._set_task_info(task)
    env.setup_controller.reset_cache_dir(env.cache_dir)
    _watch_steps(env.setup_controller, watch)
    os.chdir(env.cache_dir)
    return env


def _watch_steps(controller: Any, watch: Watch) -> None:
    """Put a watch around each step. ``setup`` looks steps up as attributes: the instance's come before the class's."""
    phase = "setup" if watch.operation == SETUP else "postconfig"
    is_setup = watch.operation == SETUP
    done = 0

    def watched(type_: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **parameters: Any) -> Any:
            nonlocal done
            if watch.step is not None:  # a step that another step calls
                return method(*args, **parameters)
            step = Step(phase, done, type_, parameters)
            watch.begin(step)
            try:
                value = method(*args, **parameters)
            except Exception as error:
                if trouble := watch.trouble or named(error, watch.operation):
                    raise trouble from error
                if watch.failed_downloads:
                    raise judge.download_failed(watch) from error
                message = f"{phase} step {done + 1} ({type_}) failed: {error}"
                raise Trouble(_REASON[watch.operation], message[:_TRACEBACK_CHARS]) from error
            verdict = judge.setup_step(watch, step) if is_setup else judge.postconfig_step(watch, step)
            if trouble := watch.trouble or verdict:
                raise trouble
            watch.step = None
            done += 1
            return value

        return call

    for name in dir(controller):
        if name.startswith("_") and name.endswith("_setup") and callable(getattr(controller, name)):
            type_ = name.removeprefix("_").removesuffix("_setup")
            setattr(controller, name, watched(type_, getattr(controller, name)))


def _settle_after_postconfig(env: Any) -> None:
    """Have ``evaluate`` wait for what the postconfig's last step has only begun. What that is, no one can ask it."""
    steps = env.evaluator.get("postconfig", [])
    if not steps or steps[-1]["type"] == "sleep":
        return
    setup = env.setup_controller.setup

    def settled(*args: Any) -> Any:
        is_done = setup(*args)
        time.sleep(SETTLE_S)
        return is_done

    env.setup_controller.setup = settled


def _number(score: Any) -> float:
    """Return `score` as a float.

    Raises:
        Trouble: It is no finite number. Text is none either: desktop-env's metrics give numbers and truth values.
    """
    is_number = hasattr(score, "__float__") and not isinstance(score, str)
    value = float(score) if is_number else math.nan
    if not math.isfinite(value):
        raise Trouble(
            "evaluate_failed", f"the evaluator gave {score!r:.200}, which is no number", type=type(score).__name__
        )
    return value


def _unnamed(error: BaseException, watch: Watch) -> Trouble:
    if watch.failed_downloads and isinstance(error, requests.RequestException):
        return judge.download_failed(watch)
    what = f"{type(error).__name__}: {error}"[:_TRACEBACK_CHARS]
    where = "the setup" if watch.operation == SETUP else "the evaluator"
    return Trouble(_REASON[watch.operation], f"{where} raised {what}")

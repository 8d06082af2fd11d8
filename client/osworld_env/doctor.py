"""``osworld-env doctor``: what this machine can run, and what to install."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from osworld_contract.redact import redact
from osworld_env import machine_probes, terminal
from osworld_env.errors import EXIT_FAILURE
from osworld_env.machine_check import Verdict, check_xvfb
from osworld_env.machine_probes import Finding, Level


def _check_docker() -> Verdict:
    """Say whether a Docker engine answers. What to do is in the finding of it: nobody has to have one."""
    found = machine_probes.probe_docker()
    return Verdict(found.level is Level.OK, found.detail)


def _check_vmware() -> Verdict:
    """Say whether there is a vmrun."""
    if shutil.which("vmrun"):
        return Verdict(True, "vmrun is on PATH")
    return Verdict(False, "vmrun is not on PATH: VMware Fusion and Workstation Pro have it")


PROVIDERS: Final[dict[str, Callable[[], Verdict]]] = {
    "xvfb": check_xvfb,
    "docker": _check_docker,
    "vmware": _check_vmware,
}
"""Providers of which a quick look can tell. QEMU is among the findings; EC2 is asked for nothing."""

_MARKS: Final = {Level.OK: "[green]✓[/]", Level.NOTE: "[yellow]•[/]", Level.MISSING: "[red]✗[/]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what this machine can run, and what to install. Changes nothing.

    Exit code 0 if at least one provider can run.
    """
    verdicts = {name: check() for name, check in PROVIDERS.items()}
    findings = [
        *machine_probes.probe_environments(),
        machine_probes.probe_kvm(),
        machine_probes.probe_qemu(),
        machine_probes.probe_docker(),
        *machine_probes.probe_system(),
    ]
    runnable = [name for name, verdict in verdicts.items() if verdict.can_run and not blockers(findings)]
    if as_json:
        report = {
            "can_run": runnable,
            "providers": {name: asdict(verdict) for name, verdict in verdicts.items()},
            "findings": [asdict(finding) for finding in findings],
        }
        terminal.out.print_json(json.dumps(report))
    else:
        _show(verdicts, findings, runnable)
    if not runnable:
        raise typer.Exit(EXIT_FAILURE)


def blockers(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings without which no provider can run."""
    return [finding for finding in findings if finding.level is Level.MISSING]


def _show(verdicts: dict[str, Verdict], findings: Sequence[Finding], runnable: Sequence[str]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    for name, verdict in verdicts.items():
        mark = _MARKS[Level.OK if verdict.can_run else Level.MISSING]
        table.add_row(mark, f"provider {name}", escape(redact(verdict.reason)))
        for note in verdict.notes:
            table.add_row(_MARKS[Level.NOTE], "", escape(redact(note)))
    for finding in findings:
        table.add_row(_MARKS[finding.level], finding.name, escape(redact(finding.detail)))
    terminal.out.print(table)
    advice = [verdict.advice for verdict in verdicts.values() if not verdict.can_run and verdict.advice]
    advice += [f"{finding.advice}   ({finding.name})" for finding in blockers(findings) if finding.advice]
    optional = [
        f"{finding.advice}   ({finding.name})" for finding in findings if finding.level is Level.NOTE and finding.advice
    ]
    for heading, lines in (("To do:", advice), ("If wanted:", optional)):
        if lines:
            terminal.out.print(f"[bold]{heading}[/]")
            for line in lines:
                terminal.out.print(f"  {line}", markup=False)
    if runnable:
        terminal.out.print(f"[bold green]can run:[/] {', '.join(runnable)}")
    else:
        terminal.out.print("[bold red]no provider can run here yet[/]")

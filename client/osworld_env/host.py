"""``osworld-env host check``: does KVM work on this machine, and what has to be switched on."""

import json
from dataclasses import asdict, replace
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from osworld_contract.redact import redact
from osworld_env import terminal
from osworld_env.errors import EXIT_FAILURE
from osworld_env.host_facts import Device, ask_proof, read_facts
from osworld_env.host_verdict import HostVerdict, Kvm, judge
from osworld_env.machine_probes import Level

EXIT_UNPROVEN: Final = 3
"""Nothing speaks against KVM, and no kernel could be booted under it."""

_MARKS: Final = {Level.OK: "[green]✓[/]", Level.NOTE: "[yellow]•[/]", Level.MISSING: "[red]✗[/]"}

_WORDS: Final = {
    Kvm.WORKS: "[bold green]KVM works here[/]",
    Kvm.UNPROVEN: "[bold yellow]KVM may work here; no kernel was booted under it[/]",
    Kvm.BROKEN: "[bold red]KVM is there and of no use:[/] virtual machines would be emulated, 10x slower",
    Kvm.NONE: "[bold red]no KVM here:[/] virtual machines would be emulated, 10x slower",
}

app = typer.Typer(name="host", help="This machine as a host of virtual machines.", no_args_is_help=True)


@app.callback()
def host() -> None:
    """Look at this machine as a host of virtual machines."""


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    boot: Annotated[bool, typer.Option(help="Boot a kernel under KVM, where that can be tried.")] = True,
) -> None:
    """Say whether KVM works here, nested or not, and what to switch on. Changes nothing.

    Exit code 0: a kernel booted under KVM. 1: there is no KVM, or it does not work. 3: it could not be tried.
    """
    facts = read_facts()
    if boot and facts.device is Device.ANSWERS:
        facts = replace(facts, proof=ask_proof())
    verdict = judge(facts)
    if as_json:
        terminal.out.print_json(json.dumps(_report(verdict)))
    else:
        _show(verdict)
    if verdict.kvm is not Kvm.WORKS:
        raise typer.Exit(EXIT_UNPROVEN if verdict.kvm is Kvm.UNPROVEN else EXIT_FAILURE)


def _report(verdict: HostVerdict) -> dict[str, object]:
    findings = [asdict(finding) for finding in verdict.findings]
    return {"kvm": verdict.kvm, "platform": verdict.platform, "findings": findings, "advice": verdict.advice}


def _show(verdict: HostVerdict) -> None:
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    for finding in verdict.findings:
        table.add_row(_MARKS[finding.level], finding.name, escape(redact(finding.detail)))
    terminal.out.print(table)
    if verdict.advice:
        terminal.out.print("[bold]To do:[/]")
        for line in verdict.advice:
            terminal.out.print(f"  {line}", markup=False)
    terminal.out.print(_WORDS[verdict.kvm])

"""Lines of an env server's log, as ``pool logs`` shows them: whose they are and of which task. Pure."""

import re
from dataclasses import dataclass
from typing import Self

from osworld_contract.logs import EPISODE_BEGINS

_TASK = re.compile(re.escape(EPISODE_BEGINS).replace("%s", r"(\S+)"))


@dataclass(frozen=True)
class LogLine:
    """One line."""

    stamp: str
    """When the node took it, as the API server writes it: it sorts, and a log can be asked for from there on."""
    text: str

    @classmethod
    def parse(cls, line: str) -> Self:
        """Return a line that was asked for with ``timestamps``."""
        stamp, _, text = line.partition(" ")
        return cls(stamp, text)


@dataclass
class LogPrinter:
    """Puts env_idx, epoch, pod and task before the lines of one pod while it has an env_idx."""

    env_idx: int
    epoch: int
    pod: str
    pattern: re.Pattern[str] | None = None
    """Only lines in which this is found; None shows all."""
    task: str = "-"
    last: str = ""
    """Stamp of the latest line. What is not newer was shown before, by a connection that broke off since."""

    def shown(self, line: LogLine) -> str | None:
        """Return what is to be printed of a line, or None; follow the task in any case."""
        if line.stamp <= self.last:
            return None
        self.last = line.stamp
        if found := _TASK.search(line.text):
            self.task = found[2]
        if self.pattern is not None and not self.pattern.search(line.text):
            return None
        return f"[env {self.env_idx} epoch {self.epoch} {self.pod} {self.task}] {line.text}"

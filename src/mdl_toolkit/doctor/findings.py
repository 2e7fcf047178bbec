"""What the doctor finds: a line for each thing that was looked at, with what to do where it is wrong."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

#: How a finding is judged: fine; may be meant, or costs time; a run won't work or ends early.
OK, WARNING, PROBLEM = "ok", "warning", "problem"
#: Seconds that looking at one thing may take: a drive or a driver may not answer at all.
LIMIT = 30.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``, ``warning`` or ``problem``.
        topic: What was looked at, in a word or two.
        text: What was found.
        remedy: What to do about it.
        host: The host's name; empty for what concerns several.
    """

    level: str
    topic: str
    text: str
    remedy: str = ""
    host: str = ""

    def line(self, several: bool) -> str:
        """The finding for a person; it names the host where there are several."""
        unnamed = several and self.host and f"host {self.host}" not in self.text
        where = f"host {self.host}: " if unnamed else ""
        return f"{self.level:7}  {self.topic}: {where}{self.text}" + (
            f"; {self.remedy}" if self.remedy else ""
        )

    def as_dict(self) -> dict[str, str]:
        """The finding for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Finding:
        """The finding that :meth:`as_dict` was of."""
        return cls(**values)


@dataclass
class Examined:
    """What was found on one process, or on all of them.

    Attributes:
        host: The name of this process's host.
        versions: Of libraries, here.
        findings: In the order in which they are told.
        hosts: What is known of each host of a launch, by its name; for JSON.
        pairs: How each host answered each other one; for JSON.
    """

    host: str
    versions: dict[str, str]
    findings: list[Finding]
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        """What won't let a run work."""
        return [finding for finding in self.findings if finding.level == PROBLEM]


def looked_at(
    topic: str, look: Callable[[], Iterable[Finding]], host: str, seconds: float = LIMIT
) -> list[Finding]:
    """Look at one thing within a time; what goes wrong while looking is a finding, too.

    Args:
        topic: What is looked at.
        look: Finds something, or raises an error.
        host: The name of this host.
        seconds: How long it may take. After that it goes on by itself in a thread that keeps nothing up.
    """
    found: list[Finding] = []

    def look_now() -> None:
        try:
            found.extend(look())
        except Exception as error:  # whatever it is, the others are wanted all the more
            cause = " ".join(str(error).split()) or type(error).__name__
            found.append(Finding(PROBLEM, topic, f"could not be checked: {cause}"))

    thread = threading.Thread(target=look_now, name=f"doctor-{topic}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        found = [
            Finding(
                PROBLEM, topic, f"no answer within {seconds:.0f} s", "its disk, network drive or driver hangs"
            )
        ]
    return [dataclasses.replace(finding, topic=finding.topic or topic, host=host) for finding in found]

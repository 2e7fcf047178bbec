"""The guide's command blocks as a reader would copy them, and the few words changed to run them on CPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_BLOCK = re.compile(
    r"(?:<!-- (?P<key>run on|file): (?P<value>[^>]*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        number: Its place in the document, from 1.
        heading: The heading it stands under.
        language: ``bash`` or ``yaml``.
        text: What a reader copies.
        place: Where it is to be run, for ``bash``: ``here``, ``both hosts``, ``terminal``, ``slurm``, ….
        file: Name of the file it is, for ``yaml``.
    """

    number: int
    heading: str
    language: str
    text: str
    place: str
    file: str | None

    @property
    def title(self) -> str:
        """A name for the test of it."""
        return f"{self.number:02}-{self.file or '-'.join(self.heading.lower().split())}"


def blocks(document: str) -> list[Block]:
    """All fenced blocks of a document, by its path from the repository's root."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for number, match in enumerate(_BLOCK.finditer(text), start=1):
        heading = _HEADING.findall(text[: match.start()])[-1]
        place = match["value"] if match["key"] == "run on" else "here"
        file = match["value"] if match["key"] == "file" else None
        found.append(Block(number, heading, match["language"], match["text"], place, file))
    return found


def for_cpus(text: str, *, settings: Path, processes: int = 2) -> str:
    """A command line with CPU process counts and a small model put in; everything else stays as it is.

    - ``--nproc-per-node gpu`` becomes a number, since torchrun counts no GPUs here;
    - ``mdl-toolkit train`` and ``mdl_toolkit train`` get ``--config SETTINGS``, which names a small model
      and batch: flags win over it, so it changes nothing that the line itself says. So does
      ``mdl-toolkit convert-dataset``, with the model alone.
    - ``num_processes`` of an accelerate config becomes the number of processes.
    """
    text = text.replace("--nproc-per-node gpu", f"--nproc-per-node {processes}")
    text = text.replace("--nproc-per-node=gpu", f"--nproc-per-node={processes}")
    text = re.sub(r"\b(mdl[-_]toolkit train)\b", rf"\1 --config {settings}", text)
    text = re.sub(
        r"\b(mdl-toolkit convert-dataset \S+)", rf"\1 --config {settings.with_name('convert.yaml')}", text
    )
    return re.sub(r"^num_processes: \d+$", f"num_processes: {processes}", text, flags=re.MULTILINE)

"""What is known of each row of a set: columns of small numbers, and each different text once."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.conversion.worker import ClipJob
from mdl_toolkit.errors import printable
from mdl_toolkit.inspection.sound.clip import ClipFacts, Sounds

#: A row's system prompt and user prompt.
Prompts = tuple[str | None, str | None]


class SeenRow(NamedTuple):
    """A row as it comes from a table or a dataset.

    Attributes:
        number: Its line in the file, or its row.
        job: What loads its clip; ``None`` where none can be.
        problem: Why conversion would refuse it; ``None`` where it wouldn't.
        answer: Its answer; ``None`` where it has none, or where it isn't known.
        answer_tokens: The tokens of its answer, without the one that ends it; ``None`` where unknown.
        prompts: Its prompts; ``None`` where they aren't known.
        samples: The length of its clip at the model's rate.
        silent: Whether there is no sound in its clip.
        facts: Of its clip; ``None`` where it couldn't be loaded.
    """

    number: int
    job: ClipJob | None = None
    problem: str | None = None
    answer: str | None = None
    answer_tokens: int | None = None
    prompts: Prompts | None = None
    samples: int = 0
    silent: bool = False
    facts: ClipFacts | None = None


class _Numbered:
    """Different values, numbered."""

    def __init__(self) -> None:
        self.values: list[object] = []
        self._numbers: dict[object, int] = {}

    def number(self, value: object) -> int:
        found = self._numbers.setdefault(value, len(self.values))
        if found == len(self.values):
            self.values.append(value)
        return found


@dataclass
class Collected:
    """All rows of a set. Rows are numbered from 0 here, in order.

    Attributes:
        name: The set's name for people: that of its file or folder.
        table: The name of the table that its rows are of.
        word: What a row's number is: ``line`` or ``row``.
        sample_rate: The model's rate in Hz.
        sounds: Where its recordings come from.
        model: The model whose tokens are counted; ``None`` where none is at hand.
        model_note: Why there is none.
        readable: Whether its texts can be read; else each is the numbers of its tokens.
        has_answers: Whether it has answers at all.
        order: The order of clip and text in the user's turn.
        remarks: Sentences on the table as a whole.
    """

    name: str
    table: str
    word: str
    sample_rate: int
    sounds: Sounds
    model: str | None = None
    model_note: str = ""
    readable: bool = True
    has_answers: bool = True
    order: str = "audio-first"
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.problems: dict[int, str] = {}
        self.facts: list[ClipFacts | None] = []
        self.jobs: list[ClipJob | None] = []
        self._answers, self._prompts = _Numbered(), _Numbered()
        self._numbers, self._samples = array("q"), array("q")
        self._answer, self._prompt, self._tokens = array("l"), array("l"), array("l")
        self._silent = bytearray()

    def add(self, row: SeenRow) -> None:
        """Take a row in, without its texts where it would be refused: nothing is learned of them."""
        if row.problem is not None:
            self.problems[len(self.facts)] = row.problem
            row = row._replace(answer=None, prompts=None, answer_tokens=None)
        self.facts.append(row.facts)
        self.jobs.append(row.job)
        self._numbers.append(row.number)
        self._samples.append(row.samples)
        self._answer.append(-1 if row.answer is None else self._answers.number(row.answer))
        self._prompt.append(-1 if row.prompts is None else self._prompts.number(row.prompts))
        self._tokens.append(-1 if row.answer_tokens is None else row.answer_tokens)
        self._silent.append(row.silent)

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def usable(self) -> int:
        """The number of rows that conversion would take."""
        return len(self) - len(self.problems)

    def line(self, row: int) -> int:
        """A row's number in its file."""
        return self._numbers[row]

    def row_name(self, row: int) -> str:
        """A row's name for people: ``train.csv line 17 (clips/a.wav)``."""
        job = self.jobs[row]
        source = f" ({printable(job.source)})" if job is not None and job.source else ""
        return f"{self.table} {self.word} {self._numbers[row]}{source}"

    def seconds(self) -> NDArray[np.float64]:
        """The lengths of all clips, float64 [rows]; 0 where a clip couldn't be loaded."""
        return np.asarray(self._samples, dtype=np.float64) / self.sample_rate

    def digest(self, row: int) -> bytes:
        """The digest of a row's clip; empty where the clip couldn't be loaded."""
        facts = self.facts[row]
        return facts.digest if facts is not None else b""

    def silent(self) -> list[int]:
        """The rows without any sound."""
        return [row for row, flag in enumerate(self._silent) if flag]

    def answers(self) -> tuple[list[str], NDArray[np.int64]]:
        """The different answers, and which one each row has, int64 [rows]; −1 for none."""
        return [str(value) for value in self._answers.values], np.asarray(self._answer, dtype=np.int64)

    def answer(self, row: int) -> str | None:
        """A row's answer."""
        number = self._answer[row]
        return None if number < 0 else str(self._answers.values[number])

    def prompts(self) -> tuple[list[Prompts], NDArray[np.int64]]:
        """The different pairs of prompts, and which one each row has; −1 where it isn't known."""
        return list(self._prompts.values), np.asarray(self._prompt, dtype=np.int64)  # type: ignore[arg-type]

    def prompt(self, row: int) -> int:
        """The number of a row's pair of prompts."""
        return self._prompt[row]

    def answer_tokens(self) -> NDArray[np.int64]:
        """The tokens of each answer, int64 [rows]; −1 where they aren't known."""
        return np.asarray(self._tokens, dtype=np.int64)

"""Answers to the rows of one window: each noted as soon as it is there, whatever becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

from mdl_toolkit.data.input.records import Row
from mdl_toolkit.errors import UserError, shortage
from mdl_toolkit.generation.answer import Answer, Prompt
from mdl_toolkit.infer.confidence.values import Confidence
from mdl_toolkit.infer.journal.lines import RowResult, WindowLog
from mdl_toolkit.infer.prompts import PromptChoice, shown
from mdl_toolkit.memory import free_memory, is_out_of_memory
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import Progress, duration

logger = get_logger(__name__)

#: Failed rows that are shown while the run goes on; all of them are in the output.
_SHOWN_ERRORS = 5
#: Seconds after which a clip that isn't there yet is named.
_STALL = 60.0


class Answerer(Protocol):
    """What answers prompts: :class:`Generator`, :class:`ChoiceScorer`."""

    def stream(self, prompts: Iterable[Prompt], slots: int) -> Iterator[tuple[int, Answer]]:
        """Places of prompts and their answers; so many prompts are in work at a time."""


@dataclass
class LoadingRow:
    """A row whose clip is being loaded.

    Attributes:
        window: Number of its window.
        place: Its place in the input, from 0.
        row: The row.
        prompt: What it asks, once its clip is there.
    """

    window: int
    place: int
    row: Row
    prompt: Future[Prompt]


class RowReporter:
    """Reports on rows: the first failures, clips that take long, and the first answer.

    Args:
        source: The input.
        choice: The prompts of rows.
    """

    def __init__(self, source: Path, choice: PromptChoice) -> None:
        self._source, self._choice = source, choice
        self._failures, self._answered = 0, False

    def failed(self, row: Row, reason: str) -> None:
        """Say why a row has no answer, if only few have failed so far."""
        self._failures += 1
        if self._failures <= _SHOWN_ERRORS:
            logger.warning(f"{self._source} line {row.number}: {reason}")
        if self._failures == _SHOWN_ERRORS + 1:
            logger.warning("more rows failed; the output's error column has all of them")

    def late(self, row: Row, seconds: float) -> None:
        """Say that a row's clip isn't there after so many seconds."""
        logger.info(
            f"waiting for {self._source} line {row.number} ({row.audio[:80]}), {duration(seconds)} so far"
        )

    def answered(self, row: Row, prediction: str) -> None:
        """Show what the first row asked and got: the quickest way to see a wrong prompt."""
        if not self._answered:
            self._answered = True
            system, user = self._choice.pair(row)
            logger.info(f"line {row.number}: system {shown(system)}, user {shown(user)} -> {prediction!r}")


class WindowAnswers:
    """Makes the answers of one window and notes them in the journal.

    Args:
        window: Number of the window.
        loading: Its rows, in the order in which they are to be answered.
        decode: Makes the text of an answer's tokens.
        journal: Gets each result as soon as it is there.
        progress: Counts the results.
        reporter: Tells of failed and slow rows, and of the first answer.
        confidence: What to note beside the answers.
    """

    def __init__(
        self,
        window: int,
        loading: Iterable[LoadingRow],
        decode: Callable[[list[int]], str],
        journal: WindowLog,
        progress: Progress,
        reporter: RowReporter,
        confidence: Confidence,
    ) -> None:
        self._decode, self._journal, self._progress, self._reporter = decode, journal, progress, reporter
        self._window, self._confidence = window, confidence
        self._rows: dict[int, Row] = {}
        #: Prompts that are not answered yet, by place in the input.
        self._asked: dict[int, Prompt] = {}
        self._source = self._loaded(loading)

    def make(self, generator: Answerer, slots: int) -> None:
        """Answer all rows. Where those that run together need more memory than there is, fewer do.

        Args:
            generator: Makes the answers.
            slots: Rows that run together.
        """
        self._journal.begin(self._window)
        while not self._answer(generator, slots):
            free_memory()
            if slots == 1:
                place = next(iter(self._asked))
                tokens = len(self._asked[place].input_ids)
                self._fail(place, f"not enough memory for its {tokens} tokens alone")
            slots = max(1, slots // 2)
        self._journal.finish(self._window)

    def _answer(self, generator: Answerer, slots: int) -> bool:
        """Answer what isn't answered yet; whether there was enough memory for all of it."""
        places: list[int] = []
        try:
            for number, answer in generator.stream(self._prompts(places), slots):
                self._take(places[number], answer)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _prompts(self, places: list[int]) -> Iterator[Prompt]:
        """Prompts to answer, first those to be tried again; ``places`` gets their places in the input."""
        for place, prompt in chain(list(self._asked.items()), self._source):
            self._asked[place] = prompt
            places.append(place)
            yield prompt

    def _loaded(self, loading: Iterable[LoadingRow]) -> Iterator[tuple[int, Prompt]]:
        """Places and prompts of the rows that can be asked, each waited for; the others have failed."""
        for item in loading:
            self._rows[item.place] = item.row
            started = time.monotonic()
            while not wait([item.prompt], timeout=_STALL).done:
                self._reporter.late(item.row, time.monotonic() - started)
            try:
                prompt = item.prompt.result()
            except UserError as error:
                self._fail(item.place, str(error))
            except Exception as error:  # whatever one row does, the others go on
                plain = shortage(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
                self._fail(item.place, plain)
            else:
                yield item.place, prompt

    def _take(self, place: int, answer: Answer) -> None:
        choices = self._asked[place].choices
        text = self._text(answer.tokens)
        if choices is not None and answer.ranked is not None:
            text = choices.texts[answer.ranked[0][0]]
        confidence = self._confidence.values(answer, choices, self._text)
        self._note(RowResult(place, text, cut=not answer.finished, confidence=confidence))
        self._reporter.answered(self._rows[place], text)

    def _text(self, tokens: list[int]) -> str:
        return self._decode(tokens).replace("\0", "\ufffd")

    def _fail(self, place: int, reason: str) -> None:
        self._reporter.failed(self._rows[place], reason)
        self._note(RowResult(place, error=reason))

    def _note(self, result: RowResult) -> None:
        self._asked.pop(result.place, None)
        self._journal.add(self._window, [result])
        self._progress.update()

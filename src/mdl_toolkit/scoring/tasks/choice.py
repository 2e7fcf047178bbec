"""Task ``choice``: an answer is right where it chooses the reference's option, by letter or by text."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from mdl_toolkit.scoring.measures.confusion import ClassStatistics
from mdl_toolkit.scoring.reading.lists import texts_of
from mdl_toolkit.scoring.reading.options import OptionReader, without_letters
from mdl_toolkit.scoring.task import Judged, Texts, UnfitRowError, shortened

_LETTERS = string.ascii_uppercase
#: Where no options are known, letters up to this one count at least.
_FEWEST_LETTERS = 4


class ChoiceTask:
    """Reads an option out of each answer; see :meth:`OptionReader.read` for how.

    Where a row has no choices, its options are letters alone: from A to the last letter of such references, D
    at least.
    """

    def judge(self, texts: Texts) -> Judged:
        """See :meth:`mdl_toolkit.scoring.task.Task.judge`."""
        wanted = [next(iter(texts_of(reference)), "").strip() for reference in texts.references]
        readers = _readers(texts.choices or [None] * len(wanted), wanted)
        truth = [_true_option(*row) for row in zip(readers, wanted, range(len(wanted)), strict=True)]
        answers = [None if given is None else "; ".join(texts_of(given)) for given in texts.predictions]
        given = [_option(reader, answer) for reader, answer in zip(readers, answers, strict=True)]
        letters = list(_LETTERS[: max([*truth, *given]) + 1])
        statistics = ClassStatistics(np.array(truth), np.array(given), len(letters), f1=False)
        right = statistics.right
        unknown = [place for place, option in enumerate(given) if option < 0]
        empty = [place for place, option in enumerate(truth) if option < 0]
        return Judged(
            statistics,
            [None if option < 0 else float(correct) for option, correct in zip(truth, right, strict=True)],
            right,
            columns={"wanted": _named(letters, truth), "given": _named(letters, given)},
            details={**statistics.details(letters), "unread": {"no_option": len(unknown)}},
            left_out={"no option in the reference": empty},
            unread={"choose no option, or several": unknown},
        )


def _named(letters: Sequence[str], options: Sequence[int]) -> list[str | None]:
    """The letters of options; ``None`` for none."""
    return [letters[option] if option >= 0 else None for option in options]


def _readers(choices: Sequence[Sequence[str] | None], wanted: Sequence[str]) -> list[OptionReader]:
    """What reads the options of each row; rows with the same choices share one."""
    alone = [
        text.strip(".()[] ").upper() for text, options in zip(wanted, choices, strict=True) if not options
    ]
    last = max((_LETTERS.index(text) for text in alone if len(text) == 1 and text in _LETTERS), default=0)
    made: dict[tuple[str, ...], OptionReader] = {(): OptionReader(None, max(last + 1, _FEWEST_LETTERS))}
    found = []
    for options in choices:
        key = tuple(options or ())
        if key not in made:
            made[key] = OptionReader(without_letters(key))
        found.append(made[key])
    return found


def _option(reader: OptionReader, answer: str | None) -> int:
    option = None if answer is None else reader.read(answer)
    return -1 if option is None else option


def _true_option(reader: OptionReader, text: str, place: int) -> int:
    """The option of a reference; -1 where it is empty.

    Raises:
        UnfitRowError: It is none of the row's options.
    """
    if not text:
        return -1
    option = _option(reader, text)
    if option < 0:
        raise UnfitRowError(
            place,
            f'the reference "{shortened(text)}" is none of the options; give its letter or text, and the '
            "options in a column `choices` or in the prompt",
        )
    return option

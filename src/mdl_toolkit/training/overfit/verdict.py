"""Whether the rows were learned, and if not, why that may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mdl_toolkit.settings import TrainSettings

#: A loss that is near zero: the model gives the right next token a probability of 95 % or so.
NEAR_ZERO = 0.05
#: The share of the answers that have to come back.
_ENOUGH = 0.9
#: A loss that is still this share of the first one has hardly fallen.
_HARDLY = 0.9
#: Rows that are named in lines of their own, and in one line.
_NAMED, _LISTED = 8, 4


@dataclass(frozen=True)
class LearnedAnswer:
    """A row that was to be learned.

    Attributes:
        name: The row's name for people.
        wanted: The right answer.
        given: What the trained model generates; ``None`` where it can't.
        problem: Why it can't.
        cut: Whether the limit of answers ended it.
    """

    name: str
    wanted: str
    given: str | None
    problem: str = ""
    cut: bool = False

    @property
    def back(self) -> bool:
        """Whether the answer came back exactly."""
        return self.given == self.wanted


@dataclass(frozen=True)
class Verdict:
    """What became of learning a few rows by heart.

    Attributes:
        losses: The loss of each step.
        norms: The gradient norm of each step.
        pass_steps: The number of steps in which all rows come once.
        answers: The rows, in their order.
        seconds: How long it took.
        contradicting: Names of rows, in groups, that differ in the answer alone.
        silent: Names of rows in which nothing is to be heard.
    """

    losses: Sequence[float]
    norms: Sequence[float]
    pass_steps: int
    answers: Sequence[LearnedAnswer]
    seconds: float = 0.0
    contradicting: Sequence[Sequence[str]] = field(default_factory=list)
    silent: Sequence[str] = field(default_factory=list)

    @property
    def first(self) -> float:
        """The loss of all rows at the beginning."""
        return _mean(self.losses[: self.pass_steps])

    @property
    def last(self) -> float:
        """The loss of all rows at the end."""
        return _mean(self.losses[-self.pass_steps :])

    @property
    def back(self) -> int:
        """How many answers came back exactly."""
        return sum(answer.back for answer in self.answers)

    @property
    def learned(self) -> bool:
        """Whether enough answers came back."""
        return self.back >= _ENOUGH * len(self.answers)

    def summary(self) -> str:
        """The result in a few words."""
        return (
            f"loss {self.first:.4g} -> {self.last:.4g} in {len(self.losses)} steps, "
            f"{self.back} of {len(self.answers)} answers come back exactly"
        )

    def lost(self) -> list[str]:
        """A line for each row whose answer doesn't come back, as far as there is room."""
        missing = [answer for answer in self.answers if not answer.back]
        lines = [f"  {answer.name}: {answer.wanted!r} -> {_given(answer)}" for answer in missing[:_NAMED]]
        return [*lines, f"  and {len(missing) - _NAMED} more"] if len(missing) > _NAMED else lines

    def same_answer(self) -> bool:
        """Whether all rows have one answer, which says little of what can be learned."""
        return len(self.answers) > 1 and len({answer.wanted for answer in self.answers}) == 1


def likely_causes(verdict: Verdict, settings: TrainSettings, usual_rate: float) -> list[str]:
    """Why a set-up may not learn its rows, the likeliest first; a line each, with what to do.

    Args:
        verdict: What became of it.
        settings: The settings of the run.
        usual_rate: A learning rate that suits this base and method.
    """
    found = _of_rows(verdict)
    unclear = {name for names in verdict.contradicting for name in names}
    if all(answer.back or answer.name in unclear for answer in verdict.answers):
        return found
    if not all(map(math.isfinite, verdict.losses)):
        found.append(f"the loss is not a finite number at --lr {settings.lr:g}: lower it")
    elif verdict.last > _HARDLY * verdict.first:
        found += _of_no_progress(verdict, settings, usual_rate)
    elif verdict.last > NEAR_ZERO:
        found += _of_half_way(verdict, settings, usual_rate)
    else:
        found += _of_generation(verdict, settings)
    return found


def _of_rows(verdict: Verdict) -> list[str]:
    found = [
        f"{_listed(names)} have the same clip and prompt and different answers: no model can tell them "
        "apart; mend the table"
        for names in verdict.contradicting[:_NAMED]
    ]
    if verdict.silent:
        found.append(f"nothing is to be heard in {_listed(verdict.silent)}: look at the recordings")
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _of_no_progress(verdict: Verdict, settings: TrainSettings, usual_rate: float) -> list[str]:
    if not any(verdict.norms):
        parts = ",".join(settings.train_target)
        return [f"the gradient is 0: what is trained (--train-target {parts}) has no part in the answers"]
    if settings.lr < usual_rate / 10:
        return [f"--lr {settings.lr:g} is too small to learn anything in so few steps: try {usual_rate:g}"]
    if settings.lr > 3 * usual_rate or min(verdict.losses) < _HARDLY * verdict.first:
        return [f"the loss doesn't stay down at --lr {settings.lr:g}: lower it, {usual_rate:g} or less"]
    made, warmup = len(verdict.losses), settings.warmup_steps
    if made <= 2 * warmup:
        return [f"{made} steps are too few, of which up to {warmup} only warm up: more --max-steps"]
    return [
        f"what is trained ({settings.method}, --train-target {','.join(settings.train_target)}) is too "
        "little for these answers, or prompt and answer are not as they should be: look at the example above"
    ]


def _of_half_way(verdict: Verdict, settings: TrainSettings, usual_rate: float) -> list[str]:
    found = []
    if settings.lr > 3 * usual_rate or verdict.last > 1.5 * min(verdict.losses) + NEAR_ZERO:
        found.append(f"--lr {settings.lr:g} is large, or the loss jumps: try {usual_rate:g} or less")
    elif settings.lr < usual_rate / 3:
        found.append(
            f"--lr {settings.lr:g} is small for so few steps: try {usual_rate:g}, or more --max-steps"
        )
    else:
        found.append(f"the loss is still on its way: more --max-steps than {settings.max_steps}")
    if settings.method == "lora" and settings.lora_rank < 8:
        found.append(f"--lora-rank {settings.lora_rank} is small: try 32")
    if settings.method == "lora" and settings.lora_dropout > 0.1:
        found.append(
            f"--lora-dropout {settings.lora_dropout:g} keeps the rows from being learned by heart: try 0"
        )
    if "decoder" not in settings.train_target:
        found.append("the decoder isn't trained, so its answers hardly change: add it to --train-target")
    return found


def _of_generation(verdict: Verdict, settings: TrainSettings) -> list[str]:
    found = []
    if any(answer.cut for answer in verdict.answers):
        found.append("answers are cut before they end: raise --eval-max-new-tokens")
    precision = " and what --quantization rounds" if settings.quantization else ""
    found.append(
        "the rows are learned, but generated otherwise than they were trained: look at the base's "
        f"generation_config.json (repetition_penalty and the like){precision}"
    )
    return found


def _given(answer: LearnedAnswer) -> str:
    if answer.given is None:
        return f"none ({answer.problem})"
    return repr(answer.given) + (" (cut)" if answer.cut else "")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

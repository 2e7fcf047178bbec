"""Options of ``train`` that say how the model is evaluated meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from mdl_toolkit.settings.options import Settings, option
from mdl_toolkit.settings.score_names import MAIN_SCORE, missing_libraries


@dataclass(kw_only=True)
class EvaluationOptions(Settings):
    """How the model is evaluated while it is trained."""

    eval_dataset: list[str] | str | None = option(
        None,
        "Held-out data to measure the loss on during training. Repeat it for several sets, each by its name.",
        group="data",
        metavar="[NAME=]PATH",
        commas=False,
        resume="derived",
        hosts="derived",
    )
    eval_on_start: bool = option(
        False,
        "Also evaluate the base itself, before the first step: what it could do, to compare with.",
        group="evaluation",
        resume="free",
        hosts="same",
        goes_with="--eval-dataset",
    )
    eval_generate: int | None = option(
        None,
        "At each evaluation, also generate answers for N rows of each set and score them. 0: for all rows.",
        group="evaluation",
        low=0,
        metavar="N",
        resume="warn",
        hosts="same",
        goes_with="--eval-dataset",
    )
    eval_task: str = option(
        "exact",
        "What the answers are scored as; exact: the share that equals the right answer.",
        group="evaluation",
        choices=tuple(MAIN_SCORE),
        resume="warn",
        hosts="same",
        goes_with="--eval-generate",
    )
    eval_max_new_tokens: int | None = option(
        None,
        "Longest generated answer, in tokens; by default half as many again as the longest in training, at "
        "least 128.",
        group="evaluation",
        low=1,
        resume="warn",
        hosts="same",
        goes_with="--eval-generate",
    )
    eval_steps: float = option(
        500,
        "Steps between evaluations; a value below 1 is a share of the training (0.1: ten evaluations).",
        group="evaluation",
        above=0,
        resume="free",
        hosts="same",
        goes_with="--eval-dataset",
    )
    eval_batch_size: int | None = option(
        None,
        "Clips on one device at a time in evaluation; by default --batch-size, and at least 32 for answers.",
        group="evaluation",
        low=1,
        resume="free",
        hosts="same",
        goes_with="--eval-dataset",
    )
    eval_accumulation_steps: int | None = option(
        None,
        "No effect; accepted so that scripts for 0.1.0 still run.",
        group="evaluation",
        low=1,
        resume="free",
        hosts="free",
    )
    metric_for_best: str | None = option(
        None,
        "Keep the model of the best evaluation in best/: best by loss, wer, accuracy, … (wer/NAME of a set).",
        group="evaluation",
        metavar="NAME",
        resume="free",
        hosts="same",
    )
    early_stopping: int | None = option(
        None,
        "End training after N evaluations that were no better by --metric-for-best (loss if not given).",
        group="evaluation",
        metavar="N",
        low=1,
        resume="free",
        hosts="same",
    )

    def evaluation_problems(self) -> list[str]:
        """What is wrong with these options together: a line for each problem."""
        if self.eval_generate is None or self.eval_dataset is None:
            return []
        return [f"--eval-task {self.eval_task}: {problem}" for problem in missing_libraries(self.eval_task)]

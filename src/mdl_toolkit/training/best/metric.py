"""Which number of a run's evaluations says what is best; checked before torch is imported."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.evaluation_sets import evaluation_sets
from mdl_toolkit.settings.score_names import SCORES
from mdl_toolkit.training.steps.standing import chosen_metric


def given_metrics(settings: TrainSettings) -> list[str]:
    """The metrics that the evaluations of a run will give, as ``metrics.jsonl`` has them."""
    sets = evaluation_sets(settings.eval_dataset)
    scores = ["loss", *(() if settings.eval_generate is None else SCORES[settings.eval_task])]
    endings = ["", *(f"/{each.name}" for each in sets if each.named)] if sets else []
    return [f"eval_{score}{ending}" for ending in endings for score in scores]


def check_metric(settings: TrainSettings) -> None:
    """Refuse a metric that no evaluation of the run will give.

    Raises:
        SettingsError: The message says which there are, and what gives others.
    """
    metric = chosen_metric(settings)
    if metric is None:
        return
    option = (
        f"--early-stopping {settings.early_stopping}"
        if settings.metric_for_best is None
        else f"--metric-for-best {settings.metric_for_best}"
    )
    given = given_metrics(settings)
    if not given:
        raise SettingsError(
            [f"{option}: there is no evaluation to go by; name held-out data: --eval-dataset"]
        )
    if metric not in given:
        names = [name.removeprefix("eval_") for name in given]
        hint = _hint(metric.removeprefix("eval_"), names, settings)
        raise SettingsError([f"{option}: the evaluations of this run give {', '.join(names)}{hint}"])


def _hint(wanted: str, names: Sequence[str], settings: TrainSettings) -> str:
    """What would give the metric, or what may have been meant; empty where that isn't known."""
    score, slash, name = wanted.partition("/")
    if slash and name not in (each.name for each in evaluation_sets(settings.eval_dataset) if each.named):
        return f"; no set is named {name}: --eval-dataset {name}=PATH"
    tasks = [task for task, scores in SCORES.items() if score in scores]
    if tasks:
        generate = "" if settings.eval_generate is not None else "--eval-generate N "
        return f"; {score} takes {generate}--eval-task {'|'.join(tasks)}"
    known = {*names, *(each for scores in SCORES.values() for each in scores)}
    near = difflib.get_close_matches(wanted, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""

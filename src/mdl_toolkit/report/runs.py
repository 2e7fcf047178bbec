"""What a RUN of ``report`` may be (a training, an evaluation, answers), and all that is read of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import UserError
from mdl_toolkit.report.curves import METRICS_FILE, RunCurves, read_curves
from mdl_toolkit.report.described import best_model, headline, run_facts, run_manifest
from mdl_toolkit.report.evaluations import (
    EVALUATIONS,
    ScoredSet,
    evaluations_of,
    is_evaluation,
    read_evaluation,
)

#: Scores a file of predictions and gives what an evaluation's folder holds.
Scorer = Callable[[Path], ScoredSet]
#: The name of a set that has none.
MAIN = "main"


@dataclass(frozen=True, kw_only=True)
class CollectedRun:
    """All that was read of a run.

    Attributes:
        path: As it was given.
        headline: See ``ReportRun``.
        facts: See ``ReportRun``.
        curves: What it measured; empty where it is answers alone.
        evaluations: Its scored answers.
        options: The options of the training; empty where they aren't known.
        folders: Where relative paths of recordings may start from, beside the working directory.
    """

    path: Path
    headline: str
    facts: Sequence[tuple[str, str]] = ()
    curves: RunCurves = field(default_factory=RunCurves)
    evaluations: Sequence[ScoredSet] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    folders: Sequence[Path] = ()


def collect_run(path: Path, scorer: Scorer) -> CollectedRun:
    """Read a run.

    Args:
        path: A training's folder, an evaluation's folder, or a file of predictions.
        scorer: What scores a file.

    Raises:
        UserError: There is nothing of the kind, nothing to show in it, or something in it is damaged.
    """
    if path.is_file():
        if path.name == METRICS_FILE:
            raise UserError(f"{path}: name the run's folder, {path.parent}")
        return _answers(path, scorer(path), path.parent)
    if not path.is_dir():
        raise UserError(f"{path}: no such run, evaluation or file of predictions")
    if is_evaluation(path):
        inside = path.resolve().parent.name == EVALUATIONS
        return _answers(path, read_evaluation(path, None if inside else MAIN), path)
    return _training(path)


def _answers(path: Path, evaluation: ScoredSet, folder: Path) -> CollectedRun:
    facts = [("Scored as", evaluation.task)]
    if evaluation.summary.get("normalizer"):
        facts.append(("Normaliser", str(evaluation.summary["normalizer"])))
    return CollectedRun(
        path=path,
        headline=headline(None, RunCurves(), [evaluation], "no scores"),
        facts=facts,
        evaluations=[evaluation],
        folders=[folder, folder.parent, *_above_evaluation(folder)],
    )


def _above_evaluation(folder: Path) -> list[Path]:
    """Of ``RUN/evaluation/NAME``: the run's folder and the one that it lies in."""
    whole = folder.resolve()
    return [whole.parents[1], whole.parents[2]] if whole.parent.name == EVALUATIONS else []


def _training(path: Path) -> CollectedRun:
    metrics, folders = path / METRICS_FILE, evaluations_of(path)
    if not metrics.is_file() and not folders:
        if any((above / METRICS_FILE).is_file() for above in (path.resolve().parent,)):
            raise UserError(f"{path}: a model of a run; name the run's folder, {path.parent}")
        raise UserError(
            f"{path}: not the folder of a run or an evaluation (no {METRICS_FILE} and no scores.json in it)"
        )
    curves = read_curves(metrics) if metrics.is_file() else RunCurves()
    evaluations = [read_evaluation(folder) for folder in folders]
    if not curves.step and not curves.evaluations and not evaluations:
        raise UserError(f"{path}: nothing to show yet: no step has been made, and no answers were scored")
    manifest = run_manifest(path)
    options = manifest.options if manifest is not None else {}
    return CollectedRun(
        path=path,
        headline=headline(manifest, curves, evaluations, "no numbers yet"),
        facts=run_facts(manifest, curves, best_model(path)),
        curves=curves,
        evaluations=evaluations,
        options=options,
        folders=[path, path.resolve().parent, *_started_in(path, options)],
    )


def _started_in(run: Path, options: Mapping[str, Any]) -> list[Path]:
    """The folder in which a training was started, where its folder still ends as its ``--output`` does."""
    output, whole = Path(str(options.get("output") or "/")), run.resolve().parts
    parts = output.parts
    if output.is_absolute() or not parts or whole[-len(parts) :] != parts:
        return []
    return [Path(*whole[: -len(parts)])]


def short_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, or as many as tell it from the others.

    A path that is there twice has a number behind it.
    """
    parts = [_parts(path) for path in paths]
    lengths = [1] * len(paths)
    while True:
        names = ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
        longer = [
            length + 1 if length < len(part) and _is_another(number, names, parts) else length
            for number, (part, length) in enumerate(zip(parts, lengths, strict=True))
        ]
        if longer == lengths:
            break
        lengths = longer
    return [
        name if name not in names[:number] else f"{name} ({names[:number].count(name) + 1})"
        for number, name in enumerate(names)
    ]


def _parts(path: Path) -> tuple[str, ...]:
    whole = path.resolve()
    name = whole.stem if whole.is_file() else whole.name
    return (*whole.parent.parts[1:], name or "/")


def _is_another(number: int, names: Sequence[str], parts: Sequence[tuple[str, ...]]) -> bool:
    """Whether another path has the same name so far."""
    return any(names[other] == names[number] and parts[other] != parts[number] for other in range(len(names)))

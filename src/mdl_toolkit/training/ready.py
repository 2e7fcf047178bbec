"""What is checked and prepared before torch is imported: output folder, trackers, model, datasets.

So a wrong command fails within a moment, and files are converted before any process group exists. The main
process alone checks what only it uses, such as the output folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from mdl_toolkit.data.conversion.command import convert_once
from mdl_toolkit.data.dataset.converted import reconcile_with_folders
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.input.kinds import check_dataset
from mdl_toolkit.data.input.records import check_table
from mdl_toolkit.distributed.launch import Launch, read_launch
from mdl_toolkit.errors import DataError, MdlError, SettingsError, UserError
from mdl_toolkit.gpu import require_usable_gpu
from mdl_toolkit.hub import resolve_model
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.checks import dataset_paths
from mdl_toolkit.settings.evaluation_sets import evaluation_paths, evaluation_sets
from mdl_toolkit.settings.options import flag, given_names, options_where
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.torchrun import report_failure
from mdl_toolkit.training.best.metric import check_metric
from mdl_toolkit.training.checkpoints.disk import check_disk
from mdl_toolkit.training.checkpoints.record import RunRecord
from mdl_toolkit.training.checkpoints.resume import (
    refuse_used_output,
    say_if_anew,
    with_model_of_earlier_run,
)
from mdl_toolkit.training.defaults import fit_to_base
from mdl_toolkit.training.evaluation.sets import EvaluationSet
from mdl_toolkit.training.launcher import choose_sharding, fit_to_launcher
from mdl_toolkit.training.metrics.trackers import check_trackers
from mdl_toolkit.training.overfit.options import fit_to_rows, without_output

logger = get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """The base model and the data of a run.

    Attributes:
        model_folder: The folder of the base model.
        data: The training data.
        data_folders: The folders of the training data.
        evaluation: The sets of evaluation data, the one that counts first; none where there is no such data.
        trackers: The trackers of ``--report-to``, on the main process.
    """

    model_folder: Path
    data: ClipDataset
    data_folders: Sequence[Path]
    evaluation: Sequence[EvaluationSet]
    trackers: Sequence[str]


@dataclass(frozen=True)
class Ready:
    """A run before its processes join.

    Attributes:
        settings: The settings, with what the launcher's config, the datasets and the base decide filled in.
        launch: How this process was launched.
        inputs: The inputs, or the error that this process found if it isn't the main one.
    """

    settings: TrainSettings
    launch: Launch
    inputs: Inputs | MdlError


def make_ready(settings: TrainSettings) -> Ready:
    """Check everything that can be checked, and convert what has to be converted.

    Raises:
        SettingsError: Wrong options, on every process.
        MdlError: Anything else that is wrong, on the main process. Another process keeps its error in the
            result: most likely the main process finds the same and ends all; if not, the error is raised
            after the processes have joined.
    """
    launch = read_launch()
    settings = without_output(fit_to_launcher(settings, launch))
    try:
        trackers, settings = _check(settings, launch)
        folder = resolve_model(
            settings.model_name, revision=settings.revision, from_modelscope=settings.from_modelscope
        )
        inputs = _inputs(settings, launch, folder, trackers)
        settings = choose_sharding(fit_to_base(settings, folder), launch)
        if settings.overfit:
            settings = fit_to_rows(settings, folder, launch, min(settings.overfit, len(inputs.data)))
        elif launch.rank == 0:
            check_disk(settings, launch, folder, inputs.data)
        return Ready(settings, launch, inputs)
    except MdlError as error:
        if launch.rank == 0:
            report_failure(str(error), error.exit_code)
            raise
        return Ready(settings, launch, error)


def _check(settings: TrainSettings, launch: Launch) -> tuple[list[str], TrainSettings]:
    """Check all that takes no time, and report all problems together."""
    problems: list[str] = []
    trackers: list[str] = []
    record = RunRecord.read(settings.output)
    # None where the processes must have met to know it: then the output is looked at when they have.
    goes_on = record is not None and record.is_of_launch(launch.nodes)
    if launch.rank == 0:
        if goes_on is not None and not settings.overfit:
            _collecting(problems, lambda: refuse_used_output(settings, goes_on))
        trackers = _collecting(problems, lambda: check_trackers(settings.report_to)) or []
        for path in (*dataset_paths(settings.train_dataset), *evaluation_paths(settings.eval_dataset)):
            _collecting(problems, partial(_check_dataset, path, settings.encoding))
    _collecting(problems, lambda: check_metric(settings))
    settled = _collecting(problems, lambda: reconcile_with_folders(settings))
    if settled is not None and not problems and goes_on is False:
        say_if_anew(settings, launch.nodes)
    for needed in ("eval_dataset", "eval_generate"):
        if getattr(settings, needed) is None and not settings.overfit:
            for name in options_where(TrainSettings, goes_with=flag(needed)):
                if name in given_names(settings):
                    logger.warning(f"{flag(name)} has no effect: there is no {flag(needed)}")
    if problems or settled is None:
        raise SettingsError(list(dict.fromkeys(problems)))
    if settled is settings and "model_name" not in given_names(settings):  # the datasets named none
        settled = with_model_of_earlier_run(settings)
    return trackers, settled


def _check_dataset(path: Path, encoding: str) -> None:
    """Refuse what is neither a converted folder nor a table to train on, before a model is fetched for it."""
    if path.is_dir():
        check_dataset(path)
    else:
        check_table(path, encoding)


def _collecting(problems: list[str], check: Callable[[], T]) -> T | None:
    """Run a check, and add what it finds wrong to ``problems``.

    Returns:
        The result of the check; ``None`` if it found a problem.
    """
    try:
        return check()
    except SettingsError as error:
        problems += error.problems
    except UserError as error:
        problems.append(str(error))
    return None


def _inputs(settings: TrainSettings, launch: Launch, folder: Path, trackers: Sequence[str]) -> Inputs:
    named = [*dataset_paths(settings.train_dataset), *evaluation_paths(settings.eval_dataset)]
    if not all(path.is_dir() for path in named):
        require_usable_gpu(launch.use_cpu)  # before hours of conversion
    folders = _folders(dataset_paths(settings.train_dataset), settings, folder)
    sets = [(each, _folders(each.paths, settings, folder)) for each in evaluation_sets(settings.eval_dataset)]
    return Inputs(
        model_folder=folder,
        data=_open(folders, folder),
        data_folders=folders,
        evaluation=[EvaluationSet(each.name, each.named, _open(of, folder), of) for each, of in sets],
        trackers=trackers,
    )


def _folders(paths: Sequence[Path], settings: TrainSettings, model_folder: Path) -> list[Path]:
    """The converted folders of a dataset; files are converted, unless the cache has them.

    For ``--overfit`` no more rows of a file are converted than are to be learned.
    """
    cache = settings.cache_dir or settings.output / "cache"
    return [
        path if path.is_dir() else convert_once(path, settings, model_folder, cache, settings.overfit)
        for path in paths
    ]


def _open(folders: Sequence[Path], model_folder: Path) -> ClipDataset:
    data = ClipDataset.open(folders)
    data.check_model(model_folder)
    if not data.supervised.any():
        raise DataError(f"{folders[0]}: no row has a prediction to learn from; fill the column `prediction`")
    return data

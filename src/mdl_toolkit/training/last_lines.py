"""The last lines of a training: where everything is, how good the best model is, and what to type next."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from pathlib import Path

from mdl_toolkit.errors import MdlError
from mdl_toolkit.settings import InferenceSettings, TrainSettings
from mdl_toolkit.settings.checks import dataset_paths
from mdl_toolkit.settings.evaluation_sets import evaluation_paths
from mdl_toolkit.settings.options import flag, given_names, settings_fields
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.best.record import BestRecord
from mdl_toolkit.training.checkpoints.output import REPORT, is_report
from mdl_toolkit.training.checkpoints.state import BEST, FINAL
from mdl_toolkit.training.metrics.file import METRICS_FILE

logger = get_logger(__name__)

#: Recordings in the report that a run writes by itself, so that it takes seconds.
_CLIPS = 100
#: Options of the conversion that an inference on the same table needs, too.
_OF_TABLE = ("base_dir", "encoding", "max_audio_seconds", "allow_private_urls", "allow_outside_base_dir")


def print_last_lines(settings: TrainSettings, step: int) -> None:
    """Write ``report.html``, and print what the run leaves and the commands to go on with.

    The main process calls it. Nothing here fails a run whose models are written.

    Args:
        settings: The settings of the run.
        step: The number of steps made.
    """
    output = settings.output
    final, best = output / FINAL, BestRecord.read(output / BEST)
    written = _write_report(output)
    logger.info(f"{final} is ready: the model after step {step}")
    if best is not None:
        base = _base_value(output, best.metric)
        before = "" if base is None else f"; the base had {base:.4f}"
        logger.info(f"{output / BEST} is the best model: {best}{before}")
    if written:
        logger.info(f"{output / REPORT} shows the run: its curves, scores and answers")
    for line in next_commands(settings, output / BEST if best is not None else final):
        logger.info(line)


def next_commands(settings: TrainSettings, model: Path) -> list[str]:
    """The commands to go on with, to be typed where ``train`` was.

    Args:
        settings: The settings of the run.
        model: The folder of the model to try.
    """
    tables = [
        path
        for path in (*evaluation_paths(settings.eval_dataset), *dataset_paths(settings.train_dataset))
        if path.is_file()
    ]
    words = ["mdl-toolkit", "inference"]
    if not tables:
        # Of a converted folder the recordings and their table may be anywhere.
        page = settings.output / REPORT
        return [
            "next: " + shlex.join(["mdl-toolkit", "report", str(settings.output), "--output", str(page)]),
            "or, on a table of yours: "
            + shlex.join([*words, "INPUT.csv", "--output", "answers.csv", "--model-name", str(model)]),
        ]
    answers = settings.output / "answers.csv"
    words += [str(tables[0]), "--output", str(answers), "--model-name", str(model), *_of_table(settings)]
    if settings.quantization and settings.method == "lora" and not settings.merge_lora:
        words += ["--quantization", settings.quantization]  # an adapter is what was trained with it only
    scoring = ["mdl-toolkit", "evaluate", str(answers), "--task", settings.eval_task]
    scoring += ["--output", str(settings.output / "evaluation" / "answers")]
    return [f"next: {shlex.join(words)}", f"then: {shlex.join(scoring)}"]


def _of_table(settings: TrainSettings) -> list[str]:
    """The options without which the table isn't read as it was for the training."""
    words: list[str] = []
    taken = {f.name for f, _ in settings_fields(InferenceSettings)}
    for name in _OF_TABLE:
        value = getattr(settings, name)
        if name in given_names(settings) & taken and value is not None:
            words += [flag(name), str(value).lower() if isinstance(value, bool) else str(value)]
    return words


def _write_report(output: Path) -> bool:
    """Write the report; whatever keeps it from being written is a warning."""
    page = output / REPORT
    if (page.exists() or page.is_symlink()) and not is_report(page):
        logger.warning(f"{page} is not a report on a run, and stays as it is: no report was written")
        return False
    try:
        from mdl_toolkit.report.write import write_report

        write_report([output], page, max_clips=_CLIPS)
    except Exception as error:  # a page about the run is no reason for the run to fail
        what = error if isinstance(error, MdlError) else f"{type(error).__name__}: {error}"
        logger.warning(f"{page} could not be written ({what}); all else is there")
        return False
    return True


def _base_value(output: Path, metric: str) -> float | None:
    """The value that the base had before the first step (``--eval-on-start``)."""
    with suppress(OSError, ValueError, LookupError, TypeError), open(output / METRICS_FILE) as stream:
        first = json.loads(stream.readline())
        if first["step"] == 0 and isinstance(first[metric], int | float):
            return float(first[metric])
    return None

"""The output folder of a run: one run at a time writes there, and only what a run has written is removed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdl_toolkit.errors import MdlError, UserError
from mdl_toolkit.files import PARTIAL_PREFIX, finish_replacement, foreign_files, lock_if_possible
from mdl_toolkit.model_folders.manifest import MANIFEST_NAME, listed_files
from mdl_toolkit.scoring.files import ALIGNMENTS, ROWS, SCORES
from mdl_toolkit.training.checkpoints.record import RUN_RECORD, is_record
from mdl_toolkit.training.checkpoints.state import BEST, COMPLETE, FINAL, OPTIMIZER, RUN_STATE, checkpoints
from mdl_toolkit.training.metrics.file import METRICS_FILE

#: The folder of a run with the files of its evaluations, each in a folder named like the set.
EVALUATION = "evaluation"
EVALUATION_FILES = (SCORES, ROWS, ALIGNMENTS)
_PARTIAL_ROWS = re.compile(rf"{re.escape(PARTIAL_PREFIX)}({'|'.join(map(re.escape, EVALUATION_FILES))})-\d+")
#: The page about a run, the recordings beside it, and what its beginning has.
REPORT, _REPORT_AUDIO = "report.html", "report-audio"
_REPORT_MARK = '<meta name="generator" content="mdl-toolkit report">'
_LOCK = ".lock"
_PARTIAL = re.compile(
    rf"{re.escape(PARTIAL_PREFIX)}(old-)?"
    rf"(checkpoint-\d+|{FINAL}|{BEST}|{'|'.join(map(re.escape, (METRICS_FILE, RUN_RECORD, REPORT)))})"
    r"(-\d+)?"
)
#: The beginning of each line of a run's metrics.
_FIRST_KEY = '{"step": '


@contextlib.contextmanager
def output_lock(output: Path) -> Iterator[None]:
    """Be the only run that writes to a folder. The lock of a killed run ends with it.

    Raises:
        UserError: Another run is at work there.
        MdlError: The folder can't be made or written to.
    """
    lock = output / _LOCK
    try:
        output.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise MdlError(f"--output {output} can't be written to: {error.strerror}") from error
    try:
        if not lock_if_possible(descriptor):
            raise UserError(
                f"--output {output}: another run is at work there; wait for it, stop it, or name another "
                "folder"
            )
        try:
            yield
        finally:
            if not os.fstat(descriptor).st_size:  # else the file was there before, and is somebody else's
                lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def run_files(output: Path) -> list[Path]:
    """Checkpoints, ``final/``, ``best/``, metrics and evaluations of a folder, or whatever has their names.

    Of evaluations only those that a run has written: ``mdl-toolkit evaluate`` may have put others there.
    """
    places = [*checkpoints(output), output / FINAL, output / BEST, output / METRICS_FILE]
    with contextlib.suppress(OSError):
        places += [path for path in sorted((output / EVALUATION).iterdir()) if _is_evaluation_of_run(path)]
    return [path for path in places if path.exists() or path.is_symlink()]


def refuse_foreign_files(paths: Iterable[Path]) -> None:
    """Refuse to replace what no run has written.

    Raises:
        UserError: Something is foreign; the message names it.
    """
    for path in paths:
        foreign = foreign_file_in(path)
        if foreign is not None:
            raise UserError(
                f"{foreign} is in the way and was not written by a run: move it elsewhere, or name another "
                "--output (nothing was removed)"
            )


def foreign_file_in(path: Path) -> Path | None:
    """Find what no run has written in a run's folder (``checkpoint-N``, ``final/``, ``best/``) or file.

    Args:
        path: Something that has the name of one of them, or nothing.

    Returns:
        A file in the folder, or ``path`` itself where all of it is foreign; ``None`` where a run has written
        all of it, where it is empty, and where there is nothing.
    """
    if not path.is_symlink() and not path.exists():
        return None
    known = {METRICS_FILE: _are_metrics, RUN_RECORD: is_record, REPORT: is_report}.get(path.name)
    if known is not None:
        return None if known(path) else path
    if path.is_symlink() or not path.is_dir():
        return path
    if path.parent.name == EVALUATION:
        return _foreign_in_evaluation(path)
    if not any((path / mark).is_file() for mark in (MANIFEST_NAME, RUN_STATE, COMPLETE)):
        return path if foreign_files(path, ()) else None
    ours = {MANIFEST_NAME, RUN_STATE, OPTIMIZER, COMPLETE} | (listed_files(path) or set())
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        ours |= set(json.loads((path / COMPLETE).read_text(encoding="utf-8"))["files"])
    return next((path / name for name in foreign_files(path, ours)), None)


def _foreign_in_evaluation(path: Path) -> Path | None:
    if not _is_evaluation_of_run(path):
        return path if foreign_files(path, ()) else None
    there = [name for name in foreign_files(path, EVALUATION_FILES) if not _PARTIAL_ROWS.fullmatch(name)]
    return next((path / name for name in there), None)


def _is_evaluation_of_run(path: Path) -> bool:
    """Whether a run has written an evaluation: it says after which of its steps."""
    if path.is_symlink():
        return False
    try:
        said = json.loads((path / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and type(said.get("step")) is int


def _are_metrics(path: Path) -> bool:
    """Whether a file is a run's metrics, by its first line; of a run that was killed at once it is cut."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with open(path, encoding="utf-8") as stream:
            first = stream.readline()
        if not first.endswith("\n"):
            return first.startswith(_FIRST_KEY) or _FIRST_KEY.startswith(first)
        return bool({"step", "train_runtime"} & dict(json.loads(first)).keys())
    except (OSError, ValueError, TypeError):
        return False


def clear_run(output: Path) -> None:
    """Remove what an earlier run wrote into a folder; converted data and everything else stay.

    Its record stays too, for the next one to replace: it belongs to no checkpoint any more.

    Raises:
        UserError: Something can't be removed, or isn't a run's; nothing has been removed then.
    """
    found = run_files(output)
    refuse_foreign_files(found)
    try:
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        with contextlib.suppress(OSError):  # not there, or others are in it
            (output / EVALUATION).rmdir()
        _clear_trackers(output / "runs" / output.resolve().name)
        _clear_report(output)
    except OSError as error:
        raise UserError(f"--overwrite: {error.filename} can't be removed: {error.strerror}") from None


def _clear_trackers(folder: Path) -> None:
    """Remove TensorBoard's files of an earlier run, and the folders that are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name.startswith("events.out.tfevents.") or path.name == "hparams.yml":
            path.unlink()
    for path in [*sorted(folder.rglob("*"), reverse=True), folder, folder.parent]:
        with contextlib.suppress(OSError):  # not a folder, or not empty
            path.rmdir()


def is_report(path: Path) -> bool:
    """Whether a file is a page that ``mdl-toolkit report`` or a run has written, by its beginning."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return not path.is_symlink() and _REPORT_MARK in stream.read(500)
    except OSError:
        return False


def _clear_report(output: Path) -> None:
    """Remove the report on an earlier run with the recordings beside it, and leave what else is there."""
    from mdl_toolkit.report.audio.clips import is_clip

    if not is_report(output / REPORT):
        return
    (output / REPORT).unlink()
    beside = output / _REPORT_AUDIO
    for path in sorted(beside.glob("*")):
        if is_clip(path.name):
            path.unlink()
    with contextlib.suppress(OSError):  # not there, or others are in it
        beside.rmdir()


def remove_unfinished(output: Path) -> None:
    """Remove what a killed run left half-written or half removed, and rename what it was about to."""
    if not output.is_dir():
        return
    for path in list(output.iterdir()):
        if (match := _PARTIAL.fullmatch(path.name)) and match[1]:
            finish_replacement(output / match[2])
    for path in [*output.iterdir(), *(output / EVALUATION).glob("*/*")]:
        names = _PARTIAL if path.parent == output else _PARTIAL_ROWS
        if names.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

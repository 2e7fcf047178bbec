"""The command ``inference``, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable

from mdl_toolkit.data.input.likely_mistakes import LikelyMistakes
from mdl_toolkit.data.input.noticed import SILENT
from mdl_toolkit.data.input.records import Row, read_layout, read_records
from mdl_toolkit.distributed.waiting import WaitingMessage, waiting_message
from mdl_toolkit.errors import MdlError, SettingsError
from mdl_toolkit.files import ending_with
from mdl_toolkit.gpu import require_usable_gpu
from mdl_toolkit.hub import resolve_model
from mdl_toolkit.infer.journal.journal import Journal
from mdl_toolkit.infer.output import Written, write_output
from mdl_toolkit.infer.processes.peer import Peer
from mdl_toolkit.infer.work import Work
from mdl_toolkit.model_folders.folder import open_folder
from mdl_toolkit.settings import InferenceSettings
from mdl_toolkit.settings.checks import output_problems
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.progress import Progress, duration

logger = get_logger(__name__)

#: Seconds that the main process waits at the end of resumed work for processes that start late.
_LATE_START_SECONDS = 30.0
#: Seconds without news of other processes after which this one gives up.
_NO_NEWS_SECONDS = 7200.0


def inference(settings: InferenceSettings) -> None:
    """Predict an answer for every row of a CSV, JSONL or Parquet file.

    Args:
        settings: The options of the command.

    Raises:
        UserError: For what a person can mend, before anything is computed.
        MdlError: Where the work can't go on; what is done is kept, and the same command continues it.
    """
    peer = Peer.of_environment()
    with peer.named_errors():
        _inference(settings, peer)


def _inference(settings: InferenceSettings, peer: Peer) -> None:
    with peer.main_error_first():
        work, rows = _set_up(settings, peer)
    journal = Journal(settings.output, peer.rank)
    description, resumed = work.description(), False
    if not peer.is_main:
        _until(lambda: journal.is_for(description), 1, "to begin", lambda: 0)
    elif resumed := journal.prepare(description, work.window_rows(rows), settings.overwrite):
        logger.info(f"resuming the unfinished {journal.folder}")
    journal.open()
    if resumed:
        journal.forget_left()
    with ending_with(journal.close):
        _do(work, journal, rows, resumed)


def _set_up(settings: InferenceSettings, peer: Peer) -> tuple[Work, int]:
    """Everything that can be wrong before anything is computed; the work, and the number of rows."""
    _check_output(settings)
    rows, bad = _count(settings)  # before a model is fetched
    require_usable_gpu()
    place = open_folder(
        resolve_model(
            settings.model_name, revision=settings.revision, from_modelscope=settings.from_modelscope
        ),
        settings.base_model,
    )
    return Work(settings, place, peer, bad), rows


def _do(work: Work, journal: Journal, rows: int, resumed: bool) -> None:
    """Answer this process's share and, on the first process, write the output when all shares are done."""
    settings, bad = work.settings, work.bad
    started, before = time.monotonic(), journal.rows
    progress = Progress("inference", rows)
    progress.done = bad + before
    work.run(journal, progress)
    if (silent := work.reader.silent).count:
        logger.warning(
            f"{silent.clips} {SILENT}; an answer can't be about them: {silent.names}",
            extra=EVERYWHERE,
        )
    if not work.peer.is_main:
        journal.leave()
        return

    def all_done() -> bool:
        journal.refresh()
        progress.update(bad + journal.rows - progress.done)
        return journal.windows == work.windows

    others = max(1, work.peer.world_size - 1)
    _until(all_done, others, "to finish", lambda: journal.rows)
    if journal.rows != rows - bad:
        raise MdlError(
            f"{journal.folder} has {journal.rows} results for {rows - bad} rows: recordings were changed "
            "while the work went on; start anew with --overwrite"
        )
    seconds = time.monotonic() - started
    progress.close(f"inference: {rows} rows in {duration(seconds)}")
    failed = journal.errors + bad
    written = write_output(
        settings.input, settings.encoding, journal, settings.output, failed > 0, settings.overwrite
    )
    if written.kept:
        logger.info(f"the earlier {settings.output} is kept as {written.kept}")
    _summary(settings, journal, written, rows, failed, journal.rows - before, seconds)
    if work.choice.unseen_rows:
        logger.warning(f"{work.choice.unseen_rows} rows used prompts that were not in the training data")
    # A process that is still starting would wait for work to begin that is over.
    patience = time.monotonic() + _LATE_START_SECONDS

    def all_left() -> bool:
        # In resumed work a process may have seen the folder, and left, before this one was there.
        return journal.left(work.peer.world_size) or (resumed and time.monotonic() > patience)

    _until(all_left, others, "to start", lambda: 0)
    journal.remove()
    if failed and (failed == rows or settings.on_error == "fail"):
        raise MdlError(_failure(settings, written, rows, failed))


def _until(done: Callable[[], bool], missing: int, what: str, news: Callable[[], int]) -> None:
    """Wait for other processes. The launcher ends this one where another has failed.

    Args:
        done: Whether what is waited for is there.
        missing: The number of processes that are waited for.
        what: What they are waited for to do, for the message that says so now and then.
        news: Returns a number that changes as the others make progress.

    Raises:
        MdlError: Where nothing was heard of them for long.
    """
    heard, since = news(), time.monotonic()
    message = WaitingMessage(what)
    while not done():
        if news() != heard:
            heard, since = news(), time.monotonic()
            message.postpone()
        message(missing)
        if time.monotonic() - since > _NO_NEWS_SECONDS:
            raise MdlError(
                f"{waiting_message(missing, what)}: nothing was heard of them for "
                f"{duration(_NO_NEWS_SECONDS)}; is --output on a file system that all of them share? What is "
                "done is kept: start the same command again"
            )
        time.sleep(0.2)


def _check_output(settings: InferenceSettings) -> None:
    if problems := output_problems(settings.output, settings.input):
        raise SettingsError(problems)


def _count(settings: InferenceSettings) -> tuple[int, int]:
    """Rows of the input, and how many of them can't be tried; what is wrong with the file shows here."""
    rows = bad = 0
    layout = read_layout(settings.input, settings.encoding)
    misread = LikelyMistakes(layout.columns)
    for record in read_records(settings.input, settings.encoding, layout):
        rows += 1
        if isinstance(record, Row):
            misread.look_at(record)
        else:
            bad += 1
    for sentence in misread.sentences():
        logger.warning(f"{settings.input}{sentence}")
    return rows, bad


def _summary(
    settings: InferenceSettings,
    journal: Journal,
    written: Written,
    rows: int,
    failed: int,
    new: int,
    seconds: float,
) -> None:
    logger.info(f"{settings.output}: {rows} rows, {failed} failed; {new / max(seconds, 1e-9):.1f} clips/s")
    if written.moved:
        moved = ", ".join(f"{old} is now {new_name}" for old, new_name in written.moved.items())
        logger.info(f"columns of {settings.input} whose names are used by predictions: {moved}")
    if journal.cut:
        logger.warning(
            f"{journal.cut} of {rows} answers were cut by the length limit (finish_reason: length); "
            "--max-new-tokens allows more"
        )
    if failed and failed < rows and settings.on_error != "fail":
        logger.warning(_failure(settings, written, rows, failed))


def _failure(settings: InferenceSettings, written: Written, rows: int, failed: int) -> str:
    return (
        f"{failed} of {rows} rows have no prediction, the first of them "
        f"{settings.input} {written.first_error}; the error column of {settings.output} says why for each"
    )

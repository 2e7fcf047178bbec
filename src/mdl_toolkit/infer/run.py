"""The command ``inference``, from top to bottom."""

from __future__ import annotations

import time
from contextlib import nullcontext

from mdl_toolkit.data.input.likely_mistakes import LikelyMistakes
from mdl_toolkit.data.input.noticed import SILENT
from mdl_toolkit.data.input.records import Row, TableLayout, read_layout, read_records
from mdl_toolkit.errors import MdlError, SettingsError
from mdl_toolkit.files import ending_with
from mdl_toolkit.gpu import require_usable_gpu
from mdl_toolkit.hub import resolve_model
from mdl_toolkit.infer.begin import Begun, begin
from mdl_toolkit.infer.confidence.choices import has_choices, listed_choices
from mdl_toolkit.infer.journal.journal import Journal
from mdl_toolkit.infer.output import Written, plan_output, write_output
from mdl_toolkit.infer.processes.link import Link, linked
from mdl_toolkit.infer.processes.peer import Peer
from mdl_toolkit.infer.processes.waiting import until
from mdl_toolkit.infer.work import Work
from mdl_toolkit.model_folders.folder import open_folder
from mdl_toolkit.settings import InferenceSettings
from mdl_toolkit.settings.checks import output_problems
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.progress import Progress, duration

logger = get_logger(__name__)

#: Seconds that the main process waits at the end of resumed work for processes that start late.
_LATE_START_SECONDS = 30.0


def inference(settings: InferenceSettings) -> None:
    """Predict an answer for every row of a CSV, JSONL or Parquet file.

    Args:
        settings: The options of the command.

    Raises:
        UserError: For what a person can mend, before anything is computed.
        MdlError: Where the work can't go on; what is done is kept, and the same command continues it.
    """
    peer = Peer.of_environment()
    with linked(peer, settings.peer_timeout) as link:
        _inference(settings, peer, link)


def _inference(settings: InferenceSettings, peer: Peer, link: Link | None) -> None:
    with nullcontext() if link else peer.main_error_first():
        work, rows = _set_up(settings, peer)
    begun = begin(settings, work, rows, link)
    with ending_with(begun.close):
        started, before = time.monotonic(), begun.log.rows
        progress = Progress("inference", rows)
        progress.done = work.bad + before
        work.run(begun.log, progress)
        if (silent := work.reader.silent).count:
            logger.warning(
                f"{silent.clips} {SILENT}; an answer can't be about them: {silent.names}",
                extra=EVERYWHERE,
            )
        if peer.is_main:
            _wait_for_all(work, begun, link, progress)
            _finish(work, begun, link, rows, before, time.monotonic() - started, progress)
        else:
            _leave(work, begun, link)


def _set_up(settings: InferenceSettings, peer: Peer) -> tuple[Work, int]:
    """Everything that can be wrong before anything is computed; the work, and the number of rows."""
    _check_output(settings)
    layout = read_layout(settings.input, settings.encoding)
    rows, bad = _count(settings, layout)  # before a model is fetched
    if has_choices(settings, layout.columns):
        listed_choices(settings)
    require_usable_gpu()
    place = open_folder(
        resolve_model(
            settings.model_name, revision=settings.revision, from_modelscope=settings.from_modelscope
        ),
        settings.base_model,
    )
    return Work(settings, place, peer, bad, layout.columns), rows


def _leave(work: Work, begun: Begun, link: Link | None) -> None:
    """The end of a process that doesn't write the output."""
    begun.log.leave()
    if link is None:
        return
    begun.close()
    peer = work.peer
    link.tell(f"left/{peer.rank}", True)
    output = link.hear_last_word()
    if peer.local_rank == 0:
        answered = sum(count for window, count in work.windows.items() if peer.mine(window))
        logger.info(
            f"done: {peer.name} had {answered} rows; {output} is on host {link.host(0)}",
            extra=EVERYWHERE,
        )


def _wait_for_all(work: Work, begun: Begun, link: Link | None, progress: Progress) -> None:
    """On the first process: wait until the rows of all processes are answered."""
    peer, log = work.peer, begun.log

    def all_done() -> bool:
        begun.refresh()
        if (done := work.bad + log.rows) != progress.done:
            progress.update(done - progress.done)
        return log.windows == len(work.windows)

    def missing() -> list[int]:
        return [rank for rank in work.open_rows(log) if rank]

    def left(rank: int) -> str:
        return f" has {work.open_rows(log).get(rank, 0)} rows to go"

    def news() -> int:
        return log.rows

    if link is not None:
        link.wait(all_done, missing, "to finish", left, news)
        return

    def who() -> list[str]:
        return [f"{peer.name_of(rank)}{left(rank)}" for rank in missing()]

    until(all_done, who, "to finish", news)


def _finish(
    work: Work,
    begun: Begun,
    link: Link | None,
    rows: int,
    before: int,
    seconds: float,
    progress: Progress,
) -> None:
    """On the first process: write the output, let the others end, and remove what was unfinished."""
    settings, bad, journal = work.settings, work.bad, begun.journal
    if journal.rows != rows - bad:
        raise MdlError(
            f"{journal.folder} has {journal.rows} results for {rows - bad} rows: recordings were changed "
            "while the work went on; start anew with --overwrite"
        )
    progress.close(f"inference: {rows} rows in {duration(seconds)}")
    failed = journal.errors + bad
    source, encoding = settings.input, settings.encoding
    plan = plan_output(source, encoding, failed > 0, journal.cut > 0, work.confidence.columns)
    written = write_output(source, encoding, journal, settings.output, plan, settings.overwrite)
    if written.kept:
        logger.info(f"the earlier {settings.output} is kept as {written.kept}")
    _summary(settings, journal, written, rows, failed, journal.rows - before, seconds)
    if work.choice.unseen_rows:
        logger.warning(f"{work.choice.unseen_rows} rows used prompts that were not in the training data")
    _let_others_end(work, begun, link)
    begun.close()
    journal.remove()
    if failed and (failed == rows or settings.on_error == "fail"):
        raise MdlError(_failure(settings, written, rows, failed))


def _let_others_end(work: Work, begun: Begun, link: Link | None) -> None:
    """Wait until no other process uses the journal's folder, or will look for it."""
    peer, journal = work.peer, begun.journal
    if link is not None:
        for rank in link.others:
            link.hear(f"left/{rank}", rank, "to end")
        link.last_word(str(work.settings.output))
        return
    # A process that is still starting would wait for work to begin that is over.
    patience = time.monotonic() + _LATE_START_SECONDS

    def all_left() -> bool:
        # In resumed work a process may have seen the folder, and left, before this one was there.
        return journal.left(peer.world_size) or (begun.resumed and time.monotonic() > patience)

    until(all_left, lambda: [peer.name_of(rank) for rank in journal.not_left(peer.world_size)], "to start")


def _check_output(settings: InferenceSettings) -> None:
    if problems := output_problems(settings.output, settings.input):
        raise SettingsError(problems)


def _count(settings: InferenceSettings, layout: TableLayout) -> tuple[int, int]:
    """Rows of the input, and how many of them can't be tried; what is wrong with the file shows here."""
    rows = bad = 0
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

"""``report``: reads runs, and writes the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.errors import StorageError, UserError, printable
from mdl_toolkit.files import atomic_file
from mdl_toolkit.report.assemble import assemble
from mdl_toolkit.report.audio.chosen import choose_clips
from mdl_toolkit.report.audio.clips import ClipStore
from mdl_toolkit.report.collect import make_page
from mdl_toolkit.report.comparing import pair_runs
from mdl_toolkit.report.data import ReportPage
from mdl_toolkit.report.judging import FileScorer
from mdl_toolkit.report.runs import MAIN, collect_run
from mdl_toolkit.settings import ReportSettings
from mdl_toolkit.terminal.live_line import status
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

#: Bytes of a MB.
_MB = 1_000_000


@dataclass(frozen=True)
class WrittenReport:
    """What was written.

    Attributes:
        page: The page's file.
        folder: The folder of recordings beside it; ``None`` where there is none.
        size: The page's size in bytes.
        data: What the page shows.
    """

    page: Path
    folder: Path | None
    size: int
    data: ReportPage


def report(settings: ReportSettings) -> None:
    """Write the page on some runs.

    Args:
        settings: The settings of the command.

    Raises:
        UserError: A run isn't there, can't be read or has nothing to show, or the page can't go there.
        StorageError: The page can't be written.
    """
    written = write_report(
        settings.runs,
        settings.output,
        task=settings.task,
        base_dir=settings.base_dir,
        allow_outside_base_dir=settings.allow_outside_base_dir,
        embed_audio=settings.embed_audio,
        max_clips=settings.max_clips,
    )
    tell(written)


def tell(written: WrittenReport) -> None:
    """Say what a report has, and where it is."""
    page = written.data
    for run in page.runs:
        logger.info(f"{run.name}: {run.headline}")
    for line in page.notes:
        logger.warning(line)
    missing = [clip for clip in page.audio if clip.missing]
    if missing:
        logger.warning(
            f"{len(missing)} of {len(page.audio)} recordings can't be played; the first: "
            f"{printable(missing[0].path)}: {missing[0].missing} (is --base-dir missing?)"
        )
    with_audio = f" with {len(page.audio) - len(missing)} recordings" if page.audio else ""
    beside = f" and {written.folder}, which goes with it" if written.folder else ""
    logger.info(f"{written.page}: {written.size / _MB:.1f} MB{with_audio}{beside}")


def write_report(
    runs: Sequence[Path | str],
    output: Path | str,
    *,
    task: str = "exact",
    base_dir: Path | None = None,
    allow_outside_base_dir: bool = False,
    embed_audio: float = ReportSettings.embed_audio,
    max_clips: int = ReportSettings.max_clips,
) -> WrittenReport:
    """Write the page on some runs.

    Args:
        runs: Folders of trainings or evaluations, or files of predictions.
        output: The page's file. An older one is replaced when the new one is whole, and so are its
            recordings.
        task: By what files of predictions are scored.
        base_dir: Where relative paths of recordings start from; by default what the run was started with,
            then the working directory, then folders near the run.
        allow_outside_base_dir: Whether paths of recordings may lead out of it.
        embed_audio: Recordings that together have at most so many MB go into the page, others beside it.
        max_clips: How many recordings the page gets at most; 0: those of all rows.

    Returns:
        What was written.

    Raises:
        UserError: A run isn't there, can't be read or has nothing to show, or the page can't go there.
        StorageError: The page can't be written.
    """
    output = Path(output)
    if output.is_dir():
        raise UserError(f"--output {output}: a folder; name a file, such as {output / 'report.html'}")
    store = ClipStore(output)
    with ExitStack() as stack:
        scorer = FileScorer(task, MAIN, stack)
        with status("reading…"):
            collected = [collect_run(Path(run), scorer) for run in runs]
        with status("comparing…"):
            pairing = pair_runs(collected)
    chosen = choose_clips(collected, base_dir, allow_outside_base_dir, max_clips)
    with ExitStack() as stack:
        stack.callback(store.drop)
        with status("reading recordings…"):
            clips = store.finish(store.add(chosen.wanted), embed_audio * _MB)
        page = make_page(collected, pairing, clips, chosen.of_rows)
        size = _write(output, assemble(page))
        stack.pop_all()
    beside = store.keep(clips)
    return WrittenReport(output, store.folder if beside else None, size, page)


def _write(output: Path, text: str) -> int:
    content = text.encode()
    try:
        with atomic_file(output, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise StorageError(f"--output {output} can't be written: {error.strerror or error}") from error
    return len(content)

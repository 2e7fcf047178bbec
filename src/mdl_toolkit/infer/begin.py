"""How the processes of ``inference`` begin: all with the same work, each with a place for its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from mdl_toolkit import __version__
from mdl_toolkit.errors import HostsDisagreeError, MdlError
from mdl_toolkit.infer.journal.journal import Journal, differences
from mdl_toolkit.infer.journal.lines import WindowLog
from mdl_toolkit.infer.journal.sent import Collector, SentJournal
from mdl_toolkit.infer.processes.link import Link, fresh_mark
from mdl_toolkit.infer.processes.waiting import until
from mdl_toolkit.infer.work import Work
from mdl_toolkit.settings import InferenceSettings
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.progress import duration

logger = get_logger(__name__)

#: Seconds that a process waits for the main one to begin, where files are all that they have in common.
BEGIN_SECONDS = 600.0


class Begun:
    """What a process writes its answers to, and what it has of the others' answers.

    Args:
        log: Takes the answers of this process.
        journal: The journal, where this process sees it; rank 0 always does.
        resumed: Whether an earlier run's work goes on.
        collector: On rank 0: brings the answers of hosts that don't see the journal.
    """

    def __init__(
        self,
        log: WindowLog,
        journal: Journal | None = None,
        resumed: bool = False,
        collector: Collector | None = None,
    ) -> None:
        self.log, self.resumed = log, resumed
        self._journal, self._collector = journal, collector

    @property
    def journal(self) -> Journal:
        """The journal, which rank 0 has."""
        assert self._journal is not None
        return self._journal

    def refresh(self) -> None:
        """Take in what the others have done.

        Raises:
            MdlError: What they have sent couldn't be written.
        """
        if self._collector is not None:
            self._collector.check()
        self.log.refresh()

    def close(self) -> None:
        """Let go of the files."""
        with ExitStack() as stack:
            stack.callback(self.log.close)
            if self._collector is not None:
                stack.callback(self._collector.close)


def begin(settings: InferenceSettings, work: Work, rows: int, link: Link | None) -> Begun:
    """Begin the work, or go on with it, together with the other processes.

    Args:
        settings: The options of the command.
        work: What decides the answers.
        rows: The number of rows of the input.
        link: The way to processes on other hosts, where there are any.

    Raises:
        UserError: Other work is there, or the processes were started with different work.
        MdlError: The main process doesn't begin.
    """
    if link is None:
        return _by_files(settings, work, rows)
    if work.peer.is_main:
        return _as_main(settings, work, rows, link)
    return _as_other(settings, work, link)


def _by_files(settings: InferenceSettings, work: Work, rows: int) -> Begun:
    """All processes are on one host, or share a file system: the folder tells them everything."""
    journal = Journal(settings.output, work.peer.rank)
    description, resumed = work.description(), False
    if work.peer.is_main:
        resumed = _prepare(journal, settings, work, rows, description)
    else:
        look = _begin_in_time(journal, description)
        until(lambda: journal.is_for(description), lambda: ["rank 0"], "to begin", look=look)
    journal.open()
    if resumed:
        journal.forget_left()
    return Begun(journal, journal, resumed)


def _prepare(
    journal: Journal, settings: InferenceSettings, work: Work, rows: int, description: Mapping[str, Any]
) -> bool:
    resumed = journal.prepare(description, work.window_rows(rows), settings.overwrite)
    if resumed:
        logger.info(f"resuming the unfinished {journal.folder}")
    return resumed


def _begin_in_time(journal: Journal, description: Mapping[str, Any]) -> Callable[[], None]:
    """Raises where the main process has not begun this work within some time."""
    since = time.monotonic()

    def look() -> None:
        if time.monotonic() - since < BEGIN_SECONDS:
            return
        other = journal.difference(description)
        found = f"it holds other work ({other})" if other else "there is no such folder"
        raise MdlError(
            f"{journal.folder}: rank 0 has not begun the work there within {duration(BEGIN_SECONDS)}: "
            f"{found}. On several hosts give all processes the same options, and MASTER_ADDR (the address of "
            "rank 0's host) or an --output on a file system that all of them share"
        )

    return look


def _as_main(settings: InferenceSettings, work: Work, rows: int, link: Link) -> Begun:
    """Rank 0: see that all have the same work, prepare the journal, and tell the others."""
    journal, description = Journal(settings.output), work.description()
    begun_before = journal.is_for(description)
    own = _view(settings, description, begun_before)
    _refuse_differences(own, link)
    resumed = _prepare(journal, settings, work, rows, description)
    journal.open()
    mark = fresh_mark()
    journal.mark(mark)
    link.tell("begin", {"mark": mark, "window_rows": journal.window_rows, "done": sorted(journal.done)})
    senders = [rank for rank in link.others if not link.hear(f"sees/{rank}", rank)]
    if not senders:
        return Begun(journal, journal, resumed)
    logger.info(
        f"{_listed([link.name(rank) for rank in senders])}: {journal.folder} isn't seen there, so "
        "the answers come over the network"
    )
    return Begun(journal, journal, resumed, Collector(link, journal, senders))


def _as_other(settings: InferenceSettings, work: Work, link: Link) -> Begun:
    """The other processes: say what work this is, and where answers go as rank 0 says."""
    peer = work.peer
    description = work.description()
    journal = Journal(settings.output, peer.rank)
    link.tell(f"view/{peer.rank}", _view(settings, description, journal.is_for(description)))
    told = link.hear("begin", 0)
    sees = journal.has_mark(told["mark"])
    link.tell(f"sees/{peer.rank}", sees)
    if peer.local_rank == 0:
        logger.info(
            f"joined as {peer.name}, one of {peer.world_size} processes; the output is written by "
            f"{link.name(0)}",
            extra=EVERYWHERE,
        )
    if not sees:
        return Begun(SentJournal(link, told["window_rows"], told["done"]))
    journal.open()
    return Begun(journal, journal)


def _view(settings: InferenceSettings, description: Mapping[str, Any], begun: bool) -> dict[str, Any]:
    """What has to be the same on all hosts, and whether unfinished work of this kind lies on this one.

    Paths may differ from host to host; what lies there is compared by content where it decides the answers.
    """
    same = {name: value for name, value in description.items() if name != "--base-dir"}
    same |= {"mdl-toolkit": __version__, "torch": torch.__version__}
    return {"same": same, "begun": begun and not settings.overwrite, "folder": f"{settings.output}.partial"}


def _refuse_differences(own: Mapping[str, Any], link: Link) -> None:
    """Refuse work that isn't the same on all hosts.

    Raises:
        HostsDisagreeError: It names what differs, and on which hosts.
    """
    views = {rank: link.hear(f"view/{rank}", rank, "to read its options") for rank in link.others}
    different = [rank for rank, view in views.items() if view["same"] != own["same"]]
    if different:
        first = different[0]
        told = _told_differences(own["same"], views[first]["same"], link.name(0), link.name(first))
        more = f" (so do {len(different) - 1} more processes)" if len(different) > 1 else ""
        raise HostsDisagreeError([f"{told}{more}; all hosts need the same options, input and model"])
    begun = [rank for rank, view in views.items() if view["begun"]]
    if begun and not own["begun"]:
        rank = begun[0]
        raise HostsDisagreeError(
            [
                f"{link.name(rank)} has unfinished work of this command ({views[rank]['folder']}), and "
                f"{link.name(0)}, which writes the output, has none: copy that folder to host "
                f"{link.host(0)} to go on with it, or add --overwrite to start anew"
            ]
        )


def _told_differences(own: Mapping[str, Any], theirs: Mapping[str, Any], main: str, other: str) -> str:
    """``rank 1 (host node-b) was started with --seed 7, rank 0 (host node-a) with --seed 42``."""
    every = differences(own, theirs)
    # What follows from options, a limit for example, says nothing beside them.
    found = [one for one in every if one[3] or one[0] in ("input", "model")][:4] or every[:4]

    def told(name: str, value: Any) -> str:
        return f"no {name}" if value is None else f"{name} {value}"

    there = [told(name, new) if tells else f"another {name}" for name, _, new, tells in found]
    here = [told(name, old) for name, old, _, tells in found if tells]
    end = f", {main} with {', '.join(here)}" if here else f" than {main}"
    return f"{other} was started with {', '.join(there)}{end}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown

"""What each process sees of a run's checkpoints: hosts may have folders of their own under one name.

The main process chooses the checkpoint to resume from and writes the later ones; every process reads its
weights. So all of them have to see the same one, and none may see what the main process misses.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_toolkit.errors import UserError
from mdl_toolkit.training.checkpoints.record import RunRecord
from mdl_toolkit.training.checkpoints.state import COMPLETE, RunState, checkpoints, step_of
from mdl_toolkit.training.checkpoints.storage import why_incomplete

if TYPE_CHECKING:
    from mdl_toolkit.distributed.group import Ranks


@dataclass(frozen=True)
class Seen:
    """What one process sees in its output folder.

    Attributes:
        run: The id of the run that its launch has begun there; ``None`` where there is no record of it.
        newest: The name of the newest checkpoint that can be resumed from; ``None`` where there is none, and
            where none is to be resumed.
        digest: A digest of that checkpoint's files.
    """

    run: str | None
    newest: str | None
    digest: str | None

    @classmethod
    def by_this_process(cls, output: Path, own: RunRecord | None, resumes: bool) -> Seen:
        """Look into the output folder; checkpoints are known by their lists of files, which is quick.

        Args:
            output: The folder.
            own: Its record, where it is of this launch: then only checkpoints of its run count.
            resumes: Whether the newest checkpoint of any run is to be resumed.
        """
        if own is None and not resumes:
            return cls(None, None, None)
        run = own.run if own is not None else None
        for path in reversed(checkpoints(output)):
            if (run is None or RunState.run_of(path) == run) and not why_incomplete(path, digests=False):
                return cls(run, path.name, digest_of(path))
        return cls(run, None, None)


def digest_of(checkpoint: Path) -> str | None:
    """A digest of a checkpoint's list of files, which has their digests; ``None`` where there is none."""
    with contextlib.suppress(OSError):
        return hashlib.sha256((checkpoint / COMPLETE).read_bytes()).hexdigest()
    return None


def check_record(seen: list[Seen], output: Path, ranks: Ranks) -> None:
    """Refuse to begin another run where an earlier attempt's is on another host.

    Raises:
        UserError: The main process doesn't see the record that another one sees.
    """
    for rank, there in enumerate(seen):
        if there.run is not None and seen[0].run is None:
            raise UserError(
                f"{ranks.name(rank)} sees the run of this launch in {output}, and {ranks.name(0)}, which has "
                f"to go on with it, doesn't: {_copied(ranks, rank, 0)}; then resume with "
                "--resume-from-checkpoint true"
            )


def check_newest(seen: list[Seen], chosen: str | None, output: Path, ranks: Ranks) -> None:
    """Refuse to resume from an older checkpoint than another host has.

    Args:
        seen: What each process sees.
        chosen: The name of the checkpoint that the main process has chosen; ``None`` for none, a path for one
            that was named.
        output: The output folder.
        ranks: The processes of the run.

    Raises:
        UserError: Another process sees a newer one.
    """
    mine = step_of(Path(chosen)) if chosen is not None else -1
    for rank, there in enumerate(seen):
        # What the main process sees too, and has not chosen, is damaged.
        if there.newest is None or (there.newest, there.digest) == (seen[0].newest, seen[0].digest):
            continue
        if step_of(Path(there.newest)) > mine:
            has = f"{chosen} is the newest" if chosen is not None else "there is none"
            raise UserError(
                f"--resume-from-checkpoint: {ranks.name(rank)} sees {output / there.newest}, and for "
                f"{ranks.name(0)}, which chooses and writes, {has}: start host {ranks.hosts[rank]} as "
                f"rank 0, {_copied(ranks, rank, 0)}; or remove it there, if it is of another run"
            )


def check_same(checkpoint: Path, ranks: Ranks) -> None:
    """Refuse a checkpoint that isn't the same, or isn't there, for every process.

    Raises:
        UserError: The message names the first process that differs from the main one.
    """
    found = ranks.gather_objects((why_incomplete(checkpoint, digests=False), digest_of(checkpoint)))
    for rank, (reason, digest) in enumerate(found):
        if digest is None:
            raise UserError(
                f"{ranks.name(rank)} doesn't see {checkpoint}: to resume on several hosts --output has to be "
                "on a file system that all of them share"
            )
        if reason is not None or digest != found[0][1]:
            what = f"is not complete ({reason})" if reason is not None else "has other content"
            raise UserError(
                f"{ranks.name(rank)}: {checkpoint} {what}, and {ranks.name(0)} has chosen it: "
                f"{_copied(ranks, 0, rank)}"
            )


def _copied(ranks: Ranks, giver: int, taker: int) -> str:
    """What to do where one process's host misses what another's has."""
    return (
        f"copy the folder from host {ranks.hosts[giver]} to host {ranks.hosts[taker]}, or name an --output "
        "on a file system that all hosts share"
    )

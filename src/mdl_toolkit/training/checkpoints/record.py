"""The record of a run in its output folder: which launch it belongs to.

A launcher starts its processes again after a failure, with the same command line. Whether such an attempt may
go on with what it finds in the folder can't be seen from the checkpoints there: they may be of an earlier
run. So a run that begins writes ``.mdl_run.json`` with a random id of its own, the ids by which its launch is
known, and the checkpoint that it began from. Each of its checkpoints holds the run's id.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from mdl_toolkit.compat.torchrun import agent_id, job_id
from mdl_toolkit.errors import StorageError
from mdl_toolkit.files import storage_cause, write_json

RUN_RECORD = ".mdl_run.json"
_FORMAT = "run_record", 1
#: The beginning of each record.
_FIRST_KEY = f'{{\n  "{_FORMAT[0]}": '

#: Ids of the runs that this process has begun. A program that trains twice under one launcher has two runs.
BEGUN_HERE: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run that has begun in an output folder.

    Attributes:
        run: A random id; the run's checkpoints have it in their state.
        launch: The ids by which the launch is known: of each of torchrun's agents that took part, and of the
            store that they share. Every attempt of a launch has one of them in common with the one before.
        job: ``--rdzv-id`` of the launch, if torchrun started it. Launches one after the other may share it.
        began_from: The checkpoint that the run began from, relative to the output folder if it lies there;
            ``None`` for a run that began anew.
    """

    run: str
    launch: Collection[str]
    job: str | None
    began_from: str | None

    @classmethod
    def read(cls, output: Path) -> RunRecord | None:
        """The record in a folder; ``None`` where there is none, or none that can be read."""
        try:
            values = json.loads((output / RUN_RECORD).read_text(encoding="utf-8"))
            if values.pop(_FORMAT[0]) != _FORMAT[1]:
                return None
            record = cls(**{**values, "launch": frozenset(values["launch"])})
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        return record if isinstance(record.run, str) else None

    def write(self, output: Path) -> None:
        """Write the record in place of an earlier one, whole or not at all.

        Raises:
            StorageError: It can't be written.
        """
        values = asdict(self) | {"launch": sorted(self.launch)}
        try:
            write_json(output / RUN_RECORD, {_FORMAT[0]: _FORMAT[1], **values})
        except OSError as error:
            raise StorageError(
                f"{output / RUN_RECORD} could not be written: {storage_cause(error)}; nothing of the run "
                "could be saved there"
            ) from error

    def is_of_launch(self, nodes: int) -> bool | None:
        """Whether the run belongs to the launch of this process, as far as one process can tell.

        Args:
            nodes: The number of hosts of this attempt.

        Returns:
            ``None`` where the processes have to meet first: another host's agent may be the one that is
            known here, or this agent can't be told from others.
        """
        if self.run in BEGUN_HERE:
            return False
        agent = agent_id()
        if agent in self.launch:
            return True
        if job_id() is None or job_id() != self.job:
            return False
        return False if agent is not None and nodes == 1 else None


def own_record(output: Path, launch_ids: Collection[str]) -> RunRecord | None:
    """The record in a folder, if an earlier attempt of the launch that has one of these ids wrote it."""
    record = RunRecord.read(output)
    if record is None or record.run in BEGUN_HERE or frozenset(launch_ids).isdisjoint(record.launch):
        return None
    return record


def is_record(path: Path) -> bool:
    """Whether a run has written a file, by its beginning; a damaged record is one, too."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with open(path, encoding="utf-8") as stream:
            return _FIRST_KEY.startswith(stream.read(len(_FIRST_KEY)))
    except (OSError, ValueError):
        return False

"""Where a run begins: at its first step, resumed from a checkpoint, or where its launch was restarted.

What a launcher starts again has the command line of its first attempt, and goes on only with the run that
this first attempt has begun (``record.py``). Every other run in the folder is to it what it is to a first
attempt: refused, resumed, or overwritten, as the options say.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_toolkit.compat.torchrun import job_id
from mdl_toolkit.errors import ModelError, UserError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.evaluation_sets import evaluation_sets
from mdl_toolkit.settings.options import with_defaults
from mdl_toolkit.settings.values import FALSE, TRUE
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.checkpoints.identity import Identity
from mdl_toolkit.training.checkpoints.output import (
    EVALUATION,
    clear_run,
    foreign_file_in,
    refuse_foreign_files,
    remove_unfinished,
    run_files,
)
from mdl_toolkit.training.checkpoints.record import BEGUN_HERE, RUN_RECORD, RunRecord, own_record
from mdl_toolkit.training.checkpoints.seen import Seen, check_newest, check_record, check_same
from mdl_toolkit.training.checkpoints.state import RunState, checkpoints, step_of
from mdl_toolkit.training.checkpoints.storage import why_incomplete

if TYPE_CHECKING:  # what is said before torch is imported doesn't need it
    from mdl_toolkit.distributed.group import Ranks

logger = get_logger(__name__)

#: ``--resume-from-checkpoint`` for the newest complete checkpoint in the output folder, and its other name.
NEWEST, _LATEST = "true", "latest"


@dataclass(frozen=True)
class Start:
    """A checkpoint to resume from, and the state in it."""

    checkpoint: Path
    state: RunState


@dataclass(frozen=True)
class Claim:
    """An output folder that a run has taken for itself.

    Attributes:
        run: The id of the run.
        start: The checkpoint to resume from; ``None`` to start anew.
    """

    run: str
    start: Start | None


def requested_checkpoint(settings: TrainSettings) -> str | None:
    """What a first attempt is to resume from: :data:`NEWEST`, a path, or ``None`` to start anew."""
    wanted = settings.resume_from_checkpoint
    if wanted is None or wanted.lower() in FALSE | {"none", "null", ""}:
        return None
    return NEWEST if wanted.lower() in TRUE | {_LATEST} else wanted


def expected_start(settings: TrainSettings, own: RunRecord | None) -> Start | None:
    """Where the run is likely to be resumed; that the checkpoint is complete isn't checked, which takes long.

    Args:
        settings: The settings of the run.
        own: The record in the output folder, where it is of this launch.

    Returns:
        ``None`` to start anew, and where the checkpoint can't be read: resuming will tell what is wrong.
    """
    wanted, found = requested_checkpoint(settings), checkpoints(settings.output)
    if own is not None:
        found = [path for path in found if RunState.run_of(path) == own.run]
        if not found and own.began_from is not None:
            found = [settings.output / own.began_from]
    elif wanted != NEWEST:
        found = [Path(wanted)] if wanted else []
    return _start(found[-1]) if found else None


def with_model_of_earlier_run(settings: TrainSettings) -> TrainSettings:
    """Use the base model of the run that is to be resumed, and print it; called where no model was given."""
    wanted = requested_checkpoint(settings)
    if wanted is None:
        return settings
    # A restarted attempt may find that its run has removed the checkpoint that it once began from.
    newest = checkpoints(settings.output)[-1:]
    start = _start(Path(wanted)) if wanted != NEWEST else None
    start = start or (_start(newest[0]) if newest else None)
    if start is None:
        return settings
    options = start.state.options
    name, revision, place = (options.get(key) for key in ("model_name", "revision", "from_modelscope"))
    if not isinstance(name, str) or name == settings.model_name:
        return settings
    logger.info(f"model: {name}, as in {start.checkpoint} (--model-name names another)")
    return with_defaults(
        settings, model_name=name, revision=settings.revision or revision, from_modelscope=bool(place)
    )


def refuse_used_output(settings: TrainSettings, goes_on: bool) -> None:
    """Refuse an output folder that has an earlier run or foreign files in it, before anything costly.

    Args:
        settings: The settings of the run.
        goes_on: Whether the run in the folder is this launch's own, which an earlier attempt has begun.

    Raises:
        UserError: OUTPUT has a run in it, and neither resuming nor replacing it was asked for; or something
            that no run has written has the name of what a run writes.
    """
    if settings.output.exists() and not settings.output.is_dir():
        raise UserError(f"--output {settings.output}: a file; name a folder")
    wanted = NEWEST if goes_on else requested_checkpoint(settings)
    there = run_files(settings.output)
    if wanted is None and not settings.overwrite and any(foreign_file_in(path) != path for path in there):
        raise UserError(
            f"--output {settings.output} has a run in it already: resume it (--resume-from-checkpoint "
            "true), replace it (--overwrite), or name another folder"
        )
    # A resumed run writes later checkpoints only, and refuses those that are in its way when it does.
    checked = there if wanted is None else [path for path in there if step_of(path) < 0]
    refuse_foreign_files([*checked, settings.output / RUN_RECORD, *_evaluations(settings)])
    if wanted not in (None, NEWEST):
        _check_given(Path(wanted))


def _evaluations(settings: TrainSettings) -> list[Path]:
    """Where the run will write its evaluations' files."""
    if settings.eval_generate is None:
        return []
    return [settings.output / EVALUATION / each.name for each in evaluation_sets(settings.eval_dataset)]


def say_if_anew(settings: TrainSettings, nodes: int) -> None:
    """Say that the newest checkpoint is to be resumed and there is none, before anything else is printed.

    Args:
        settings: The settings of a first attempt.
        nodes: The number of hosts; of several, another one may see a checkpoint.
    """
    if requested_checkpoint(settings) != NEWEST:
        return
    if not _looks_complete(settings.output):
        unless = ", unless another host has one" if nodes > 1 else ""
        logger.info(f"no complete checkpoint in {settings.output}: starting anew{unless}")


def choose_start(settings: TrainSettings, ranks: Ranks, identity: Identity) -> Claim:
    """Choose where the run begins, and take the output folder for it.

    The main process chooses for all. Nothing is changed in the folder before it is certain that the run can
    begin; then the main process removes partial files and what is to be overwritten, and writes the record.

    Raises:
        UserError: OUTPUT has another run in it; a checkpoint that was named is not complete, or not of such a
            run; or not all hosts see the same.
        StorageError: The record can't be written.
    """
    output = settings.output
    own = own_record(output, ranks.launch_ids)
    seen = ranks.gather_objects(Seen.by_this_process(output, own, requested_checkpoint(settings) == NEWEST))
    check_record(seen, output, ranks)
    chosen = None
    if ranks.is_main:
        refuse_used_output(settings, own is not None)
        chosen = _choose(settings, own)
    place = ranks.broadcast_object(None if chosen is None else _place(chosen, output))
    check_newest(seen, place, output, ranks)
    start = None
    if place is not None:
        checkpoint = _here(place, settings)
        check_same(checkpoint, ranks)
        start = Start(checkpoint, RunState.read(checkpoint))
        identity.check(start.state, start.checkpoint)
    run = ranks.broadcast_object(_take(settings, own, place, ranks).run if ranks.is_main else "")
    BEGUN_HERE.add(run)
    return Claim(run, start)


def _looks_complete(output: Path) -> bool:
    """Whether a checkpoint is complete by the sizes of its files."""
    return any(why_incomplete(path, digests=False) is None for path in checkpoints(output))


def _start(checkpoint: Path) -> Start | None:
    try:
        return Start(checkpoint, RunState.read(checkpoint))
    except ModelError:
        return None


def _place(checkpoint: Path, output: Path) -> str:
    """A checkpoint relative to the output folder, whose path other hosts may have another name for."""
    if checkpoint.absolute().parent == output.absolute():
        return checkpoint.name
    return str(checkpoint.absolute())


def _here(place: str, settings: TrainSettings) -> Path:
    """Where this process has the checkpoint that the main process has chosen."""
    wanted = requested_checkpoint(settings)
    if Path(place).is_absolute() and wanted not in (None, NEWEST) and Path(wanted).name == Path(place).name:
        return Path(wanted)  # named on each host as it lies there
    return settings.output / place


def _choose(settings: TrainSettings, own: RunRecord | None) -> Path | None:
    """The checkpoint to resume from, which is complete; ``None`` to start anew."""
    output, wanted = settings.output, requested_checkpoint(settings)
    if own is not None:
        found = _newest(output, own.run) or _begun_from(own, settings)
        if found is None:
            logger.info(f"restarted before its first checkpoint in {output}: starting anew")
        return found
    if wanted is None:
        return None
    return _newest(output) if wanted == NEWEST else _named(Path(wanted), output)


def _newest(output: Path, run: str | None = None) -> Path | None:
    """The newest complete checkpoint; of one run, where its id is given."""
    for path in reversed(checkpoints(output)):
        if run is not None and RunState.run_of(path) != run:
            continue
        reason = why_incomplete(path)
        if reason is None:
            return path
        logger.warning(f"{path} is skipped: {reason}")
    return None


def _begun_from(own: RunRecord, settings: TrainSettings) -> Path | None:
    """The checkpoint that this launch's run began from; it has no complete one of its own."""
    if own.began_from is None:
        return None
    path = settings.output / own.began_from
    reason = why_incomplete(path)
    if reason is None:
        logger.info(f"restarted before its first checkpoint: beginning again from {path}")
        return path
    if requested_checkpoint(settings) == NEWEST:
        return _newest(settings.output)
    raise UserError(f"{path}, from which this run began, is not a complete checkpoint any more: {reason}")


def _check_given(path: Path) -> None:
    if not path.is_dir():
        raise UserError(f"--resume-from-checkpoint {path}: no such folder")
    reason = why_incomplete(path)
    if reason is not None:
        raise UserError(f"--resume-from-checkpoint {path}: not a complete checkpoint: {reason}")


def _named(path: Path, output: Path) -> Path:
    """A checkpoint that was named, and found complete, as the one to resume from."""
    state = RunState.read(path)
    later = [other for other in checkpoints(output) if step_of(other) > state.step]
    if later:
        logger.warning(
            f"{later[-1]} is later than {path}: it stays until this run reaches its step, and 'true' would "
            "choose it"
        )
    return path


def _take(settings: TrainSettings, own: RunRecord | None, place: str | None, ranks: Ranks) -> RunRecord:
    """On the main process: make the folder ready for the run, and write its record where it is a new one.

    The record is written when nothing of another run is left that is to be overwritten. If the process is
    killed before that, the next attempt is a first one again.
    """
    output, wanted = settings.output, requested_checkpoint(settings)
    remove_unfinished(output)
    if place is None:
        # On one host it was said at once, unless all that is there has proved to be damaged.
        if wanted == NEWEST and own is None and (ranks.nodes > 1 or _looks_complete(output)):
            logger.info(f"no complete checkpoint in {output}: starting anew")
        if own is not None or wanted == NEWEST or settings.overwrite:
            clear_run(output)
    if own is not None:
        record = replace(own, launch=frozenset(own.launch) | ranks.launch_ids)
    else:
        record = RunRecord(run=uuid.uuid4().hex, launch=ranks.launch_ids, job=job_id(), began_from=place)
    if record != own:
        record.write(output)
    return record

"""Where a run begins: at its first step, or resumed from a checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_toolkit.errors import ModelError, UserError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import with_defaults
from mdl_toolkit.settings.values import FALSE, TRUE
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.checkpoints.output import (
    clear_run,
    foreign_file_in,
    refuse_foreign_files,
    remove_unfinished,
    run_files,
)
from mdl_toolkit.training.checkpoints.state import RUN_STATE, RunState, checkpoints, step_of
from mdl_toolkit.training.checkpoints.storage import why_incomplete

if TYPE_CHECKING:  # what is said before torch is imported doesn't need it
    from mdl_toolkit.distributed.group import Ranks

logger = get_logger(__name__)


@dataclass(frozen=True)
class Start:
    """A checkpoint to resume from, and the state in it."""

    checkpoint: Path
    state: RunState


def launcher_restarted() -> bool:
    """Whether the launcher on this machine has restarted this process (``torchrun --max-restarts``).

    With several machines, only the one that lost a process counts the restart; ``Ranks.restarted`` knows it
    on all of them.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") or 0) > 0


def requested_checkpoint(settings: TrainSettings, restarted: bool) -> str | None:
    """What to resume from: ``"true"`` for the newest complete checkpoint, a path, or ``None`` to start anew.

    A restarted run resumes from what it has saved itself, whatever it was told to resume from at first.
    """
    if restarted:
        return "true"
    wanted = settings.resume_from_checkpoint
    if wanted is not None and wanted.lower() in FALSE | {"none", "null", ""}:
        wanted = None
    if wanted is not None and wanted.lower() in TRUE:
        wanted = "true"
    return wanted


def expected_start(settings: TrainSettings, restarted: bool) -> Start | None:
    """Where the run is likely to be resumed; that the checkpoint is complete isn't checked, which takes long.

    Returns:
        ``None`` to start anew, and where the checkpoint can't be read: resuming will tell what is wrong.
    """
    wanted = requested_checkpoint(settings, restarted)
    found = checkpoints(settings.output)[-1:] if wanted == "true" else [Path(wanted)] if wanted else []
    try:
        return Start(found[0], RunState.read(found[0])) if found else None
    except ModelError:
        return None


def with_model_of_earlier_run(settings: TrainSettings, restarted: bool) -> TrainSettings:
    """Use the base model of the run that is to be resumed, and print it; called where no model was given."""
    start = expected_start(settings, restarted)
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


def refuse_used_output(settings: TrainSettings, restarted: bool) -> None:
    """Refuse an output folder that has an earlier run or foreign files in it, before anything costly.

    Raises:
        UserError: OUTPUT has a run in it, and neither resuming nor replacing it was asked for; or something
            that no run has written has the name of a checkpoint, of ``final/`` or of the metrics file.
    """
    if settings.output.exists() and not settings.output.is_dir():
        raise UserError(f"--output {settings.output}: a file; name a folder")
    wanted = requested_checkpoint(settings, restarted)
    there = run_files(settings.output)
    if wanted is None and not settings.overwrite and any(foreign_file_in(path) != path for path in there):
        raise UserError(
            f"--output {settings.output} has a run in it already: resume it (--resume-from-checkpoint "
            "true), replace it (--overwrite), or name another folder"
        )
    # A resumed run writes later checkpoints only, and refuses those that are in its way when it does.
    refuse_foreign_files(there if wanted is None else [path for path in there if step_of(path) < 0])
    if wanted not in (None, "true"):
        _check_given(Path(wanted))


def choose_start(settings: TrainSettings, ranks: Ranks) -> Start | None:
    """Find the checkpoint to resume from; the main process chooses for all, and removes partial files.

    Returns:
        The checkpoint, or ``None`` to start anew.

    Raises:
        UserError: OUTPUT has another run in it, or a checkpoint that was named is not complete or not visible
            from every machine.
    """
    restarted = ranks.restarted or launcher_restarted()
    chosen = None
    if ranks.is_main:
        refuse_used_output(settings, restarted)
        chosen = _choose(settings, restarted)
    chosen = ranks.broadcast_object(chosen)
    if chosen is None:
        return None
    blind = [
        rank for rank, sees in enumerate(ranks.gather_objects((chosen / RUN_STATE).is_file())) if not sees
    ]
    if blind:
        raise UserError(
            f"rank {blind[0]} doesn't see {chosen}: to resume on several machines --output has to be on a "
            "file system that all of them share"
        )
    return Start(chosen, RunState.read(chosen))


def _choose(settings: TrainSettings, restarted: bool) -> Path | None:
    output, wanted = settings.output, requested_checkpoint(settings, restarted)
    remove_unfinished(output)
    if wanted is None:
        if settings.overwrite:
            clear_run(output)
        return None
    if wanted != "true":
        return _named(Path(wanted), output)
    found = None
    for path in reversed(checkpoints(output)):
        reason = why_incomplete(path)
        if reason is None:
            found = path
            break
        logger.warning(f"{path} is skipped: {reason}")
    named = requested_checkpoint(settings, restarted=False)
    if found is None and named not in (None, "true"):
        _check_given(Path(named))
        return _named(Path(named), output)
    if found is None:
        logger.info(f"no complete checkpoint in {output}: starting anew")
        clear_run(output)
    return found


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

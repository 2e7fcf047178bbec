"""Keeps ``best/`` while the run goes on: what was trained, written beside and renamed whole at each new best.

Two things are compared with. The *standing* is part of the run's state: it decides when the run is over, and
goes back with a run that is resumed from an earlier checkpoint. ``best/`` itself says what it is, and is only
ever replaced by a better one, whatever became of the run in between. So neither a kill nor a disk that was
full at the wrong moment costs a model that was kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_toolkit.errors import MdlError
from mdl_toolkit.files import storage_cause
from mdl_toolkit.model_folders.export import export_trained
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.best.record import BestRecord
from mdl_toolkit.training.best.yardstick import Yardstick
from mdl_toolkit.training.checkpoints.output import foreign_file_in
from mdl_toolkit.training.checkpoints.state import BEST
from mdl_toolkit.training.steps.judge import Judge, NoJudge
from mdl_toolkit.training.steps.standing import Standing, chosen_metric, is_better
from mdl_toolkit.training.trainable.adapters import trained_tensors, trained_weights

if TYPE_CHECKING:
    from mdl_toolkit.model_folders.trained import TrainedWeights
    from mdl_toolkit.training.checkpoints.checkpointer import Checkpointer
    from mdl_toolkit.training.checkpoints.resume import Start
    from mdl_toolkit.training.steps.progress import RunProgress

logger = get_logger(__name__)


def make_judge(checkpointer: Checkpointer, start: Start | None, progress: RunProgress) -> Judge:
    """Make what judges a run's evaluations; every process calls it.

    Args:
        checkpointer: Writes the run's checkpoints.
        start: The checkpoint that the run is resumed from, if it is.
        progress: Where the run stands. Its standing begins anew where it can't be gone on with.
    """
    metric = chosen_metric(checkpointer.settings)
    if metric is None:
        progress.standing = Standing()
        return NoJudge()
    keeper = BestKeeper(checkpointer, metric)
    keeper.begin(start, progress)
    return keeper


class BestKeeper:
    """Judges a run's evaluations and keeps the model of the best one.

    Args:
        checkpointer: Writes the run's checkpoints; what it writes them with, this one takes too.
        metric: The metric that decides, as in ``metrics.jsonl``.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str) -> None:
        self.settings, self.ranks = checkpointer.settings, checkpointer.ranks
        self.wrapped = checkpointer.wrapped
        self.yardstick = Yardstick.of(checkpointer.identity.eval_dataset, checkpointer.identity.options)
        self._checkpointer, self._metric = checkpointer, metric

    @property
    def folder(self) -> Path:
        """``OUTPUT/best``."""
        return self.settings.output / BEST

    def judge(self, progress: RunProgress, values: Mapping[str, Any]) -> None:
        """Count an evaluation, and keep its model if it is better than what ``best/`` holds.

        Every process calls it; the numbers of the main one count. That ``best/`` can't be written is told and
        ends nothing: the run's checkpoints are what it can't do without.

        Args:
            progress: Where the run stands; its standing is brought up to date.
            values: The numbers of the evaluation by the names that ``metrics.jsonl`` has.

        Raises:
            ReplicasDifferError: The processes no longer hold the same weights.
        """
        if not progress.step:  # before the first step there is nothing of the run to keep
            return
        metric = self._metric
        value, keeps = self.ranks.broadcast_object(
            self._judged(metric, values) if self.ranks.is_main else (math.nan, False)
        )
        progress.standing = progress.standing.after(metric, progress.step, value)
        if keeps:
            self._checkpointer.refuse_drift(f"step {progress.step}")
            self._keep(progress, metric, values)
        elif self.settings.early_stopping is not None and self.ranks.is_main:
            self._say_no_better(progress, metric, value)

    def _judged(self, metric: str, values: Mapping[str, Any]) -> tuple[float, bool]:
        """On the main process: the value that counts, and whether its model is to be kept."""
        found = values.get(metric)
        value = float(found) if isinstance(found, int | float) else math.nan
        held = BestRecord.read(self.folder)
        than = held.value_by(metric, self.yardstick) if held is not None else None
        return value, is_better(metric, value, than)

    def _keep(self, progress: RunProgress, metric: str, values: Mapping[str, Any]) -> None:
        """Write ``best/``; a sharded model is gathered for it by all processes."""
        if self.ranks.is_main:
            record = BestRecord.of(progress.step, metric, values, self.yardstick)
            # As with a checkpoint: a sharded model is gathered meanwhile.
            alone = self.settings.sharding == "none"
            with self.ranks.saving_alone() if alone else nullcontext():
                trained = trained_weights(self.wrapped.model, self.settings)
                self._write(progress, trained, record)
        else:
            for _ in trained_tensors(self.wrapped.model):
                raise AssertionError("the main process alone is given tensors")
        self.ranks.barrier()

    def _write(self, progress: RunProgress, trained: TrainedWeights, record: BestRecord) -> None:
        try:
            if (foreign := foreign_file_in(self.folder)) is not None:
                raise MdlError(f"{foreign} is in the way and was not written by a run; move it elsewhere")
            manifest = self._checkpointer.manifest(trained.kind, progress, record.as_dict())
            export_trained(self.folder, self._checkpointer.base_folder, trained, manifest)
        except (MdlError, OSError) as error:
            held = BestRecord.read(self.folder)
            left = f"it stays that of {held}" if held is not None else "there is none yet"
            why = storage_cause(error.__cause__ or error) or error
            logger.warning(
                f"{self.folder} could not be kept for {record}: {why}; {left}, and training goes on"
            )
        else:
            logger.info(f"kept {self.folder}: the best so far, {record}")

    def _say_no_better(self, progress: RunProgress, metric: str, value: float) -> None:
        standing = progress.standing
        than = "" if standing.value is None else f" than {standing.value:.4f} of step {standing.step}"
        logger.info(
            f"{metric} {value:.4f} is no better{than}: {standing.since} in a row, and "
            f"{self.settings.early_stopping} end the training (--early-stopping)"
        )

    def why_over(self, progress: RunProgress) -> str | None:
        """Why the run ends early: too many evaluations were no better; ``None`` where it goes on."""
        patience, standing = self.settings.early_stopping, progress.standing
        if patience is None or standing.since < patience:
            return None
        than = (
            f"no better than {standing.value:.4f} of step {standing.step}"
            if standing.value is not None
            else "not a number"
        )
        return (
            f"training ends early after step {progress.step}: {standing.metric} was {than} in "
            f"{standing.since} evaluation{'s' if standing.since > 1 else ''} (--early-stopping {patience})"
        )

    def begin(self, start: Start | None, progress: RunProgress) -> None:
        """Say what a resumed run means for ``best/``; every process calls it.

        Args:
            start: The checkpoint that the run is resumed from, if it is.
            progress: Where the run stands. Its standing begins anew where it was by another metric, or on
                other data or answers.
        """
        if start is None:
            return
        metric, before = self._metric, progress.standing
        measured = Yardstick.of(start.state.eval_dataset, start.state.options)
        if before.metric != metric or not measured.agrees(self.yardstick, metric):
            progress.standing = Standing()
        if not self.ranks.is_main:
            return
        if before.metric not in (None, metric):
            logger.warning(f"evaluations are counted anew, by {metric}; before, {before.metric} decided")
        held = BestRecord.read(self.folder)
        if held is None:
            if before.value is not None:
                earlier = BestRecord.read(start.checkpoint.parent / BEST)
                there = f"; that of before is in {start.checkpoint.parent / BEST}" if earlier else ""
                logger.warning(f"there is no {self.folder}: it begins anew with the next evaluation{there}")
        elif held.value_by(metric, self.yardstick) is None:
            why = f"by {held.metric}" if held.metric != metric else "by other answers"
            why = why if held.evaluation_data == self.yardstick.data else "on other data"
            logger.warning(f"{self.folder} was chosen {why} ({held}): the next evaluation replaces it")
        elif held.step > progress.step:
            logger.info(f"{self.folder} is that of {held}: it stays until an evaluation is better")

"""Whether a checkpoint belongs to the run that is to be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import UserError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import flag, options_where
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.checkpoints.state import RunState

logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run is made of. A checkpoint belongs to the runs that are made of the same.

    Attributes:
        dataset: The fingerprint of the training data.
        eval_dataset: The fingerprint of all sets of evaluation data together.
        model: The fingerprint of the base model's weights.
        options: All settings.
        on_hosts: The fingerprints of the training data on the run's hosts. They hold the same rows, but a
            table that was converted in another folder has another fingerprint.
    """

    dataset: str
    eval_dataset: str | None
    model: str
    options: Mapping[str, Any]
    on_hosts: Sequence[str] = ()

    def check(self, state: RunState, checkpoint: Path) -> None:
        """Refuse a checkpoint of another dataset, model or set of trained tensors; warn of changed options.

        Raises:
            UserError: The message names what differs.
        """
        if state.dataset not in (self.dataset, *self.on_hosts):
            raise UserError(
                f"{checkpoint} is of a run on another dataset ({state.dataset}, now {self.dataset}); resume "
                "with the same data, or train anew with another --output"
            )
        if state.model != self.model:
            raise UserError(
                f"{checkpoint} is of a run from another base model (weights {state.model}, now "
                f"{self.model}); resume with the same --model-name, or train anew with another --output"
            )
        changed = [
            (name, state.options.get(name), value)
            for name, value in self.options.items()
            if name in state.options and state.options[name] != value
        ]
        deciding = options_where(TrainSettings, resume="same")
        if "lora" not in (self.options.get("method"), state.options.get("method")):
            of_lora = options_where(TrainSettings, goes_with="--method lora")
            changed = [difference for difference in changed if difference[0] not in of_lora]
        for name, before, now in changed:
            if name in deciding:
                raise UserError(
                    f"{checkpoint} is of a run with {flag(name)} {_shown(before)}, now "
                    f"{_shown(now)}: this can't change when a run is resumed; resume with the old value, or "
                    "train anew with another --output"
                )
        unheeded = options_where(TrainSettings, resume=("free", "derived"))
        for name, before, now in changed:
            if name not in unheeded:
                logger.warning(f"resuming with {flag(name)} {_shown(now)}; before, it was {_shown(before)}")
        if state.eval_dataset is not None and self.eval_dataset not in (None, state.eval_dataset):
            logger.warning(
                "resuming with another --eval-dataset: eval_loss can't be compared with what it was before"
            )


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Checks before torch is imported that the disk has room for what a run will write.

Sizes come from the headers of the base's weight files. Only tensors are counted: the other files (tokenizer,
manifest) are small.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.files import free_bytes
from mdl_toolkit.model_folders.names import HEAD, adapted_layers, is_front_end, part_of, parts_in_full
from mdl_toolkit.model_folders.tensorfiles.headers import Header, base_tensors
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.checkpoints.record import RunRecord
from mdl_toolkit.training.checkpoints.resume import expected_start
from mdl_toolkit.training.checkpoints.state import BEST, FINAL
from mdl_toolkit.training.steps.schedule import interval
from mdl_toolkit.training.steps.standing import chosen_metric

logger = get_logger(__name__)

#: Of a trained parameter in a checkpoint: its value and AdamW's two moments, in float32.
_BYTES_IN_CHECKPOINT = 12
_BYTES_IN_ADAPTER = 4
#: Bytes of a weight by ``--final-dtype``.
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Need:
    """Bytes that a run writes; of a resumed run, those that it still has to write.

    Attributes:
        checkpoint: The bytes of one checkpoint.
        final: The bytes of ``final/``.
        best: The most bytes that ``best/`` takes: while a new one replaces it, and at the end of the run
            when it takes the form of ``final/``; 0 where none is kept.
        kept: The number of new checkpoints that are on the disk at the same time; 0 where all steps are made
            and saved.
    """

    checkpoint: int
    final: int
    kept: int
    best: int = 0

    @property
    def total(self) -> int:
        """The bytes of all checkpoints that are kept, of ``final/`` and of ``best/``."""
        return self.kept * self.checkpoint + self.models

    @property
    def models(self) -> int:
        """The bytes of ``final/`` and ``best/``."""
        return self.final + self.best

    def shown_models(self) -> str:
        """``final/`` and ``best/`` with their sizes, for a message."""
        final = f"final/ of {_size(self.final)}"
        return f"{final} and best/ of {_size(self.best)}" if self.best else final


def check_disk(settings: TrainSettings, launch: Launch, model_folder: Path, data: ClipDataset) -> None:
    """Refuse a disk without room for the next checkpoint and ``final/``; warn where not all will fit.

    Raises:
        SettingsError: There is no room; the message says what is needed, what is free, and what to do.
    """
    need = needed(settings, launch, model_folder, data)
    free = free_bytes(settings.output)
    if need is None or free is None:
        return
    if settings.overwrite and _own(settings, launch) is None:
        free += _earlier(settings.output)
    if free < min(need.kept, 1) * need.checkpoint + need.models:
        models = need.shown_models()
        what = f"a checkpoint of {_size(need.checkpoint)} and {models} are"
        if not need.kept:
            what = f"{models} {'are' if need.best else 'is'}"
        raise SettingsError(
            [
                f"--output {settings.output}: {_size(free)} are free there, and {what} to be written: free "
                "some space, or name a folder on another disk"
            ]
        )
    if free < need.total:
        logger.warning(
            f"{settings.output}: {need.kept} checkpoints of {_size(need.checkpoint)} and "
            f"{need.shown_models()} need {_size(need.total)}, and {_size(free)} are free; a smaller "
            "--save-total-limit keeps fewer checkpoints"
        )


def needed(settings: TrainSettings, launch: Launch, model_folder: Path, data: ClipDataset) -> Need | None:
    """What a run will write; ``None`` where the weight files can't be read (loading them tells why)."""
    tensors = base_tensors(model_folder)
    if tensors is None:
        return None
    trained = _trained(settings, tensors)
    saves = _saves(settings, launch, data)
    limit = settings.save_total_limit
    final = _final(settings, tensors, trained)
    return Need(
        checkpoint=trained * _BYTES_IN_CHECKPOINT,
        final=final,
        best=_best(settings, trained, final, saves),
        # A new one is complete before the oldest goes.
        kept=saves if limit is None else min(saves, limit + 1),
    )


def _saves(settings: TrainSettings, launch: Launch, data: ClipDataset) -> int:
    """The approximate number of checkpoints to come: batches measured in tokens are never quite full."""
    slots = launch.world_size * settings.gradient_accumulation_steps
    if settings.max_tokens:
        epoch = math.ceil(int(data.tokens.sum()) / (settings.max_tokens * slots))
    else:
        epoch = math.ceil(len(data) / (settings.batch_size * slots))
    steps = settings.max_steps or max(1, math.ceil(epoch * settings.num_epochs))
    every, done = interval(settings.save_steps, steps), _done(settings, launch)
    if done >= steps:
        # Of batches in tokens there may be more steps than were counted.
        return int(bool(settings.max_tokens and not settings.max_steps))
    return math.ceil(steps / every) - done // every  # the last step saves too


def _done(settings: TrainSettings, launch: Launch) -> int:
    """The number of steps that are made already."""
    start = expected_start(settings, _own(settings, launch))
    return start.state.step if start is not None else 0


def _own(settings: TrainSettings, launch: Launch) -> RunRecord | None:
    """The record of the run in the output folder, where it may be this launch's."""
    record = RunRecord.read(settings.output)
    return None if record is None or record.is_of_launch(launch.nodes) is False else record


def _trained(settings: TrainSettings, tensors: Mapping[str, Header]) -> int:
    """The number of trained parameters."""
    adapters, parts = settings.method == "lora", settings.train_target
    pattern = adapted_layers(parts, attention=settings.lora_attention) if adapters else None
    whole = parts_in_full(parts, adapters=adapters, tied=HEAD not in tensors)
    count = 0
    for name, tensor in tensors.items():
        shape = tensor.shape
        if part_of(name) in whole and not is_front_end(name):
            count += math.prod(shape)
        elif pattern and re.fullmatch(pattern, name.removesuffix(".weight")) and name.endswith(".weight"):
            count += settings.lora_rank * sum(shape) + settings.dora * shape[0]
    return count


def _final(settings: TrainSettings, tensors: Mapping[str, Header], trained: int) -> int:
    """Bytes of ``final/``. ``--final-dtype auto`` counts as the base's: it may become float32 later."""
    if settings.method == "lora" and not settings.merge_lora:
        return trained * _BYTES_IN_ADAPTER
    each = _BYTES.get(settings.final_dtype)
    return sum(
        math.prod(tensor.shape) * each if each and not is_front_end(name) else tensor.bytes
        for name, tensor in tensors.items()
    )


def _best(settings: TrainSettings, trained: int, final: int, saves: int) -> int:
    """Bytes of ``best/`` at most. A run whose steps are all made has it, and may still have to merge it."""
    if chosen_metric(settings) is None:
        return 0
    kept = trained * _BYTES_IN_ADAPTER
    merged = 0 if settings.method == "lora" and not settings.merge_lora else final
    return kept + max(kept, merged) if saves else merged


def _earlier(output: Path) -> int:
    """Bytes of the earlier run that ``--overwrite`` removes."""
    total = 0
    for part in (*output.glob("checkpoint-*"), output / FINAL, output / BEST):
        for path in part.rglob("*"):
            if path.is_file():
                total += path.stat().st_size
    return total


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"

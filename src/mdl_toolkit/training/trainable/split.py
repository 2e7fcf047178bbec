"""Splits a micro-batch that does not fit into memory, and says which rows it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from torch import Tensor

from mdl_toolkit.errors import OutOfMemoryError
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.memory import free_memory, is_out_of_memory
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch

logger = get_logger(__name__)


def split(batch: PackedBatch, geometry: AudioGeometry) -> tuple[PackedBatch, PackedBatch]:
    """Cut a packed batch of at least two clips between clips, at about half of its tokens.

    Returns:
        Two batches on the same device; what is summed over both is what the whole would give.
    """
    lengths = batch.sequence_lengths
    half, clips, tokens = sum(lengths) / 2, 0, 0
    while clips < len(lengths) - 1 and (clips == 0 or tokens + lengths[clips] / 2 <= half):
        tokens += lengths[clips]
        clips += 1
    samples = sum(batch.audio_samples[:clips])
    audio = sum(geometry.audio_tokens(length) for length in batch.audio_samples[:clips])
    targets = int((batch.target_positions < tokens).sum())
    first = dataclasses.replace(
        batch,
        input_ids=batch.input_ids[:tokens],
        position_ids=batch.position_ids[:tokens],
        audio_positions=batch.audio_positions[:audio],
        target_positions=batch.target_positions[:targets],
        targets=batch.targets[:targets],
        waveform=batch.waveform[:samples],
        sequence_lengths=lengths[:clips],
        audio_samples=batch.audio_samples[:clips],
        rows=batch.rows[:clips],
        indices=batch.indices[:clips],
    )
    second = dataclasses.replace(
        batch,
        input_ids=batch.input_ids[tokens:],
        position_ids=batch.position_ids[tokens:],
        audio_positions=batch.audio_positions[audio:] - tokens,
        target_positions=batch.target_positions[targets:] - tokens,
        targets=batch.targets[targets:],
        waveform=batch.waveform[samples:],
        sequence_lengths=lengths[clips:],
        audio_samples=batch.audio_samples[clips:],
        rows=batch.rows[clips:],
        indices=batch.indices[clips:],
    )
    return first, second


class Splitter:
    """Runs a pass over a micro-batch, in parts where the whole does not fit.

    It remembers what did not fit, so that the next such batch is split at once.

    Args:
        geometry: The audio geometry of the model.
        prefix: What its messages begin with.
    """

    def __init__(self, geometry: AudioGeometry, prefix: str = "") -> None:
        self.splits = 0
        self._geometry, self._prefix = geometry, prefix
        self._failed: list[tuple[int, int]] = []

    def run(
        self,
        function: Callable[[PackedBatch], Tensor],
        batch: PackedBatch,
        retry: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Tensor:
        """The sum of what ``function`` gives for the batch or for its parts.

        Args:
            function: Runs a pass over a micro-batch.
            batch: A micro-batch of at least one clip.
            retry: A context that is entered while the parts are run after a failed pass over the whole.

        Raises:
            OutOfMemoryError: A single clip does not fit; names its row, its length and the remedy.
        """
        if not self._is_too_large(batch):
            try:
                return function(batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                cause = (str(error).splitlines() or [type(error).__name__])[0]
            free_memory()
            if len(batch.sequence_lengths) == 1:
                raise OutOfMemoryError(does_not_fit(batch, cause))
            self._failed.append((sum(batch.sequence_lengths), sum(batch.audio_samples)))
            with retry():
                return self._in_parts(function, batch, retry)
        return self._in_parts(function, batch, retry)

    def _in_parts(
        self,
        function: Callable[[PackedBatch], Tensor],
        batch: PackedBatch,
        retry: Callable[[], AbstractContextManager[None]],
    ) -> Tensor:
        self.splits += 1
        if self.splits <= 3 or self.splits % 100 == 0:
            self._warn(batch)
        first, second = split(batch, self._geometry)
        return self.run(function, first, retry) + self.run(function, second, retry)

    def _is_too_large(self, batch: PackedBatch) -> bool:
        tokens, samples = sum(batch.sequence_lengths), sum(batch.audio_samples)
        return len(batch.sequence_lengths) > 1 and any(
            tokens >= failed and samples >= audio for failed, audio in self._failed
        )

    def _warn(self, batch: PackedBatch) -> None:
        logger.warning(
            f"{self._prefix}out of memory with {len(batch.rows)} clips of "
            f"{sum(batch.sequence_lengths)} tokens in a micro-batch ({shown_rows(batch.rows)}): done in two "
            "parts, with the same result; a smaller --batch-size or --max-tokens is faster",
            extra=EVERYWHERE,
        )


def does_not_fit(batch: PackedBatch, cause: str) -> str:
    """The message for a batch that can't be split."""
    seconds = max(batch.audio_samples, default=0) / 16000
    return (
        f"out of memory with {shown_rows(batch.rows)}: {sum(batch.sequence_lengths)} tokens, audio of up to "
        f"{seconds:.1f} s ({cause}). Leave it out (--max-audio-seconds), cut it (start and end "
        "columns), or save memory: --gradient-checkpointing true, --quantization 4bit, "
        "a lower --lora-rank, --sharding full"
    )


def shown_rows(rows: Sequence[str], limit: int = 4) -> str:
    """Row names for a message, the first few of many."""
    more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
    return ", ".join(rows[:limit]) + more

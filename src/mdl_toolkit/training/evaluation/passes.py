"""Passes of a model that is being trained: called off for a signal, and in step where they are everyone's.

Where a model is sharded, each pass gathers weights from all processes, so all have to make the same passes in
the same order. Their answers end at different times. So before each pass they agree on its kind, and those
that need no such pass make one over next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.generation.cache import RaggedCache
from mdl_toolkit.generation.reading import PassKind, PromptReader
from mdl_toolkit.memory import free_memory, is_out_of_memory
from mdl_toolkit.training.evaluation.together import EvaluationDropped, is_interrupted
from mdl_toolkit.training.signals import StopSignals, agreed_signal

if TYPE_CHECKING:
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.training.trainable.wrap import Sharded

#: What a process wants to do next; where processes differ, the highest is done by all.
_NOTHING, _TOKENS, _PROMPTS = 0.0, 1.0, 2.0
_WANTS: dict[PassKind, float] = {"tokens": _TOKENS, "prompts": _PROMPTS}


class CalledOff(Exception):  # noqa: N818 -- no failure: somebody asked for it
    """Nothing more is to be computed: the next exchange between the processes ends the evaluation."""


class FreePasses:
    """Passes of a model of which this process has all.

    Args:
        ranks: The processes of the run.
        signals: The signals that ask the run to stop.
    """

    def __init__(self, ranks: Ranks, signals: StopSignals | None) -> None:
        self._ranks, self._signals = ranks, signals

    def __call__(self, kind: PassKind, work: Callable[[], Tensor]) -> Tensor:
        """Make a pass.

        Raises:
            CalledOff: A signal came, or another process is lost.
        """
        del kind
        if is_interrupted(self._ranks, self._signals):
            raise CalledOff
        return work()

    def finish(self) -> None:
        """Say that this process needs no further pass for what it was asked."""

    def close(self) -> None:
        """Say that there will be no further pass."""


class LockstepPasses(FreePasses):
    """Passes of a model that is sharded over the processes.

    Args:
        ranks: The processes of the run.
        signals: The signals that ask the run to stop.
        sharded: The model.
    """

    def __init__(self, ranks: Ranks, signals: StopSignals | None, sharded: Sharded) -> None:
        super().__init__(ranks, signals)
        model = sharded.model
        self._sharded, self._model, self._reader = sharded, model, PromptReader(model)
        self._gathered: set[nn.Module] = set()
        self._hooks = [part.register_forward_pre_hook(self._note) for part in sharded.parts]
        config = model.config
        samples = model.geometry.min_samples
        ids = np.full(model.geometry.audio_tokens(samples) + 1, config.audio_token_id)
        ids[-1] = 0 if config.audio_token_id else 1
        self._filler = Prompt(ids, np.zeros(samples, dtype=np.float32), budget=1)

    def __call__(self, kind: PassKind, work: Callable[[], Tensor]) -> Tensor:
        """Make a pass, after those that others need first.

        Raises:
            EvaluationDropped: A process was asked to stop; all processes raise this before the same pass.
            torch.OutOfMemoryError: Memory ran out in the pass. The others have made it, and the next one can
                be made.
        """
        self._until(_WANTS[kind])
        self._gathered.clear()
        try:
            return self._model.within_pass(work)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            cause = (str(error).splitlines() or [type(error).__name__])[0]
        free_memory()  # out of the handler, in which what the pass had made would be kept
        parts = self._sharded.parts
        read = parts if kind == "prompts" else parts[-len(self._model.decoder.model.layers) :]
        self._sharded.end_failed_pass([part for part in read if part not in self._gathered])
        raise torch.OutOfMemoryError(cause)

    def _note(self, part: nn.Module, _arguments: object) -> None:
        """Note that a part of the model has been gathered; called when it begins to compute."""
        self._gathered.add(part)

    def close(self) -> None:
        """Say that there will be no further pass."""
        for hook in self._hooks:
            hook.remove()

    def finish(self) -> None:
        """Say that this process needs no further pass, and make those that the others still need.

        Raises:
            EvaluationDropped: A process was asked to stop.
        """
        self._until(_NOTHING)

    def _until(self, wanted: float) -> None:
        while (agreed := self._agreed(wanted)) != wanted:
            self._fill(agreed)

    def _agreed(self, wanted: float) -> float:
        flags = self._signals.flags() if self._signals is not None else []
        agreed, *flags = self._ranks.max([wanted, *flags])
        if flags and (stop := agreed_signal(flags)) is not None:
            raise EvaluationDropped(stop)
        return agreed

    @torch.no_grad()
    def _fill(self, kind: float) -> None:
        """Make a pass for the others' sake."""
        cache = RaggedCache(self._reader.device)
        if kind == _PROMPTS:
            cache.change([], [len(self._filler.input_ids)])
            self._model.within_pass(lambda: self._reader.read_prompts([self._filler], cache))
        else:
            cache.change([], [0])
            token = torch.zeros(1, dtype=torch.long, device=self._reader.device)
            self._model.within_pass(lambda: self._reader.read_tokens(token, cache))

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
from torch import Tensor

from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.generation.cache import RaggedCache
from mdl_toolkit.generation.reading import PassKind, PromptReader
from mdl_toolkit.training.evaluation.together import EvaluationDropped, is_interrupted
from mdl_toolkit.training.signals import StopSignals, agreed_signal

if TYPE_CHECKING:
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.model.midashenglm import MiDashengLMModel

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
        """Say that this process needs no further pass."""


class LockstepPasses(FreePasses):
    """Passes of a model that is sharded over the processes.

    Args:
        ranks: The processes of the run.
        signals: The signals that ask the run to stop.
        model: The model.
    """

    def __init__(self, ranks: Ranks, signals: StopSignals | None, model: MiDashengLMModel) -> None:
        super().__init__(ranks, signals)
        self._model, self._reader = model, PromptReader(model)
        config = model.config
        samples = model.geometry.min_samples
        ids = np.full(model.geometry.audio_tokens(samples) + 1, config.audio_token_id)
        ids[-1] = 0 if config.audio_token_id else 1
        self._filler = Prompt(ids, np.zeros(samples, dtype=np.float32), budget=1)

    def __call__(self, kind: PassKind, work: Callable[[], Tensor]) -> Tensor:
        """Make a pass, after those that others need first.

        Raises:
            EvaluationDropped: A process was asked to stop; all processes raise this before the same pass.
        """
        self._until(_WANTS[kind])
        return self._model.within_pass(work)

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

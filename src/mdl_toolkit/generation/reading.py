"""Reading of prompts and tokens by the model, into and beside a cache; what generation and scoring share.

Dimensions: B rows, T tokens of all prompts laid end to end, A audio tokens, S samples, N nodes of a tree,
H decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mdl_toolkit.compat.transformers_decoder import CACHE_NAME
from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.generation.cache import RaggedCache
from mdl_toolkit.generation.tree import TokenTree
from mdl_toolkit.model.midashenglm import MiDashengLMModel

#: Bounds of one packed prefill: what a batch needs of memory doesn't grow with --batch-size beyond them.
PREFILL_TOKENS = 16384
PREFILL_SAMPLES = 16000 * 600


#: What a pass reads: prompts, or one more token of every row.
PassKind = Literal["prompts", "tokens"]


class Passes(Protocol):
    """Makes the passes of a model that isn't this process's alone, or that may be called off."""

    def __call__(self, kind: PassKind, work: Callable[[], Tensor]) -> Tensor:
        """Make a pass: what ``work`` returns."""
        ...


def _at_once(kind: PassKind, work: Callable[[], Tensor]) -> Tensor:  # noqa: ARG001 -- as Passes has it
    return work()


class PromptReader:
    """Runs prompts and tokens through a model.

    Args:
        model: In evaluation mode.
        passes: Makes the passes.
    """

    def __init__(self, model: MiDashengLMModel, passes: Passes = _at_once) -> None:
        self.model, self._pass = model, passes
        self.device = next(model.get_input_embeddings().parameters()).device
        text: Any = model.config.text_config
        self._window = text.sliding_window if getattr(text, "use_sliding_window", False) else None

    def read_prompts(self, prompts: Sequence[Prompt], cache: RaggedCache) -> Tensor:
        """Run prompts through the model, packed, as the last rows of a cache; their last states, [B, H]."""
        lasts = []
        before = len(cache.lengths) - len(prompts)
        for first, stop in _groups(prompts):
            group = prompts[first:stop]
            lengths = [len(prompt.input_ids) for prompt in group]
            ids = torch.from_numpy(np.concatenate([prompt.input_ids for prompt in group]))
            positions = torch.cat([torch.arange(length) for length in lengths])
            waveform = torch.from_numpy(np.concatenate([prompt.waveform for prompt in group]))
            placeholders = torch.nonzero(ids == self.model.config.audio_token_id).flatten()
            cache.read(before + first, before + stop)
            ends = torch.tensor(lengths).cumsum(0) - 1
            read = partial(
                self.model.packed_hidden,
                ids.to(self.device),
                positions.to(self.device),
                waveform.to(self.device),
                [len(prompt.waveform) for prompt in group],
                lengths,
                placeholders.to(self.device),
                keep_rows=ends.to(self.device),
                **{CACHE_NAME: cache},
            )
            lasts.append(self._pass("prompts", read))
        return torch.cat(lasts)

    def read_tokens(self, tokens: Tensor, cache: RaggedCache) -> Tensor:
        """Run one more token of every row, [B], through the decoder; the states, [B, H]."""
        positions, mask = cache.step()
        masks = {"full_attention": mask, "sliding_attention": mask}
        if self._window is not None and mask.shape[-1] > self._window:
            columns = torch.arange(mask.shape[-1], device=self.device)
            masks["sliding_attention"] = mask & (columns > positions[:, :, None, None] - self._window)

        def read() -> Tensor:
            output = self.model.decoder.model(
                inputs_embeds=self.model.get_input_embeddings()(tokens)[:, None],
                position_ids=positions,
                attention_mask=masks,
                use_cache=False,
                **{CACHE_NAME: cache},
            )
            states: Tensor = output.last_hidden_state
            return states[:, 0]

        return self._pass("tokens", read)

    def read_trees(self, rows: Sequence[int], trees: Sequence[TokenTree], cache: RaggedCache) -> Tensor:
        """Run a tree after each of some rows through the decoder; the cache stays as it is.

        Returns:
            The states of the nodes, [B, N, H], those of a smaller tree filled up at the end.
        """
        nodes = max(len(tree.tokens) for tree in trees)
        before = cache.aside(rows)
        tokens = np.zeros((len(rows), nodes), dtype=np.int64)
        depths = np.zeros_like(tokens)
        sees = np.zeros((len(rows), nodes, before + nodes), dtype=bool)
        places = np.zeros((len(rows), before + nodes), dtype=np.int64)
        for number, (row, tree) in enumerate(zip(rows, trees, strict=True)):
            count, length = len(tree.tokens), cache.lengths[row]
            tokens[number, :count], depths[number, :count] = tree.tokens, tree.depths
            sees[number, :, :length] = True
            sees[number, :count, before : before + count] = tree.sees
            places[number, :before] = np.arange(before)
            places[number, before:] = length + depths[number]
        masks = {"full_attention": sees, "sliding_attention": sees}
        if self._window is not None and before + nodes > self._window:
            near = places[:, None, :] > places[:, before:, None] - self._window
            masks["sliding_attention"] = sees & near
        output = self.model.decoder.model(
            inputs_embeds=self.model.get_input_embeddings()(torch.from_numpy(tokens).to(self.device)),
            position_ids=torch.from_numpy(places[:, before:]).to(self.device),
            attention_mask={
                name: torch.from_numpy(mask)[:, None].to(self.device) for name, mask in masks.items()
            },
            use_cache=False,
            **{CACHE_NAME: cache},
        )
        states: Tensor = output.last_hidden_state
        return states


def _groups(prompts: Sequence[Prompt]) -> list[tuple[int, int]]:
    """Runs of prompts that are read together: within the bounds, one at least."""
    groups, first, tokens, samples = [], 0, 0, 0
    for row, prompt in enumerate(prompts):
        tokens, samples = tokens + len(prompt.input_ids), samples + len(prompt.waveform)
        if row > first and (tokens > PREFILL_TOKENS or samples > PREFILL_SAMPLES):
            groups.append((first, row))
            first, tokens, samples = row, len(prompt.input_ids), len(prompt.waveform)
    return [*groups, (first, len(prompts))]

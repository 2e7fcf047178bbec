"""Answers to prompts: packed prefill, a cache sized to need, the next rows where others have ended.

Letters: B rows, T tokens of all prompts end to end, A audio tokens, S samples, H decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdl_toolkit.infer.cache import RaggedCache
from mdl_toolkit.model.midashenglm import CACHE_NAME, MiDashengLMModel

#: Bounds of one packed prefill: what a batch needs of memory doesn't grow with --batch-size beyond them.
PREFILL_TOKENS = 16384
PREFILL_SAMPLES = 16000 * 600
#: Rows are taken out and filled up when one in so many has ended: a change costs about as much as a step.
_REFILL = 8


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen; the names are those of the command line."""

    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    seed: int = 42


@dataclass(frozen=True)
class Prompt:
    """What a row asks.

    Attributes:
        input_ids: int64 [tokens], with a placeholder for each audio token.
        waveform: float32 [samples], 16 kHz.
        budget: Tokens that the answer may have, its end token included.
        key: Tells the row's random numbers from others'.
    """

    input_ids: NDArray[np.int64]
    waveform: NDArray[np.float32]
    budget: int
    key: int = 0


@dataclass
class Answer:
    """What came out.

    Attributes:
        tokens: Ids, without the token that ended the answer.
        finished: False where the budget ended it.
    """

    tokens: list[int] = field(default_factory=list)
    finished: bool = False


class Generator:
    """Generates answers.

    Args:
        model: In evaluation mode.
        end_ids: Tokens that end an answer.
        decoding: How tokens are chosen.
    """

    def __init__(
        self, model: MiDashengLMModel, end_ids: Sequence[int], decoding: Decoding | None = None
    ) -> None:
        self.model = model
        self.end_ids = frozenset(end_ids)
        self.decoding = decoding or Decoding()
        self.device = next(model.get_input_embeddings().parameters()).device
        text: Any = model.config.text_config
        self._window = text.sliding_window if getattr(text, "use_sliding_window", False) else None
        self._processors = self._make_processors()

    def _make_processors(self) -> list[Any]:
        """The library's processors and warpers, in its order."""
        from transformers import (
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        chosen: list[Any] = []
        if self.decoding.repetition_penalty != 1.0:
            chosen.append(RepetitionPenaltyLogitsProcessor(self.decoding.repetition_penalty))
        if self.decoding.do_sample:
            if self.decoding.temperature != 1.0:
                chosen.append(TemperatureLogitsWarper(self.decoding.temperature))
            if self.decoding.top_k:
                chosen.append(TopKLogitsWarper(self.decoding.top_k))
            if self.decoding.top_p < 1.0:
                chosen.append(TopPLogitsWarper(self.decoding.top_p))
        return chosen

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Answers to some prompts, in their order."""
        answers = dict(self.stream(prompts, len(prompts)))
        return [answers[place] for place in range(len(prompts))]

    def stream(self, prompts: Iterable[Prompt], slots: int) -> Iterator[tuple[int, Answer]]:
        """Answer prompts, some at a time. Where rows have ended, the next prompts take their places.

        Which rows run together depends on the prompts and their answers alone.

        Args:
            prompts: Each with a budget of at least 1; taken when there is room for them.
            slots: Rows that run at a time.

        Yields:
            The place of a prompt among the prompts, and its answer, as soon as that has ended.
        """
        places = enumerate(prompts)
        if self.decoding.num_beams > 1:
            while batch := list(islice(places, slots)):
                answers = self._beams([prompt for _, prompt in batch])
                yield from zip([place for place, _ in batch], answers, strict=True)
            return
        running = _Running(self, slots)
        ended = False
        while not ended or running.rows:
            if not ended and running.free >= (max(1, slots // _REFILL) if running.rows else 1):
                new = list(islice(places, running.free))
                ended = len(new) < running.free
                if new:
                    yield from running.add(new)
            if running.rows:
                yield from running.step()

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
            states = self.model.packed_hidden(
                ids.to(self.device),
                positions.to(self.device),
                waveform.to(self.device),
                [len(prompt.waveform) for prompt in group],
                lengths,
                placeholders.to(self.device),
                keep_rows=ends.to(self.device),
                **{CACHE_NAME: cache},
            )
            lasts.append(states)
        return torch.cat(lasts)

    def read_tokens(self, tokens: Tensor, cache: RaggedCache) -> Tensor:
        """Run one more token of every row, [B], through the decoder; the states, [B, H]."""
        positions, mask = cache.step()
        masks = {"full_attention": mask, "sliding_attention": mask}
        if self._window is not None and mask.shape[-1] > self._window:
            columns = torch.arange(mask.shape[-1], device=self.device)
            masks["sliding_attention"] = mask & (columns > positions[:, :, None, None] - self._window)
        output = self.model.decoder.model(
            inputs_embeds=self.model.get_input_embeddings()(tokens)[:, None],
            position_ids=positions,
            attention_mask=masks,
            use_cache=False,
            **{CACHE_NAME: cache},
        )
        states: Tensor = output.last_hidden_state
        return states[:, 0]

    def choose(self, states: Tensor, rows: Sequence[_Row]) -> list[int]:
        """The next token of each row for its state, [B, H].

        A row's random numbers depend on the seed and the row alone.
        """
        logits = self.model.get_output_embeddings()(states).float()
        if self._processors:
            ids = self._histories(rows)
            for processor in self._processors:
                logits = processor(ids, logits)
        if self.decoding.do_sample:
            draws = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
            tokens = _draw(logits, draws.to(self.device))
        else:
            tokens = logits.argmax(-1)
        return [int(token) for token in tokens.tolist()]

    def _histories(self, rows: Sequence[_Row]) -> Tensor:
        """Prompts and answers so far, [B, longest], filled up with a token that the row has anyway."""
        if self.decoding.repetition_penalty == 1.0:
            return torch.empty((len(rows), 0), dtype=torch.long, device=self.device)
        histories = [[*row.prompt.input_ids.tolist(), *row.answer.tokens] for row in rows]
        longest = max(map(len, histories))
        filled = [[history[0]] * (longest - len(history)) + history for history in histories]
        return torch.tensor(filled, device=self.device)

    def _beams(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Beam search is the library's; rows of one budget go together, so that each has its own limit."""
        answers: dict[int, Answer] = {}
        for budget in sorted({prompt.budget for prompt in prompts}):
            rows = [row for row, prompt in enumerate(prompts) if prompt.budget == budget]
            answers.update(zip(rows, self._beam_search([prompts[row] for row in rows]), strict=True))
        return [answers[row] for row in range(len(prompts))]

    def _beam_search(self, prompts: Sequence[Prompt]) -> list[Answer]:
        from transformers import GenerationConfig

        longest = max(len(prompt.input_ids) for prompt in prompts)
        pad = min(self.end_ids)
        ids = torch.full((len(prompts), longest), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.input_ids) :] = torch.from_numpy(prompt.input_ids)
            mask[row, longest - len(prompt.input_ids) :] = 1
        samples = [len(prompt.waveform) for prompt in prompts]
        waveform = torch.zeros(len(prompts), max(samples))
        for row, prompt in enumerate(prompts):
            waveform[row, : samples[row]] = torch.from_numpy(prompt.waveform)
        config = GenerationConfig(
            num_beams=self.decoding.num_beams,
            max_new_tokens=prompts[0].budget,
            repetition_penalty=self.decoding.repetition_penalty,
            eos_token_id=sorted(self.end_ids),
            pad_token_id=pad,
        )
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                input_values=waveform.to(self.device),
                audio_length=samples,
                generation_config=config,
            )
        found = []
        for tokens in output[:, longest:].tolist():
            end = next((place for place, token in enumerate(tokens) if token in self.end_ids), None)
            found.append(Answer(tokens[:end], end is not None))
        return found


@dataclass
class _Row:
    """An answer that is being made."""

    place: int
    prompt: Prompt
    answer: Answer
    random: np.random.Generator
    last: int = 0


class _Running:
    """The rows that run together.

    Rows that have ended stay until so many have that it pays to take them out; they cost a little until then.
    """

    def __init__(self, generator: Generator, slots: int) -> None:
        self._generator, self._slots = generator, slots
        self._cache = RaggedCache(generator.device)
        self._all: list[_Row | None] = []

    @property
    def rows(self) -> list[_Row]:
        """Rows whose answers go on."""
        return [row for row in self._all if row is not None]

    @property
    def free(self) -> int:
        """Rows that can join."""
        return self._slots - len(self.rows)

    def add(self, prompts: Sequence[tuple[int, Prompt]]) -> Iterator[tuple[int, Answer]]:
        """Let rows join; answers that end with their first token are given."""
        seed = self._generator.decoding.seed
        new = [
            _Row(place, p, Answer(), np.random.Generator(np.random.Philox(key=(seed, p.key))))
            for place, p in prompts
        ]
        self._compact([len(row.prompt.input_ids) for row in new])
        self._all += new
        with torch.inference_mode():
            states = self._generator.read_prompts([row.prompt for row in new], self._cache)
            tokens = self._generator.choose(states, new)
        yield from self._take(new, tokens)

    def step(self) -> Iterator[tuple[int, Answer]]:
        """Make one more token of every row; answers that end with it are given."""
        if len(self._all) - len(self.rows) >= max(1, len(self._all) // _REFILL):
            self._compact([])
        with torch.inference_mode():
            last = torch.tensor([0 if row is None else row.last for row in self._all])
            states = self._generator.read_tokens(last.to(self._generator.device), self._cache)
            going = [place for place, row in enumerate(self._all) if row is not None]
            if len(going) < len(self._all):
                states = states[torch.tensor(going, device=states.device)]
            rows = self.rows
            tokens = self._generator.choose(states, rows)
        yield from self._take(rows, tokens)

    def _take(self, rows: Sequence[_Row], tokens: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        done = []
        for row, token in zip(rows, tokens, strict=True):
            row.last = token
            row.answer.finished = token in self._generator.end_ids
            if not row.answer.finished:
                row.answer.tokens.append(token)
            if row.answer.finished or len(row.answer.tokens) == row.prompt.budget:
                done.append(row)
        ended = {id(row) for row in done}
        self._all = [None if id(row) in ended else row for row in self._all]
        for row in done:
            yield row.place, row.answer

    def _compact(self, add: Sequence[int]) -> None:
        keep = [place for place, row in enumerate(self._all) if row is not None]
        self._cache.change(keep, add)
        self._all = [self._all[place] for place in keep]


def _draw(logits: Tensor, draws: Tensor) -> Tensor:
    """Tokens [B] by inversion: where the running sum of probabilities passes a number in [0, 1)."""
    sums = torch.softmax(logits.double(), -1).cumsum(-1)
    places = torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)[:, 0]
    return places.clamp_(max=logits.shape[-1] - 1)


def _groups(prompts: Sequence[Prompt]) -> list[tuple[int, int]]:
    """Runs of prompts that are read together: within the bounds, one at least."""
    groups, first, tokens, samples = [], 0, 0, 0
    for row, prompt in enumerate(prompts):
        tokens, samples = tokens + len(prompt.input_ids), samples + len(prompt.waveform)
        if row > first and (tokens > PREFILL_TOKENS or samples > PREFILL_SAMPLES):
            groups.append((first, row))
            first, tokens, samples = row, len(prompt.input_ids), len(prompt.waveform)
    return [*groups, (first, len(prompts))]

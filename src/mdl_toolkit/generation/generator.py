"""Answers to prompts: packed prefill, a cache sized to need, the next rows where others have ended.

Dimensions: B rows, T tokens of all prompts laid end to end, A audio tokens, S samples, H decoder width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdl_toolkit.generation.answer import Answer, Prompt, likeliest_first
from mdl_toolkit.generation.beams import beam_search
from mdl_toolkit.generation.cache import RaggedCache
from mdl_toolkit.generation.decoding import Decoding
from mdl_toolkit.generation.likelihood import logprobs_of, score_answers
from mdl_toolkit.generation.processors import make_processors, process
from mdl_toolkit.generation.reading import Passes, PromptReader
from mdl_toolkit.model.midashenglm import MiDashengLMModel

#: Rows are taken out and filled up when one in so many has ended: a change costs about as much as a step.
_REFILL = 8


class Generator(PromptReader):
    """Generates answers.

    Args:
        model: In evaluation mode.
        end_ids: Tokens that end an answer.
        decoding: How tokens are chosen.
        scores: Whether answers get the log-probabilities of their tokens.
        passes: Makes the model's passes where they can't simply be made: within a training. Nothing that the
            model keeps is then made in inference mode, as that could not be trained any more.
    """

    def __init__(
        self,
        model: MiDashengLMModel,
        end_ids: Sequence[int],
        decoding: Decoding | None = None,
        scores: bool = False,
        passes: Passes | None = None,
    ) -> None:
        super().__init__(model, *([] if passes is None else [passes]))
        self.without_gradients = torch.inference_mode if passes is None else torch.no_grad
        self.end_ids = frozenset(end_ids)
        self.decoding = decoding or Decoding()
        self.scores = scores
        #: Whether an end token may be forced where the limit is: it then doesn't mean that the answer ended.
        self.forces_end = self.decoding.generation_config().forced_eos_token_id is not None

    def processors(self, prompt: Prompt) -> list[Any]:
        """Transformers' processors for a row alone."""
        settings, ends = self.decoding.generation_config(), sorted(self.end_ids)
        return make_processors(
            settings, self.model.config, ends, len(prompt.input_ids), prompt.budget, self.device
        )

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
        if self.decoding.beams > 1:
            while batch := list(islice(places, slots)):
                yield from zip([place for place, _ in batch], self._search(batch), strict=True)
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

    def _search(self, batch: Sequence[tuple[int, Prompt]]) -> list[Answer]:
        """Answers by beam search; what the beams add up is after all settings, so answers are scored anew.

        Of several answers to a prompt the most probable is the answer, where probabilities are wanted.
        """
        prompts = [prompt for _, prompt in batch]
        found = beam_search(self.model, sorted(self.end_ids), self.decoding, prompts)
        if self.scores:
            said = [[beam.said for beam in beams] for beams in found]
            for beams, scored in zip(found, score_answers(self, prompts, said), strict=True):
                for beam, logprobs in zip(beams, scored, strict=True):
                    beam.answer.logprobs = logprobs
        answers = [[beam.answer for beam in beams] for beams in found]
        if self.scores:
            answers = [likeliest_first(some) for some in answers]
        for first, *others in answers:
            first.others = others
        return [first for first, *_ in answers]

    def choose(self, states: Tensor, rows: Sequence[_GrowingAnswer]) -> list[tuple[int, float | None]]:
        """The next token of each row for its state, [B, H], and its log-probability where that is wanted.

        A row's random numbers depend on the seed and the row alone.
        """
        said = self.model.get_output_embeddings()(states).float()
        logits = said
        if rows[0].processors:
            # They may change what they get.
            logits = said.clone() if self.scores else said
            logits = process(logits, [row.processors for row in rows], [row.tokens for row in rows])
        if self.decoding.samples:
            draws = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
            tokens = _draw(logits, draws.to(self.device))
        else:
            tokens = logits.argmax(-1)
        chosen = tokens.tolist()
        if not self.scores:
            return [(token, None) for token in chosen]
        every = torch.arange(len(rows), device=self.device)
        return list(zip(chosen, logprobs_of(said, every, tokens).tolist(), strict=True))


@dataclass
class _GrowingAnswer:
    """An answer that is being made.

    Attributes:
        place: The prompt's place among the prompts.
        prompt: What is asked.
        answer: What has been generated so far.
        random: The random numbers of this answer alone.
        processors: Those of this answer alone, since some count or remember.
        ids: Room for prompt and answer, int64.
        last: The newest token.
    """

    place: int
    prompt: Prompt
    answer: Answer
    random: np.random.Generator
    processors: list[Any]
    ids: NDArray[np.int64]
    last: int = 0

    @classmethod
    def begin(cls, place: int, prompt: Prompt, generator: Generator) -> _GrowingAnswer:
        """A row whose answer is still empty."""
        random = np.random.Generator(np.random.Philox(key=(generator.decoding.seed, prompt.key)))
        # Zeros are given out by the system when they are first touched: a limit beyond need costs nothing.
        ids = np.zeros(len(prompt.input_ids) + prompt.budget, dtype=np.int64)
        ids[: len(prompt.input_ids)] = prompt.input_ids
        answer = Answer(logprobs=[] if generator.scores else None)
        return cls(place, prompt, answer, random, generator.processors(prompt), ids)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Prompt and answer so far."""
        return self.ids[: len(self.prompt.input_ids) + len(self.answer.tokens)]

    def take(self, token: int, logprob: float | None, generator: Generator) -> bool:
        """Take in the next token and its log-probability; whether the answer is done."""
        answer, budget = self.answer, self.prompt.budget
        self.last = token
        ends = token in generator.end_ids
        if ends:
            answer.finished = not (generator.forces_end and len(answer.tokens) + 1 == budget)
        if answer.logprobs is not None and logprob is not None and (answer.finished or not ends):
            answer.logprobs.append(logprob)
        if ends:
            return True
        self.ids[len(self.tokens)] = token
        answer.tokens.append(token)
        stop = generator.decoding.stop
        answer.finished = stop is not None and bool(stop(torch.from_numpy(self.tokens)[None], None)[0])
        return answer.finished or len(answer.tokens) == budget


class _Running:
    """The rows that run together.

    Rows that have ended stay until so many have that it pays to take them out; they cost a little until then.
    """

    def __init__(self, generator: Generator, slots: int) -> None:
        self._generator, self._slots = generator, slots
        self._cache = RaggedCache(generator.device)
        self._all: list[_GrowingAnswer | None] = []

    @property
    def rows(self) -> list[_GrowingAnswer]:
        """Rows whose answers aren't finished."""
        return [row for row in self._all if row is not None]

    @property
    def free(self) -> int:
        """Rows that can join."""
        return self._slots - len(self.rows)

    def add(self, prompts: Sequence[tuple[int, Prompt]]) -> Iterator[tuple[int, Answer]]:
        """Let rows join; answers that end with their first token are given."""
        new = [_GrowingAnswer.begin(place, prompt, self._generator) for place, prompt in prompts]
        self._compact([len(row.prompt.input_ids) for row in new])
        self._all += new
        with self._generator.without_gradients():
            states = self._generator.read_prompts([row.prompt for row in new], self._cache)
            tokens = self._generator.choose(states, new)
        yield from self._take(new, tokens)

    def step(self) -> Iterator[tuple[int, Answer]]:
        """Make one more token of every row; answers that end with it are given."""
        if len(self._all) - len(self.rows) >= max(1, len(self._all) // _REFILL):
            self._compact([])
        with self._generator.without_gradients():
            last = torch.tensor([0 if row is None else row.last for row in self._all])
            states = self._generator.read_tokens(last.to(self._generator.device), self._cache)
            going = [place for place, row in enumerate(self._all) if row is not None]
            if len(going) < len(self._all):
                states = states[torch.tensor(going, device=states.device)]
            rows = self.rows
            tokens = self._generator.choose(states, rows)
        yield from self._take(rows, tokens)

    def _take(
        self, rows: Sequence[_GrowingAnswer], tokens: Sequence[tuple[int, float | None]]
    ) -> Iterator[tuple[int, Answer]]:
        done = [row for row, chosen in zip(rows, tokens, strict=True) if row.take(*chosen, self._generator)]
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

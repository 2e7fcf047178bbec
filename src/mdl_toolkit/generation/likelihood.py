"""How likely given answers are: the prompt is read once, and what several answers begin with, too.

Probabilities are the model's own, as it is trained: no temperature, penalty or other setting of generation
changes them.

Dimensions: B rows, N nodes of a tree, M edges (a state and the token after it), H decoder width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from mdl_toolkit.generation.answer import Answer, Prompt, ranked_choices
from mdl_toolkit.generation.cache import RaggedCache
from mdl_toolkit.generation.reading import PromptReader
from mdl_toolkit.generation.tree import TokenTree, grow_trees

#: Nodes of all trees that are read together.
_TOGETHER = 8192
#: Logits in flight; they are looked at in double precision: 128 MiB.
_LOGITS = 1 << 24


def logprobs_of(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Logarithms of tokens' probabilities, [M], in double precision.

    Args:
        logits: [B, V].
        rows: [M] the row of each token.
        tokens: [M].
    """
    size = max(1, _LOGITS // logits.shape[-1])
    norms = torch.cat([part.double().logsumexp(-1) for part in torch.split(logits, size)])
    return logits[rows, tokens].double() - norms[rows]


def score_answers(
    reader: PromptReader, prompts: Sequence[Prompt], answers: Sequence[Sequence[Sequence[int]]]
) -> list[list[list[float]]]:
    """Logarithms of the probabilities of the tokens of given answers.

    Args:
        reader: Has the model.
        prompts: What is asked.
        answers: For each prompt some sequences of tokens, as they would follow it, with the token that ends
            an answer where that counts. An empty one has no probabilities.

    Returns:
        A number for each token of each answer to each prompt.
    """
    given = [[place for place, tokens in enumerate(some) if tokens] for some in answers]
    trees = [grow_trees([some[place] for place in kept]) for some, kept in zip(answers, given, strict=True)]
    found = _score(reader, prompts, trees)
    scored: list[list[list[float]]] = [[[] for _ in some] for some in answers]
    for row, kept in enumerate(given):
        for number, place in enumerate(kept):
            scored[row][place] = found[row][number]
    return scored


class ChoiceScorer(PromptReader):
    """Answers prompts with the likeliest of their choices.

    A choice is as likely as the model is to say it and then to end: the sum over its tokens and the end
    token, not their mean. So a longer choice is less likely only as far as its further tokens are in doubt.

    Args:
        model: In evaluation mode.
    """

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Answers to some prompts, in their order."""
        answers = dict(self.stream(prompts, len(prompts)))
        return [answers[place] for place in range(len(prompts))]

    def stream(self, prompts: Iterable[Prompt], slots: int) -> Iterator[tuple[int, Answer]]:
        """Answer prompts, some at a time.

        Args:
            prompts: Each with choices; taken when it is their turn.
            slots: Prompts that are read together.

        Yields:
            The place of a prompt among the prompts, and its answer.
        """
        places = enumerate(prompts)
        while batch := list(islice(places, slots)):
            asked = [prompt for _, prompt in batch]
            choices = [prompt.choices for prompt in asked if prompt.choices is not None]
            scored = _score(self, asked, [some.trees for some in choices])
            for (place, _), some, logprobs in zip(batch, choices, scored, strict=True):
                ranked = ranked_choices([float(np.sum(tokens)) for tokens in logprobs])
                best = ranked[0][0]
                yield place, Answer(list(some.tokens[best][:-1]), True, logprobs[best], ranked=ranked)


@torch.inference_mode()
def _score(
    reader: PromptReader, prompts: Sequence[Prompt], trees: Sequence[Sequence[TokenTree]]
) -> list[list[list[float]]]:
    """For each prompt the numbers of the sequences that its trees were grown of, in their order."""
    cache = RaggedCache(reader.device)
    cache.change([], [len(prompt.input_ids) for prompt in prompts])
    lasts = reader.read_prompts(prompts, cache)
    found: list[dict[int, list[float]]] = [{} for _ in prompts]
    for group in _together(trees):
        rows = [row for row, _ in group]
        some = [tree for _, tree in group]
        states = lasts[torch.tensor(rows, device=reader.device)][:, None]
        if any(len(tree.tokens) for tree in some):
            states = torch.cat([states, reader.read_trees(rows, some, cache)], 1)
        for row, tree, numbers in zip(rows, some, _edges(reader, states, some), strict=True):
            for member, path in zip(tree.members, tree.paths, strict=True):
                found[row][member] = [numbers[step] for step in path]
    return [[numbers[place] for place in sorted(numbers)] for numbers in found]


def _together(trees: Sequence[Sequence[TokenTree]]) -> Iterator[list[tuple[int, TokenTree]]]:
    """Rows and trees that are read together: of like size, within the bound, one at least."""
    every = [(row, tree) for row, some in enumerate(trees) for tree in some]
    every.sort(key=lambda pair: (-len(pair[1].tokens), pair[0]))
    while every:
        count = max(1, _TOGETHER // max(1, len(every[0][1].tokens)))
        yield every[:count]
        every = every[count:]


def _edges(reader: PromptReader, states: Tensor, trees: Sequence[TokenTree]) -> list[list[float]]:
    """The numbers of the edges of each tree.

    Args:
        reader: Has the model.
        states: [B, 1 + N, H].
        trees: One for each row.
    """
    offsets = np.repeat(np.arange(len(trees)) * states.shape[1], [len(tree.edges) for tree in trees])
    edges = np.concatenate([tree.edges for tree in trees])
    needed, places = np.unique(edges[:, 0] + offsets, return_inverse=True)
    head, device = reader.model.get_output_embeddings(), states.device
    wanted = states.flatten(0, 1)[torch.from_numpy(needed).to(device)]
    size = max(1, _LOGITS // reader.model.config.text_config.vocab_size)
    numbers = np.empty(len(edges))
    for first in range(0, len(needed), size):
        chosen = np.flatnonzero((places >= first) & (places < first + size))
        rows = torch.from_numpy(places[chosen] - first).to(device)
        tokens = torch.from_numpy(edges[chosen, 1]).to(device)
        logits = head(wanted[first : first + size]).float()
        numbers[chosen] = logprobs_of(logits, rows, tokens).cpu().numpy()
    counts = [len(tree.edges) for tree in trees]
    return [some.tolist() for some in np.split(numbers, np.cumsum(counts)[:-1])]

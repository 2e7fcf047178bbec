"""Choosing among given answers: as a tree beside one reading of the prompt, against a row for each choice.

    python -m benchmarks.model.choices [--clips 4] [--counts 10 100] [--repeats 3]

A model of 113 M parameters with random weights, clips of 0.1 to 5 s, choices of one to four words of 40, so
that some begin alike. A row for each choice is read packed, 32 together, its recording with it; only logits
that count are formed. Both give the same numbers, and the largest difference is told. `cpu_ratio` compares
processor time, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import SHAPE, emit, spread
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.generation.answer import Choices, Prompt
from mdl_toolkit.generation.likelihood import ChoiceScorer, score_answers

#: Rows that are read together.
TOGETHER = 32
WORDS = [
    "dog", "cat", "bird", "rain", "wind", "engine", "train", "car", "horn", "bell",
    "siren", "crowd", "laughter", "speech", "music", "guitar", "piano", "drum", "violin", "flute",
    "water", "waves", "thunder", "door", "steps", "keyboard", "phone", "clock", "fire", "saw",
    "hammer", "drill", "whistle", "cough", "sneeze", "snore", "baby", "clap", "gun", "glass",
]  # fmt: skip


def make_choices(builder: PromptBuilder, count: int) -> Choices:
    rng = np.random.default_rng(0)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" and ".join(rng.choice(WORDS, int(rng.integers(1, 5)), replace=False))] = None
    return Choices(tuple(texts), tuple(builder.answer_tokens(text) for text in texts))


def make_prompts(builder: PromptBuilder, count: int) -> list[Prompt]:
    rng = np.random.default_rng(1)
    prompts = []
    for _ in range(count):
        samples = int(rng.uniform(0.1, 5.0) * 16000)
        waveform = (rng.standard_normal(samples) * 0.1).astype(np.float32)
        tokens = builder.geometry.audio_tokens(samples)
        prompts.append(Prompt(builder.encode(None, "What is heard?", tokens, None).input_ids, waveform, 1))
    return prompts


@torch.inference_mode()
def row_by_row(model: Any, prompts: list[Prompt], choices: Choices) -> np.ndarray:
    """Each choice behind its own reading of the prompt: [prompts, choices]."""
    rows = [(prompt, np.array(said)) for prompt in prompts for said in choices.tokens]
    sums: list[float] = []
    for first in range(0, len(rows), TOGETHER):
        group = rows[first : first + TOGETHER]
        ids = torch.from_numpy(np.concatenate([part for p, said in group for part in (p.input_ids, said)]))
        lengths = [len(p.input_ids) + len(said) for p, said in group]
        starts = np.cumsum([0, *lengths[:-1]])
        places = [
            start + len(p.input_ids) - 1 + np.arange(len(said))
            for start, (p, said) in zip(starts, group, strict=True)
        ]
        kept = torch.from_numpy(np.concatenate(places))
        hidden = model.packed_hidden(
            ids,
            torch.cat([torch.arange(length) for length in lengths]),
            torch.from_numpy(np.concatenate([p.waveform for p, _ in group])),
            [len(p.waveform) for p, _ in group],
            lengths,
            torch.nonzero(ids == model.config.audio_token_id).flatten(),
            keep_rows=kept,
        )
        logs = torch.log_softmax(model.get_output_embeddings()(hidden).double(), -1)
        found = logs[torch.arange(len(kept)), ids[kept + 1]]
        sums += [float(part.sum()) for part in torch.split(found, [len(said) for _, said in group])]
    return np.array(sums).reshape(len(prompts), -1)


def run_count(model: Any, prompts: list[Prompt], choices: Choices, repeats: int) -> None:
    asked = [replace(prompt, choices=choices) for prompt in prompts]
    scorer = ChoiceScorer(model)
    answers = scorer(asked)
    expected = np.empty(0)
    times: dict[str, list[float]] = {"tree": [], "rows": []}
    cpu: dict[str, list[float]] = {"tree": [], "rows": []}
    for _ in range(repeats):
        for tool in times:
            start, begun = time.perf_counter(), time.process_time()
            if tool == "tree":
                answers = scorer(asked)
            else:
                expected = row_by_row(model, prompts, choices)
            times[tool].append(time.perf_counter() - start)
            cpu[tool].append(time.process_time() - begun)
    every = [list(map(list, choices.tokens))] * len(prompts)
    scored = np.array([[sum(said) for said in row] for row in score_answers(scorer, prompts, every)])
    emit(
        "choices",
        ("torch", "transformers"),
        choices=len(choices.texts),
        tokens=round(float(np.mean([len(said) for said in choices.tokens])), 1),
        nodes=sum(len(tree.tokens) for tree in choices.trees),
        clips=len(prompts),
        clips_per_second={tool: spread([len(prompts) / s for s in some], 2) for tool, some in times.items()},
        ratio=spread([rows / tree for tree, rows in zip(*times.values(), strict=True)], 1),
        cpu_ratio=spread([rows / tree for tree, rows in zip(*cpu.values(), strict=True)], 1),
        cpu_seconds={tool: spread(some, 2) for tool, some in cpu.items()},
        same_answers=sum(
            answer.ranked is not None and answer.ranked[0][0] == int(row.argmax())
            for answer, row in zip(answers, expected, strict=True)
        ),
        largest_difference=float(np.abs(scored - expected).max()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from mdl_toolkit.model_folders.load import load_model
    from support.models.tiny import make_model_folder

    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model_folder(Path(scratch) / "model", **SHAPE)
        model = load_model(folder, dtype=torch.bfloat16 if args.bf16 else torch.float32)
        builder = PromptBuilder(folder)
        prompts = make_prompts(builder, args.clips)
        for count in args.counts:
            run_count(model, prompts, make_choices(builder, count), args.repeats)


if __name__ == "__main__":
    main()

"""Answers made while training: which rows, from which prompts, by how many processes, in how much memory."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.generation.config_file import GenerationFile
from mdl_toolkit.generation.decoding import Decoding
from mdl_toolkit.generation.generator import Generator
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.terminal.interrupts import STOP_SIGNALS
from mdl_toolkit.training.batches.loader import MicroBatches
from mdl_toolkit.training.batches.synchronized import NoBatch
from mdl_toolkit.training.evaluation.answers import AnsweredRow, Answering, AnswersOfSet
from mdl_toolkit.training.evaluation.asked import AnswerBudget, asked_of, chosen_rows, groups_of
from mdl_toolkit.training.evaluation.together import EvaluationDropped
from mdl_toolkit.training.trainable.wrap import Wrapped
from support.training.runs import make_dataset

CPU = torch.device("cpu")
ROWS = 23
BUDGET = AnswerBudget(7)


@pytest.fixture(scope="module")
def data(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> ClipDataset:
    return ClipDataset.open(
        [make_dataset(tmp_path_factory.mktemp("set") / "d", shop.model, rows=ROWS, seed=5)]
    )


@pytest.fixture(scope="module")
def builder(shop: Any) -> PromptBuilder:
    return PromptBuilder(shop.model)


@pytest.fixture(scope="module")
def wrapped(shop: Any) -> Wrapped:
    model = load_model(shop.model, dtype=torch.float32).requires_grad_(False).eval()
    ranks: Any = SimpleNamespace(device=CPU, world_size=1, prefix="")
    return Wrapped(model, ranks, torch.float32)


def process(rank: int = 0, world_size: int = 1) -> Any:
    """One process of a run, of which the others say nothing."""
    return SimpleNamespace(
        rank=rank, world_size=world_size, prefix="", peer_is_lost=False, sum=list, any=bool,
        gather_objects=lambda value: [value],
    )  # fmt: skip


def answers(
    data: ClipDataset,
    builder: PromptBuilder,
    ranks: Any,
    rows: list[int],
    slots: int = 4,
    compiled: bool = False,
) -> AnswersOfSet:
    how = Answering(
        ends=[builder.end_id],
        decoding=Decoding(),
        budget=BUDGET,
        decode=lambda ids: builder.decode(ids, skip_special=True),
        slots=slots,
        compiled=compiled,
    )
    load = MicroBatches(data.folders, data.manifest.audio_token_id, CPU, 0)
    return AnswersOfSet(data, load, ranks, rows, how)


@pytest.fixture(scope="module")
def whole(data: ClipDataset, builder: PromptBuilder, wrapped: Wrapped) -> list[AnsweredRow]:
    """All rows, answered by one process."""
    return answers(data, builder, process(), list(range(ROWS)))(wrapped)


def test_the_prompt_is_what_inference_asks_and_the_reference_is_the_answer(
    data: ClipDataset, builder: PromptBuilder, wrapped: Wrapped, whole: list[AnsweredRow]
):
    generator = Generator(wrapped.model, [builder.end_id])
    assert [row.index for row in whole] == list(range(ROWS))
    for row in whole:
        example = data[row.index]
        tokens = builder.geometry.audio_tokens(len(example.waveform))
        asked = builder.encode(None, "What is it?", tokens, None)
        learned = example.labels[example.labels != -100]
        assert row.reference == builder.decode(learned[:-1])
        assert "What is it?" in row.prompt and row.reference not in row.prompt
        prompt = Prompt(asked.input_ids, example.waveform, BUDGET.limit)
        answer = generator([prompt])[0]
        assert row.prediction == builder.decode(answer.tokens, skip_special=True)
        assert row.cut is not answer.finished


def test_the_first_of_several_turns_is_the_answer(data: ClipDataset):
    """What follows a gap in the supervised tokens is another turn."""
    load = MicroBatches(data.folders, data.manifest.audio_token_id, CPU, 0)
    batch = next(load([(3,)]))
    gone = torch.cat([batch.target_positions[:1], batch.target_positions[2:]])
    changed = SimpleNamespace(**{**vars(batch), "target_positions": gone})
    changed.to = lambda _device: changed
    (asked,) = asked_of(changed, BUDGET)  # type: ignore[arg-type]
    assert asked.reference == batch.targets[:1].tolist()
    assert len(asked.prompt.input_ids) == int(batch.target_positions[0]) + 1


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_any_number_of_processes_gives_the_same_answers(
    data: ClipDataset, builder: PromptBuilder, wrapped: Wrapped, whole: list[AnsweredRow], world_size: int
):
    found = []
    for rank in range(world_size):
        found += answers(data, builder, process(rank, world_size), list(range(ROWS)))(wrapped)
    assert sorted(found, key=lambda row: row.index) == whole


def test_rows_are_chosen_once_and_for_all(data: ClipDataset, shop: Any, tmp_path: Path):
    assert chosen_rows(data, 0) == list(range(ROWS)) == chosen_rows(data, 99)
    few, more = chosen_rows(data, 5), chosen_rows(data, 9)
    assert len(few) == 5 and len(more) == 9 and set(few) < set(more) and few != list(range(5))
    mute = ClipDataset.open([make_dataset(tmp_path / "d", shop.model, rows=4)])
    mute.supervised = mute.supervised.copy()
    mute.supervised[1] = 0
    assert chosen_rows(mute, 0) == [0, 2, 3] == chosen_rows(mute, 4), "a row without an answer is left out"


def test_groups_hold_all_rows_once_within_their_bounds(data: ClipDataset, monkeypatch: pytest.MonkeyPatch):
    rows = chosen_rows(data, 17)
    groups = groups_of(data, rows, 4, BUDGET)
    assert sorted(row for group in groups for row in group) == rows and max(map(len, groups)) == 4
    lengths = [int(data.supervised[row]) for group in groups for row in group]
    assert lengths == sorted(lengths, reverse=True), "right answers of like length are made together"
    monkeypatch.setattr("mdl_toolkit.training.evaluation.asked.GROUP_TOKENS", 60)
    for group in groups_of(data, rows, 4, BUDGET):
        tokens = sum(int(data.tokens[row] - data.supervised[row]) + BUDGET.limit for row in group)
        assert len(group) == 1 or tokens <= 60


def test_how_long_an_answer_may_be():
    said = lambda tokens: GenerationFile(honoured={"max_new_tokens": tokens})  # noqa: E731 -- a shorthand
    assert AnswerBudget.of(None, GenerationFile(), 20, None).limit == 128
    assert AnswerBudget.of(None, GenerationFile(), 200, None).limit == 300
    assert AnswerBudget.of(9, said(50), 20, None).limit == 9
    assert AnswerBudget.of(None, said(50), 20, None).limit == 50
    assert AnswerBudget.of(None, said(50), 60, None).limit == 128, "it would cut what is learned"
    budget = AnswerBudget(10, context=100)
    assert [budget.of_prompt(tokens) for tokens in (50, 95, 100, 120)] == [10, 5, 0, 0]


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let prompts of more rows than ``most`` at a time need too much memory; the numbers that were tried."""
    tried: list[int] = []
    read = Generator.read_prompts

    def reading(self: Any, prompts: Any, cache: Any) -> Any:
        tried.append(len(prompts))
        if len(prompts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return read(self, prompts, cache)

    monkeypatch.setattr(Generator, "read_prompts", reading)
    return tried


def test_where_memory_runs_out_fewer_rows_run_together(
    data: ClipDataset, builder: PromptBuilder, wrapped: Wrapped, whole: list[AnsweredRow],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    tried = short_of_memory(monkeypatch, 2)
    found = answers(data, builder, process(), list(range(ROWS)), slots=8)(wrapped)
    assert [row.prediction for row in found] == [row.prediction for row in whole]
    assert tried[:3] == [8, 4, 2] and max(tried[3:]) <= 2, "it isn't tried again"


def test_a_row_that_does_not_fit_alone_has_no_answer_and_the_others_have(
    data: ClipDataset, builder: PromptBuilder, wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
):
    short_of_memory(monkeypatch, 0)
    found = answers(data, builder, process(), [3, 7])(wrapped)
    assert [row.prediction for row in found] == [None, None]
    assert all("not enough memory for its" in row.error for row in found)


def test_another_error_is_not_taken_for_want_of_memory(
    data: ClipDataset, builder: PromptBuilder, wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> Any:
        raise RuntimeError("index out of range")

    monkeypatch.setattr(Generator, "read_tokens", fail)
    with pytest.raises(RuntimeError, match="index out of range"):
        answers(data, builder, process(), [3, 7])(wrapped)


class Told:
    """Signals of which one comes when so many passes have been made."""

    def __init__(self, after: Callable[[], bool]) -> None:
        self._after = after

    @property
    def received(self) -> int | None:
        return int(signal.SIGTERM) if self._after() else None

    def flags(self) -> list[float]:
        return [float(self.received == number) for number in STOP_SIGNALS]


def test_a_signal_ends_it_within_a_token(
    data: ClipDataset, builder: PromptBuilder, wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
):
    passes: list[int] = []
    read = Generator.read_tokens

    def reading(self: Any, tokens: Any, cache: Any) -> Any:
        passes.append(len(tokens))
        return read(self, tokens, cache)

    monkeypatch.setattr(Generator, "read_tokens", reading)
    told: Any = Told(lambda: len(passes) >= 3)
    with pytest.raises(EvaluationDropped) as dropped:
        answers(data, builder, process(), list(range(ROWS)))(wrapped, told)
    assert dropped.value.number == signal.SIGTERM and len(passes) <= 4
    monkeypatch.undo()
    late: Any = Told(lambda: False)
    assert len(answers(data, builder, process(), [1, 2])(wrapped, late)) == 2


def test_a_lost_process_ends_it_within_a_token(
    data: ClipDataset, builder: PromptBuilder, wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
):
    """What is left to do is the next exchange, which says who is lost."""
    passes: list[int] = []
    ranks, read = process(), Generator.read_tokens

    def lost(_values: Any) -> Any:
        raise RuntimeError("Connection closed by peer")

    def reading(self: Any, tokens: Any, cache: Any) -> Any:
        passes.append(len(tokens))
        if len(passes) == 3:
            ranks.peer_is_lost, ranks.sum = True, lost
        return read(self, tokens, cache)

    monkeypatch.setattr(Generator, "read_tokens", reading)
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        answers(data, builder, ranks, list(range(ROWS)))(wrapped)
    assert len(passes) == 3


def test_a_row_that_cannot_be_read_is_the_cause_for_all(
    builder: PromptBuilder, wrapped: Wrapped, shop: Any, tmp_path: Path
):
    broken = ClipDataset.open([make_dataset(tmp_path / "d", shop.model, rows=6, broken=[4])], check=False)
    with pytest.raises(NoBatch) as caught:
        answers(broken, builder, process(), list(range(6)), slots=1)(wrapped)
    assert "row 6 (clip4.wav)" in str(caught.value.cause)


def test_compiled_blocks_are_not_compiled_for_answers(
    data: ClipDataset, builder: PromptBuilder, shop: Any, whole: list[AnsweredRow]
):
    """Each shape would be compiled anew, and blocks that have too many are not compiled for the training."""
    compiled: list[int] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    model = load_model(shop.model, dtype=torch.float32).requires_grad_(False).eval()
    model.audio_encoder.blocks[0].compile(backend=backend)  # one is enough, and quick
    ranks: Any = SimpleNamespace(device=CPU, world_size=1, prefix="")
    wrapped = Wrapped(model, ranks, torch.float32)
    found = answers(data, builder, process(), list(range(ROWS)), compiled=True)(wrapped)
    assert found == whole and not compiled
    batch = next(MicroBatches(data.folders, data.manifest.audio_token_id, CPU, 0)([(0, 1)]))
    wrapped.loss_sum(batch)
    assert compiled, "the loss is still computed by what was compiled"


def test_scores_json_can_be_told_from_others(shop: Any, tmp_path: Path):
    """Columns that a row's origin asks for, and the step, by which a run knows its own files."""
    from mdl_toolkit.training.run import train
    from support.training.runs import run_settings

    settings = run_settings(
        shop.model, shop.data, tmp_path / "out", max_steps=1, eval_generate=4, eval_max_new_tokens=3,
        eval_dataset=[f"dev={shop.held_out}"],
    )  # fmt: skip
    train(settings)
    folder = tmp_path / "out" / "evaluation" / "dev"
    said = json.loads((folder / "scores.json").read_text())
    assert (
        said["task"] == "exact" and said["rows"] == 4 and said["step"] == 1 and said["source"] == "train.csv"
    )
    header, *rows = (folder / "rows.csv").read_text().splitlines()
    assert header.split(",")[:3] == ["audio", "reference", "prediction"] and "row" in header.split(",")
    assert len(rows) == 4 and all(row.startswith("clip") for row in rows)

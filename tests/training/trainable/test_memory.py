"""Memory is foreseen, and the largest micro-batch is tried first without leaving a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdl_toolkit import memory
from mdl_toolkit.data.batching.plan import Plan
from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import OutOfMemoryError
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.memory import available_bytes
from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable import memory as planning
from mdl_toolkit.training.trainable.adapters import make_trainable
from mdl_toolkit.training.trainable.memory import (
    Activations,
    plan_memory,
    try_worst,
    worst_micro_batch,
)
from mdl_toolkit.training.trainable.prepare import prepare
from mdl_toolkit.training.trainable.wrap import Wrapped
from support.models.batches import random_batch
from support.models.tiny import make_model_folder, tiny_config
from support.processes.ranks import make_memory_short

RANKS = Ranks(Launch(), torch.device("cpu"))
GEOMETRY = AudioGeometry()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("plan") / "base")


def options(**changes: Any) -> TrainSettings:
    return TrainSettings(
        **{"train_dataset": "data", "output": Path("run"), "sharding": "none", "lora_rank": 4, **changes}
    )


def order(rows: int = 200, **changes: Any) -> Plan:
    chance = np.random.default_rng(5)
    samples = chance.integers(2000, 160000, rows)
    tokens = 40 + samples // 3200
    batches: dict[str, Any] = {"batch_size": 4, **changes}
    return Plan(tokens, samples, np.full(rows, 5), seed=0, micro_batches=4, **batches)


def kept_bytes(
    settings: TrainSettings, dtype: torch.dtype, seconds: float, clips: int = 6
) -> tuple[int, int, int, int]:
    """Bytes that autograd keeps of a forward pass, with the tokens and patches of the batch."""
    config = tiny_config(
        text_config={"hidden_size": 128, "intermediate_size": 640, "num_hidden_layers": 4},
        audio_encoder_config={"embed_dim": 64, "depth": 4},
    )
    model = MiDashengLMModel(MiDashengLMConfig(**config)).to(dtype)
    make_trainable(model, settings)
    model.train()
    batch = random_batch(range(clips), seconds)
    kept: dict[int, Tensor] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch.model_inputs())
    patches = sum(GEOMETRY.patches(samples) for samples in batch.audio_samples)
    total = sum(t.untyped_storage().nbytes() for t in kept.values())
    return total, len(batch.input_ids), len(batch.targets), patches


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "full"},
        {"lora_attention": True},
        {"dora": True},
        {"train_target": ["decoder"]},
        {"train_target": ["encoder"]},
    ],
)
def test_the_estimate_is_what_autograd_keeps(changes: dict[str, Any]) -> None:
    settings = options(**changes)
    config = MiDashengLMConfig(
        **tiny_config(
            text_config={"hidden_size": 128, "intermediate_size": 640, "num_hidden_layers": 4},
            audio_encoder_config={"embed_dim": 64, "depth": 4},
        )
    )
    estimate = Activations.of(config, settings, 4)
    short, *few = kept_bytes(settings, torch.float32, 2.0)
    long, *many = kept_bytes(settings, torch.float32, 8.0)
    measured = long - short
    tokens, targets, patches = (b - a for a, b in zip(few, many, strict=True))
    expected = tokens * estimate.token + targets * estimate.target + patches * estimate.patch
    assert expected == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("changes", [{}, {"batch_size": None, "max_tokens": 300}])
def test_the_worst_micro_batch_is_the_largest_of_the_epoch(changes: dict[str, Any]) -> None:
    plan = order(**changes)
    patches = np.array([GEOMETRY.patches(int(samples)) for samples in plan.samples])
    size = plan.tokens + patches / 6
    largest = max(size[rows].sum() for step in plan.epoch(0) for rows in step.micro)
    assert size[worst_micro_batch(plan, GEOMETRY)].sum() == largest


def test_few_steps_are_looked_at_in_a_long_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = order(rows=20000)
    calls: list[int] = []
    inner = Plan.split
    monkeypatch.setattr(Plan, "split", lambda self, samples: calls.append(1) or inner(self, samples))
    worst_micro_batch(plan, GEOMETRY)
    assert len(calls) <= 64


class TestDecision:
    def decide(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, **changes: Any
    ) -> tuple[planning.MemoryPlan, Wrapped]:
        settings = options(**changes)
        wrapped = prepare(folder, settings, RANKS)
        monkeypatch.setattr(planning, "available_bytes", lambda device, processes=1: free)
        return plan_memory(wrapped, order(), settings, RANKS), wrapped

    def needed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
        without, _ = self.decide(folder, monkeypatch, 2**40)
        recomputing, _ = self.decide(folder, monkeypatch, 2**40, gradient_checkpointing=True)
        return (
            int((without.activations + without.state) * planning.MARGIN),
            int((recomputing.activations + recomputing.state) * planning.MARGIN),
        )

    def test_with_room_nothing_is_recomputed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decided, wrapped = self.decide(folder, monkeypatch, 2**40)
        assert decided.fits and not decided.gradient_checkpointing
        assert not wrapped.model.decoder.model.layers[0].gradient_checkpointing
        assert "gradient checkpointing off" in decided.line()

    def test_where_it_is_short_activations_are_recomputed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        without, recomputing = self.needed(folder, monkeypatch)
        decided, wrapped = self.decide(folder, monkeypatch, (without + recomputing) // 2)
        assert decided.fits and decided.gradient_checkpointing
        assert wrapped.model.decoder.model.layers[0].gradient_checkpointing
        assert decided.line() in capsys.readouterr().err and "gradient checkpointing on" in decided.line()

    def test_where_nothing_helps_it_says_so(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decided, _ = self.decide(folder, monkeypatch, 2**20)
        assert not decided.fits and decided.gradient_checkpointing
        assert "may not fit" in decided.line() and "--batch-size" in decided.line()

    def test_the_users_word_counts(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decided, wrapped = self.decide(folder, monkeypatch, 2**20, gradient_checkpointing=False)
        assert not decided.gradient_checkpointing and not decided.fits
        assert not wrapped.model.decoder.model.layers[0].gradient_checkpointing

    def test_compiling_what_is_recomputed_is_told_to_be_vain(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.decide(folder, monkeypatch, 2**40, gradient_checkpointing=True, compile=True)
        assert "warning: --compile does nothing" in capsys.readouterr().err

    def test_all_processes_decide_alike(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Others(Ranks):
            def any(self, flag: bool) -> bool:
                return True  # another process is short of memory

        settings = options()
        wrapped = prepare(folder, settings, RANKS)
        monkeypatch.setattr(planning, "available_bytes", lambda device, processes=1: 2**40)
        assert plan_memory(
            wrapped, order(), settings, Others(Launch(), torch.device("cpu"))
        ).gradient_checkpointing


class TestTrying:
    def test_it_leaves_no_trace(self, folder: Path) -> None:
        wrapped = prepare(folder, options(lora_dropout=0.5), RANKS)
        wrapped.model.eval()
        counted = dict(wrapped.model.counted)
        weights = {name: p.detach().clone() for name, p in wrapped.trainable.items()}
        torch.manual_seed(3)
        expected = torch.rand(3)
        torch.manual_seed(3)
        try_worst(wrapped, random_batch(range(3)), RANKS)
        assert torch.equal(torch.rand(3), expected)
        assert all(p.grad is None and torch.equal(p, weights[n]) for n, p in wrapped.trainable.items())
        assert wrapped.model.counted == counted and not wrapped.model.training

    def test_what_does_not_fit_shows(self, folder: Path) -> None:
        wrapped = prepare(folder, options(), RANKS)
        make_memory_short(wrapped, 3, "backward")
        with pytest.raises(OutOfMemoryError, match="row 1"):
            try_worst(wrapped, random_batch([1]), RANKS)


class TestFreeMemory:
    def test_the_hosts(self) -> None:
        whole = available_bytes(torch.device("cpu"))
        assert 2**20 < whole < 2**60
        assert available_bytes(torch.device("cpu"), 4) == pytest.approx(whole / 4, rel=0.2)

    def test_a_container_has_less(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = {"memory.max": 2**30, "memory.current": 2**29}
        monkeypatch.setattr(memory, "_cgroup", limits.__getitem__)
        monkeypatch.setattr(memory, "_proc_available", lambda: 2**40)
        assert available_bytes(torch.device("cpu")) == 2**29

    @pytest.mark.parametrize("text", ["max", ""])
    def test_no_limit(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: text)
        assert memory._cgroup("memory.max") is None


class TestExample:
    def test_prompt_and_learned_tokens_are_told_apart(self, folder: Path) -> None:
        from mdl_toolkit.data.dataset.dataset import Example
        from mdl_toolkit.data.prompt.builder import PromptBuilder
        from mdl_toolkit.training.batches.example import describe_example

        builder = PromptBuilder(folder)
        encoded = builder.encode("Be short.", "What is it?", 25, "a dog")
        waveform = np.zeros(80000, np.float32)
        example = Example(encoded.input_ids, encoded.labels, waveform, 0, "train.csv row 2 (a.wav)")
        text = describe_example(example, builder.decode, builder.audio_token_id)
        lines = text.splitlines()
        assert lines[0] == "one example, train.csv row 2 (a.wav), as the model sees it:"
        assert "Be short." in lines[1] and "What is it?" in lines[1] and "<|AUDIO|>×25" in lines[1]
        assert lines[1].startswith("  given:") and "a dog" not in lines[1]
        assert (
            lines[2]
            == f"  learned: a dog<|im_end|> ({encoded.supervised} of {len(encoded.input_ids)} tokens)"
        )

    def test_long_texts_are_shortened_and_no_answer_is_said(self) -> None:
        from mdl_toolkit.data.dataset.dataset import Example
        from mdl_toolkit.training.batches.example import describe_example

        ids = np.arange(5000) % 7
        example = Example(ids, np.full(5000, -100), np.zeros(3200, np.float32), 0, "row")
        text = describe_example(example, lambda tokens: "".join(map(str, tokens)), 99, limit=100)
        assert len(text) < 250 and " … " in text
        assert text.endswith("learned: nothing")

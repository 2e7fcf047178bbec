"""The same run, however many processes share it and however the model is split over them.

One launch of two processes, and one of four, runs all scenarios; they are compared with one process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.hosts import host_name, rank_on_host
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import ModelError, SettingsError
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable.prepare import compute_dtype, prepare
from mdl_toolkit.training.trainable.wrap import Wrapped
from support.models.batches import random_batch
from support.models.tiny import make_model_folder
from support.processes.ranks import ROOT, run_scenarios, start_ranks

# No clip has more than 29 tokens, so a single one always fits.
SHORT = {"limit": {"1": 30}, "where": "forward"}
LORA: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora/sharded": {"sharding": "full"},
    "lora/recomputed": {"sharding": "full", "gradient_checkpointing": True},
    "lora/hybrid": {"sharding": "hybrid"},
    "lora/on other processors": {"inject": {"other adapters": True}},
    "lora/short of memory in the forward pass": {"inject": SHORT},
    "lora/short of memory in the backward pass": {"inject": {**SHORT, "where": "backward"}},
    "lora/short of memory everywhere": {
        "inject": {"limit": {"0": 45, "1": 30}, "where": "backward"},
    },
}
DORA: dict[str, dict[str, Any]] = {
    "dora": {"dora": True, "train_target": ["encoder", "decoder", "embed_tokens", "lm_head"]},
    "dora/sharded": {
        "dora": True, "train_target": ["encoder", "decoder", "embed_tokens", "lm_head"], "sharding": "full",
    },
}  # fmt: skip
FULL: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full/sharded": {"method": "full", "sharding": "full"},
    "full/optimizer": {"method": "full", "sharding": "optimizer"},
}
ALL = {**LORA, **DORA, **FULL}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("wrap") / "base")


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    plain = {name: options for name, options in ALL.items() if "/" not in name}
    return run_scenarios(model, plain, tmp_path_factory.mktemp("alone"), world_size=1)


@pytest.fixture(scope="module")
def two(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return run_scenarios(model, ALL, tmp_path_factory.mktemp("two"), world_size=2)


@pytest.fixture(scope="module")
def four(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    scenarios = {name: ALL[name] for name in ("lora", "lora/hybrid")}
    scenarios["lora/hybrid on other processors"] = {"sharding": "hybrid", "inject": {"other adapters": True}}
    scenarios["full/hybrid"] = {"method": "full", "sharding": "hybrid"}
    return run_scenarios(model, scenarios, tmp_path_factory.mktemp("four"), world_size=4, local_world_size=2)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal to float32 rounding. Adam divides by a gradient's size, so the rounding of the smallest shows."""
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in found["weights"].items():
        torch.testing.assert_close(weight, expected["weights"][name], rtol=1e-3, atol=2e-4)
    assert found["held_out"] == pytest.approx(expected["held_out"], rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_two_processes_train_as_one(
    name: str, two: dict[str, dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    assert_same(two[name], alone[name.partition("/")[0]])


@pytest.mark.parametrize("name", ["lora", "lora/hybrid", "lora/hybrid on other processors", "full/hybrid"])
def test_four_processes_on_two_machines_train_as_one(
    name: str, four: dict[str, dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    assert_same(four[name], alone[name.partition("/")[0]])


@pytest.mark.parametrize("name", ALL)
def test_weights_and_optimizer_state_are_whole_and_load_again(
    name: str, two: dict[str, dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    found, expected = two[name], alone[name.partition("/")[0]]
    shapes = {key: tuple(tensor.shape) for key, tensor in expected["weights"].items()}
    assert {key: tuple(tensor.shape) for key, tensor in found["weights"].items()} == shapes
    moments = {key: tuple(tensor.shape) for key, tensor in expected["moments"].items()}
    assert {key: tuple(tensor.shape) for key, tensor in found["moments"].items()} == moments
    assert found["reloaded"] == pytest.approx(found["held_out"], rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_replicas_stay_the_same_and_one_flipped_bit_is_found(
    name: str, two: dict[str, dict[str, Any]], four: dict[str, dict[str, Any]]
) -> None:
    """Of a model in parts there are replicas on other machines alone."""
    whole = name == "lora/hybrid" or two[name]["drift"][1] is None
    assert two[name]["drift"] == [None, None if whole else [0, 1]]
    assert whole == ("/sharded" in name or name in ("lora/recomputed", "lora/hybrid", "full/optimizer"))
    if name in four:
        assert four[name]["drift"] == [None, [1, 3] if "hybrid" in name else [0, 1, 2, 3]]


def test_only_the_process_without_memory_splits(two: dict[str, dict[str, Any]]) -> None:
    assert two["lora"]["splits"] == [0, 0]
    for where in ("forward", "backward"):
        here, there = two[f"lora/short of memory in the {where} pass"]["splits"]
        assert here == 0 and there > 0
    assert all(two["lora/short of memory everywhere"]["splits"])


def test_a_sharded_process_without_memory_ends_all_and_names_its_rows(model: Path, tmp_path: Path) -> None:
    scenarios = {"sharded": {"sharding": "full", "inject": SHORT}}
    (tmp_path / "scenarios.json").write_text(json.dumps({"model": str(model), "scenarios": scenarios}))
    files = [str(tmp_path / name) for name in ("scenarios.json", "results.pt")]
    script = str(ROOT / "tests" / "support" / "processes" / "ranks.py")
    (first_code, first), (second_code, second) = start_ranks([script, *files], 2)
    assert first_code == second_code == 1
    assert not first.strip()
    last = second.strip().splitlines()[-1]
    assert (
        f"OutOfMemoryError: {rank_on_host(1, host_name())}: out of memory with row 8, row 9, row 10, row 11: "
        in last
    )
    assert "injected" in last


def test_hybrid_sharding_needs_equal_machines(model: Path) -> None:
    class Unequal(Ranks):
        def gather_objects(self, value: Any) -> list[Any]:
            return [value, value + 1 if isinstance(value, int) else value]

    ranks = Unequal(Launch(rank=0, world_size=3, local_world_size=1), torch.device("cpu"))
    with pytest.raises(SettingsError, match=r"equally many processes on every machine, here \[1, 2\]"):
        prepare(model, options(sharding="hybrid"), ranks)


def one_process() -> Ranks:
    return Ranks(Launch(), torch.device("cpu"))


def options(**changes: Any) -> TrainSettings:
    values: dict[str, Any] = {"train_dataset": "data", "output": Path("run"), "sharding": "none"}
    return TrainSettings(**{**values, **changes})


def test_a_scale_of_nothing_leaves_no_gradient(model: Path) -> None:
    wrapped = prepare(model, options(), one_process())
    wrapped.micro_batch(random_batch([1]), 0.0, last=True)
    assert float(wrapped.clip_grad_norm(1.0)) == 0.0


def test_clipping_measures_before_it_scales(model: Path) -> None:
    wrapped = prepare(model, options(), one_process())
    wrapped.micro_batch(random_batch([1, 2]), 1.0, last=True)
    before = float(wrapped.clip_grad_norm(0.0))
    assert before > 1.0
    assert float(wrapped.clip_grad_norm(0.5)) == pytest.approx(before)
    assert float(wrapped.clip_grad_norm(0.0)) == pytest.approx(0.5, rel=1e-4)


def test_bfloat16_passes_with_float32_weights(model: Path) -> None:
    batch = random_batch(range(4))
    reference = float(prepare(model, options(), one_process()).loss_sum(batch))
    for method in ("lora", "full"):
        wrapped = prepare(model, options(bf16=True, method=method), one_process())
        dtypes: set[torch.dtype] = set()
        block: nn.Module = wrapped.model.decoder.model.layers[0].mlp.up_proj
        block.register_forward_hook(lambda module, x, y, seen=dtypes: seen.add(y.dtype))
        loss = wrapped.micro_batch(batch, 1.0, last=True)
        assert dtypes == {torch.bfloat16} and loss.dtype == torch.float32
        assert float(loss) == pytest.approx(reference, rel=2e-2)
        assert all(p.dtype == torch.float32 and p.grad is not None for p in wrapped.trainable.values())


def test_weights_that_train_are_not_rounded_by_loading(model: Path) -> None:
    exact = prepare(model, options(method="full"), one_process())
    loaded = prepare(model, options(method="full", bf16=True), one_process())
    for name, parameter in loaded.trainable.items():
        assert torch.equal(parameter, exact.trainable[name]), name


def test_checkpointing_changes_no_gradient(model: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        wrapped = prepare(model, options(gradient_checkpointing=checkpointing), one_process())
        wrapped.model.train()
        wrapped.micro_batch(random_batch(range(3)), 1.0, last=True)
        gradients.append({name: p.grad for name, p in wrapped.trainable.items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_bf16_is_chosen_by_the_device() -> None:
    assert compute_dtype(options(), torch.device("cpu")) == torch.float32
    assert compute_dtype(options(bf16=True), torch.device("cpu")) == torch.bfloat16


def test_an_adapter_folder_is_no_base(model: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        f'{{"peft_type": "LORA", "r": 4, "lora_alpha": 4, "base_model_name_or_path": "{model}"}}'
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="adapter can't be trained on"):
        prepare(tmp_path, options(), one_process())


def test_processes_with_different_models_are_refused(model: Path) -> None:
    class Others(Ranks):
        def gather_objects(self, value: Any) -> list[Any]:
            if isinstance(value, dict) and "" in value:  # the digest of all tensors
                return [value, {"": "another"}]
            if isinstance(value, dict):
                return [
                    value,
                    {name: number ^ (name.endswith("lm_head.weight")) for name, number in value.items()},
                ]
            return [value, value]

    ranks = Others(Launch(rank=0, world_size=2, local_world_size=2), torch.device("cpu"))
    said = (
        r"models differ: rank 1 \(host .+\) differs from rank 0 \(host .+ on \(1 of \d+ tensors\)\. The hosts"
    )
    with pytest.raises(ModelError, match=said):
        prepare(model, options(), ranks)


def test_only_a_sharded_model_needs_lockstep(model: Path) -> None:
    assert not Wrapped.lockstep
    assert not prepare(model, options(), one_process()).lockstep

"""Runs whose model is split over processes leave what other runs leave, and go on without the split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from support.processes.launch import run, torchrun
from support.training.shop import TRAIN, assert_same_run, eval_losses, metrics, steps, weights

pytestmark = pytest.mark.system

_ZERO2 = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "DEEPSPEED",
    "deepspeed_config": {
        "gradient_accumulation_steps": 4, "offload_optimizer_device": "none",
        "offload_param_device": "none", "zero3_init_flag": False, "zero_stage": 2,
    },
    "machine_rank": 0, "main_training_function": "main", "mixed_precision": "bf16", "num_machines": 1,
    "num_processes": 2, "rdzv_backend": "static", "same_network": True, "use_cpu": False,
}  # fmt: skip


def test_an_adapter_trained_in_shards_is_whole_and_goes_on_unsharded(shop: Path) -> None:
    train = [*TRAIN, "--merge-lora", "false", "--save-steps", "3"]
    plain, sharded = shop / "adapter-alone", shop / "adapter-sharded"
    finished = run([*train, "--batch-size", "8", "--output", str(plain)], cwd=shop)
    assert finished.code == 0, finished.output
    finished = run([*torchrun(), *train, "--sharding", "full", "--output", str(sharded)], cwd=shop)
    assert finished.code == 0, finished.output
    assert_same_run(sharded, plain)
    adapter = weights(sharded / "final")
    assert len(adapter) == 2 * 12 and all(np.abs(tensor).max() > 0 for tensor in adapter.values())
    assert "gradient checkpointing off" in finished.output

    shutil.rmtree(sharded / "final")
    shutil.rmtree(sharded / "checkpoint-6")
    words = [*train, "--batch-size", "8", "--output", str(sharded), "--resume-from-checkpoint", "true"]
    finished = run(words, cwd=shop)
    assert finished.code == 0 and "step 3 of 6" in finished.output, finished.output
    assert_same_run(sharded, plain)


def test_a_deepspeed_config_shards_the_optimizer_of_a_whole_model(shop: Path) -> None:
    pytest.importorskip("deepspeed", reason="accelerate starts a DEEPSPEED config with the extra only")
    (shop / "zero2.yaml").write_text(json.dumps(_ZERO2))
    train = [*TRAIN[:2], "--config", "train.yaml", "--method", "full", "--train-dataset", "train-converted/"]
    output, plain = shop / "zero2", shop / "full-alone"
    finished = run([*train, "--bf16", "--batch-size", "8", "--output", str(plain)], cwd=shop)
    assert finished.code == 0, finished.output
    launcher = ["accelerate", "launch", "--config_file", "zero2.yaml", "--no_python"]
    finished = run([*launcher, *train, "--output", str(output)], cwd=shop)
    assert finished.code == 0, finished.output
    assert "gradient_accumulation_steps is 4, but --gradient-accumulation-steps 1 counts" in finished.output
    for mine, its in zip(steps(output), steps(plain), strict=True):
        # bfloat16 rounds differently where the one casts weights and the other casts each product.
        assert mine["loss"] == pytest.approx(its["loss"], rel=2e-2)
    assert any("train_runtime" in line for line in metrics(output))
    assert weights(output / "final").keys() == weights(plain / "final").keys()


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_what_several_processes_have_rounded_is_evaluated_by_all_of_them(shop: Path, sharding: str) -> None:
    """One of them alone couldn't hold a model that is sharded."""
    output = shop / f"rounded-{sharding}"
    train = [*TRAIN, "--final-dtype", "bfloat16", "--sharding", sharding, "--output", str(output)]
    finished = run([*torchrun(), *train], cwd=shop)
    assert finished.code == 0, finished.output
    summary, validated = metrics(output)[-1], eval_losses(output)[-1]
    assert summary["validated_eval_loss"] == validated
    assert summary["final_eval_loss"] == pytest.approx(validated, rel=2e-2)
    assert summary["final_eval_loss"] != validated, "rounding changes something"
    assert f"in training it was {validated:.4f}" in finished.output

    alone = [*TRAIN, "--final-dtype", "bfloat16", "--batch-size", "8", "--output", f"{output}-alone"]
    finished = run(alone, cwd=shop)
    assert finished.code == 0, finished.output
    mine = metrics(Path(f"{output}-alone"))[-1]["final_eval_loss"]
    assert summary["final_eval_loss"] == pytest.approx(mine, rel=1e-3)

"""A few processes that train a tiny model together, without a launcher, in one scenario after the other.

As a script it is one of these processes: ``python ranks.py SCENARIOS.json OUTPUT``.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
STEPS, SLOTS, CLIPS = 2, 4, 4


def run_scenarios(
    model: Path,
    scenarios: Mapping[str, Mapping[str, Any]],
    folder: Path,
    world_size: int = 2,
    local_world_size: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Train a few steps in each scenario.

    Args:
        model: Folder of the base.
        scenarios: By name, options of training; ``inject`` names failures to make.
        folder: For files.
        world_size: Processes; 1 runs in this process.
        local_world_size: How many of them a machine has, as they are told.

    Returns:
        For each scenario ``losses``, ``norms``, ``weights`` (by name), and what the injected failures left.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scenarios.json").write_text(json.dumps({"model": str(model), "scenarios": scenarios}))
    if world_size == 1:
        work(folder / "scenarios.json", folder / "results.pt")
    else:
        command = [__file__, str(folder / "scenarios.json"), str(folder / "results.pt")]
        ended = start_ranks(command, world_size, local_world_size)
        assert not any(code for code, _ in ended), "\n".join(output for code, output in ended if code)
    results: dict[str, dict[str, Any]] = torch.load(folder / "results.pt", weights_only=True)
    return results


def start_ranks(
    command: Sequence[str], world_size: int, local_world_size: int | None = None, timeout: float = 540
) -> list[tuple[int, str]]:
    """Run a Python command once for each rank, as a launcher would.

    Args:
        command: Words after ``python``.
        world_size: Processes.
        local_world_size: How many of them a machine has, as they are told.
        timeout: Seconds until they are killed.

    Returns:
        Exit code and output of each.
    """
    local_world_size = local_world_size or world_size
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world_size):
        env = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(rank % local_world_size), "LOCAL_WORLD_SIZE": str(local_world_size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT / "tests"), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        words = [sys.executable, *command]
        process = subprocess.Popen(
            words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    # Gloo of torch 2.10 tells of every group; no line of ours begins like that.
    outputs = [re.sub(r"^\[Gloo\] Rank .*\n", "", output, flags=re.MULTILINE) for output in outputs]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def work(scenarios: Path, output: Path) -> None:
    """One process's part of all scenarios; rank 0 writes the results."""
    import torch

    from mdl_toolkit.distributed.group import joined
    from mdl_toolkit.distributed.launch import read_launch

    asked = json.loads(scenarios.read_text())
    with joined(read_launch()) as ranks:
        results = {
            name: _train(Path(asked["model"]), dict(options), ranks)
            for name, options in asked["scenarios"].items()
        }
        if ranks.is_main:
            torch.save(results, output)


def _train(model: Path, options: dict[str, Any], ranks: Any) -> dict[str, Any]:
    import torch

    from mdl_toolkit.settings import TrainSettings
    from mdl_toolkit.training.steps.optimizer import Optimizer
    from mdl_toolkit.training.trainable.adapters import load_trained, trained_tensors
    from mdl_toolkit.training.trainable.prepare import prepare

    inject = options.pop("inject", {})
    values: dict[str, Any] = {
        "train_dataset": "data", "output": Path("run"), "bf16": False, "sharding": "none", "lora_rank": 4,
    }  # fmt: skip
    settings = TrainSettings(**{**values, **options})
    if ranks.world_size == 1:
        settings.sharding = "none"
    if inject.get("other adapters"):  # as another processor may compute them
        settings.seed += ranks.rank // ranks.local_world_size if ranks.nodes > 1 else ranks.rank
    wrapped = prepare(model, settings, ranks)
    optimizer = Optimizer(wrapped.trainable)
    limit = inject.get("limit", {}).get(str(ranks.rank))
    if limit:
        make_memory_short(wrapped, limit, inject["where"])
    wrapped.model.train()
    losses, norms = [], []
    for step in range(STEPS):
        loss, norm = _step(wrapped, step, ranks)
        optimizer.step(3e-3, torch.zeros(()))
        wrapped.zero_grad()
        losses.append(loss)
        norms.append(norm)
    weights = dict(trained_tensors(wrapped.model))
    moments = dict(optimizer.tensors())
    results: dict[str, Any] = {"losses": losses, "norms": norms, "weights": weights, "moments": moments}
    results["drift"] = _drift(optimizer, ranks)
    results["splits"] = ranks.gather_objects(wrapped.splits)
    wrapped.model.eval()
    results["held_out"] = float(wrapped.loss_sum(_batch([100, 101, 102])))
    # Every process is given the whole tensors; each takes its part.
    whole = ranks.broadcast_object(weights)
    load_trained(wrapped.model, {name: torch.zeros_like(tensor) for name, tensor in whole.items()})
    load_trained(wrapped.model, whole)
    results["reloaded"] = float(wrapped.loss_sum(_batch([100, 101, 102])))
    return results


def _drift(optimizer: Any, ranks: Any) -> list[Any]:
    """Whether replicas differ, as they are and with one bit of rank 1's first tensor flipped for a moment."""
    import torch

    from mdl_toolkit.distributed.sharding import local_part
    from mdl_toolkit.training.trainable.replicas import find_drift

    found = []
    local = local_part(next(iter(optimizer.held().values()))).detach()
    for flip in (0, 1):
        if ranks.rank == 1:
            local.view(torch.int32).view(-1)[:1] ^= flip
        drift = find_drift(optimizer.held(), ranks)
        found.append(drift and sorted([*drift.odd, *drift.others]))
    if ranks.rank == 1:
        local.view(torch.int32).view(-1)[:1] ^= 1
    return found


def _step(wrapped: Any, step: int, ranks: Any) -> tuple[float, float]:
    first = [CLIPS * (SLOTS * step + slot) for slot in range(SLOTS)]
    batches = [_batch(range(index, index + CLIPS)) for index in first]
    supervised = sum(len(batch.targets) for batch in batches)
    share = SLOTS // ranks.world_size
    own = batches[ranks.rank * share : (ranks.rank + 1) * share]
    total = sum(
        float(wrapped.micro_batch(batch, 1.0 / supervised, last=number + 1 == len(own)))
        for number, batch in enumerate(own)
    )
    norm = float(wrapped.clip_grad_norm(1.0))
    return ranks.sum([total])[0] / supervised, norm


def _batch(indices: Sequence[int]) -> Any:
    from support.models.batches import random_batch

    return random_batch(indices)


def make_memory_short(wrapped: Any, tokens: int, where: str) -> None:
    """Let passes over more than so many tokens run out of memory, in the ``forward`` or the ``backward``."""
    import torch

    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("injected: tried to allocate 20.00 GiB")

    inner = wrapped._forward
    layer = wrapped.model.decoder.model.layers[0]
    armed = {"now": False}

    def forward(batch: Any) -> Any:
        large = len(batch.input_ids) > tokens
        if large and where == "forward":
            out_of_memory()
        armed["now"] = large
        return inner(batch)

    def backward(module: Any, gradients: Any) -> None:
        if armed["now"]:
            armed["now"] = False
            out_of_memory()

    wrapped._forward = forward
    layer.register_full_backward_pre_hook(backward)


if __name__ == "__main__":
    from mdl_toolkit.distributed.failure import leave_group

    try:
        work(Path(sys.argv[1]), Path(sys.argv[2]))
    finally:
        leave_group()

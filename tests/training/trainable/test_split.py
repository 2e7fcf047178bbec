"""A micro-batch that does not fit is split without changing what is learned, and its rows are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import OutOfMemoryError
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.memory import is_out_of_memory
from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable.prepare import prepare
from mdl_toolkit.training.trainable.split import Splitter, shown_rows, split
from mdl_toolkit.training.trainable.wrap import Sharded, Wrapped
from support.models.batches import random_batch
from support.models.tiny import make_model_folder, tiny_config
from support.processes.ranks import ROOT, make_memory_short

GEOMETRY = AudioGeometry()


@pytest.fixture(scope="module")
def model() -> MiDashengLMModel:
    torch.manual_seed(0)
    return MiDashengLMModel(MiDashengLMConfig(**tiny_config())).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("oom") / "base")


def wrapped(folder: Path) -> Wrapped:
    settings = TrainSettings(train_dataset="data", output=Path("run"), sharding="none", lora_rank=4)
    made = prepare(folder, settings, Ranks(Launch(), torch.device("cpu")))
    made.model.train()
    return made


@pytest.mark.parametrize("clips", [2, 3, 7])
def test_two_halves_are_the_whole(model: MiDashengLMModel, clips: int) -> None:
    batch = random_batch(range(clips))
    first, second = split(batch, GEOMETRY)
    assert first.rows + second.rows == batch.rows and first.rows and second.rows
    assert first.indices + second.indices == batch.indices
    for part in (first, second):
        assert sum(part.sequence_lengths) == len(part.input_ids) == len(part.position_ids)
        assert sum(part.audio_samples) == len(part.waveform)
        assert part.position_ids[0] == 0
    with torch.no_grad():
        whole = model(**batch.model_inputs()).loss_sum
        parts = [model(**part.model_inputs()).loss_sum for part in (first, second)]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-5)


def test_halves_are_about_equal() -> None:
    first, second = split(random_batch(range(9)), GEOMETRY)
    tokens = [len(part.input_ids) for part in (first, second)]
    assert max(tokens) - min(tokens) < 30  # a clip has at most 29


def test_a_long_first_clip_stands_alone() -> None:
    from support.models.batches import AUDIO, collate, random_example

    batch = collate([random_example(0, seconds=20.0), random_example(1), random_example(2)], AUDIO)
    first, second = split(batch, GEOMETRY)
    assert (len(first.rows), len(second.rows)) == (1, 2)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 12"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not execute a primitive"),
    ],
)
def test_all_ways_of_saying_so(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_the_hosts_allocator_says_so() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_of_memory(folder: Path) -> None:
    assert not is_out_of_memory(RuntimeError("shapes don't match"))
    # What oneDNN says of an operation that it does not have.
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a matmul"))
    assert not is_out_of_memory(ValueError("out of memory"))
    tuned = wrapped(folder)

    def broken(batch: object) -> None:
        raise RuntimeError("shapes don't match")

    tuned._forward = broken  # type: ignore[assignment,method-assign]
    with pytest.raises(RuntimeError, match="shapes don't match"):
        tuned.micro_batch(random_batch([1, 2]), 1.0, last=True)
    assert tuned.splits == 0


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("accumulated", [False, True])
def test_gradients_are_those_of_the_whole(
    folder: Path, where: str, accumulated: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, short = wrapped(folder), wrapped(folder)
    make_memory_short(short, 30, where)
    losses = []
    for tuned in (reference, short):
        if accumulated:
            tuned.micro_batch(random_batch([20]), 0.1, last=False)
        losses.append(tuned.micro_batch(random_batch(range(6)), 0.1, last=not accumulated))
        if accumulated:
            tuned.micro_batch(random_batch([21]), 0.1, last=True)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for name, parameter in short.trainable.items():
        torch.testing.assert_close(
            parameter.grad, reference.trainable[name].grad, rtol=1e-4, atol=1e-5, msg=name
        )
    assert reference.splits == 0 and short.splits >= 3
    warning = capsys.readouterr().err
    assert "out of memory with 6 clips of" in warning and "row 0, row 1, row 2, row 3 and 2 more" in warning


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits memory in Linux's way")
def test_memory_that_really_runs_out(folder: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests"), "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "processes" / "short_of_memory.py"),
        str(folder),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["splits"] >= 1 and "out of memory with 64 clips" in done.stderr
    assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-6)
    assert found["difference"] < 1e-4


def test_what_did_not_fit_is_not_tried_again(folder: Path) -> None:
    tuned = wrapped(folder)
    make_memory_short(tuned, 60, "forward")
    attempts: list[int] = []
    inner = tuned._forward
    tuned._forward = lambda batch: attempts.append(len(batch.rows)) or inner(batch)  # type: ignore[method-assign]
    batch = random_batch(range(6), seconds=1.0)
    tuned.micro_batch(batch, 1.0, last=True)
    failed = attempts.count(6)
    attempts.clear()
    tuned.micro_batch(batch, 1.0, last=True)
    tuned.loss_sum(batch)
    assert failed == 1 and attempts.count(6) == 0


def test_warnings_do_not_flood(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = wrapped(folder)
    make_memory_short(tuned, 30, "forward")
    for _ in range(8):
        tuned.micro_batch(random_batch(range(4)), 1.0, last=True)
    assert tuned.splits > 8
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_single_clip_that_does_not_fit_is_named_with_a_remedy(folder: Path) -> None:
    tuned = wrapped(folder)
    make_memory_short(tuned, 5, "forward")
    with pytest.raises(OutOfMemoryError) as caught:
        tuned.micro_batch(random_batch([3, 4], seconds=2.0), 1.0, last=True)
    message = str(caught.value)
    assert "out of memory with row 3: " in message and "audio of up to 2.0 s" in message
    assert "injected" in message and "--gradient-checkpointing true" in message and "\n" not in message


def test_evaluation_is_split_too(folder: Path) -> None:
    tuned = wrapped(folder)
    whole = tuned.loss_sum(random_batch(range(4)))
    make_memory_short(tuned, 30, "forward")
    torch.testing.assert_close(tuned.loss_sum(random_batch(range(4))), whole)
    assert tuned.splits > 0


def test_a_sharded_run_ends_with_the_rows(folder: Path) -> None:
    class Stub(Sharded):
        def __init__(self) -> None:
            self.model = wrapped(folder).model
            self._reduce_each = False

    tuned = Stub()
    tuned.model.set_requires_gradient_sync = tuned.model.set_is_last_backward = lambda value: None

    def fails(batch: object, scale: float) -> None:
        raise torch.OutOfMemoryError("no room")

    tuned._forward_backward = fails  # type: ignore[assignment,method-assign]
    with pytest.raises(OutOfMemoryError, match=r"row 1, row 2: .*no room"):
        tuned.micro_batch(random_batch([1, 2]), 1.0, last=True)


def test_rows_of_a_message() -> None:
    assert shown_rows(["a", "b"]) == "a, b"
    assert shown_rows([*"abcdef"]) == "a, b, c, d and 2 more"
    assert Splitter(GEOMETRY).splits == 0

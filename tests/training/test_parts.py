"""The parts of a run by themselves: optimizer, arithmetic, loader, metrics, signals, memory, evaluation."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mdl_toolkit.data.batching.balance import count_patches
from mdl_toolkit.data.batching.collate import collate
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import MdlError, ModelError, Stopped, UserError
from mdl_toolkit.memory import gib, peak_bytes, reset_peak
from mdl_toolkit.terminal.logs import is_main_process
from mdl_toolkit.training.batches.loader import MicroBatches
from mdl_toolkit.training.checkpoints.storage import owning
from mdl_toolkit.training.evaluate import evaluation_batches, share_of
from mdl_toolkit.training.loop import seed_dropout
from mdl_toolkit.training.metrics.file import MetricsLog, read_metrics
from mdl_toolkit.training.metrics.flops import FlopCounter
from mdl_toolkit.training.metrics.trackers import Trackers
from mdl_toolkit.training.optimizer import Optimizer
from mdl_toolkit.training.signals import STOP_SIGNALS, StopSignals, agreed_signal
from mdl_toolkit.training.trainable.adapters import make_trainable, trainable_parameters
from support.training.runs import make_dataset, run_settings

CPU = torch.device("cpu")


def parameters(*shapes: tuple[int, ...]) -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    return {f"p{i}": torch.nn.Parameter(torch.randn(*shape)) for i, shape in enumerate(shapes)}


def test_updates_are_those_of_adamw_and_decay_reaches_matrices_alone():
    ours, theirs = parameters((4, 3), (4,)), parameters((4, 3), (4,))
    optimizer = Optimizer(ours, weight_decay=0.1)
    reference = torch.optim.AdamW(
        [{"params": [theirs["p0"]], "weight_decay": 0.1}, {"params": [theirs["p1"]], "weight_decay": 0.0}]
    )
    for step in range(3):
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for name in ours:
            gradient = torch.randn_like(ours[name])
            ours[name].grad, theirs[name].grad = gradient.clone(), gradient
        optimizer.step(0.01 * (step + 1), torch.zeros(()))
        reference.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_a_held_back_update_leaves_no_trace():
    trained = parameters((4, 3), (4,))
    optimizer = Optimizer(trained)
    for held in (0.0, 1.0, 0.0):
        before = {key: tensor.clone() for key, tensor in optimizer.tensors()}
        weights = {name: p.detach().clone() for name, p in trained.items()}
        for parameter in trained.values():
            parameter.grad = torch.full_like(parameter, float("nan") if held else 0.5)
        optimizer.step(0.1, torch.tensor(held))
        after = dict(optimizer.tensors())
        if held:
            assert all(torch.equal(before[key], after[key]) for key in before)
            assert all(torch.equal(weights[name], p) for name, p in trained.items())
        else:
            assert not any(torch.equal(weights[name], p) for name, p in trained.items())
    assert float(dict(optimizer.tensors())["step/p0"]) == 2


def test_optimizer_state_goes_out_and_in_unchanged():
    one, two = parameters((4, 3), (4,)), parameters((4, 3), (4,))
    first, second = Optimizer(one), Optimizer(two)
    for parameter in one.values():
        parameter.grad = torch.randn_like(parameter)
    first.step(0.1, torch.zeros(()))
    state = dict(first.tensors())
    assert first.layout() == {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in state.items()}
    second.load(state)
    for key, tensor in second.tensors():
        assert torch.equal(tensor, state[key])
    with pytest.raises(ModelError, match="has p1, which this run doesn't train"):
        Optimizer({"p0": two["p0"]}).load(state)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough layers that what the first ones save (nothing is below them to get a gradient) hardly counts."""
    from support.models.tiny import make_model_folder

    folder = tmp_path_factory.mktemp("deep") / "model"
    return make_model_folder(
        folder, audio_encoder_config={"depth": 12}, text_config={"num_hidden_layers": 12}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_rank": 4},
        {"train_target": ["decoder"]},
        {"train_target": ["projector", "lm_head"]},
        {"method": "full"},
        {"method": "full", "train_target": ["encoder"]},
    ],
)
def test_model_flops_are_what_the_passes_do(
    shop, deep: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Against torch's own count of matrix products. Attention is left out: torch counts it without masks."""
    from mdl_toolkit.model.kernels import linear
    from mdl_toolkit.model_folders.load import load_model

    monkeypatch.setattr(linear, "onednn_is_faster", lambda: False)  # torch doesn't count oneDNN's
    model = load_model(deep)
    make_trainable(model, run_settings(deep, shop.data, Path("unused"), **changes))
    data, rows = ClipDataset.open([shop.data]), list(range(6))
    batch = collate([data[i] for i in rows], model.config.audio_token_id)
    # Of those in place torch knows no formula.
    in_place = {torch.ops.aten.addmm_: lambda result, a, b, **_: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, depth=4, custom_mapping=in_place) as counted:
        model(**batch.model_inputs()).loss_sum.backward()
    products = {
        name: sum(count for operation, count in counts.items() if "mm" in str(operation))
        for name, counts in counted.get_flop_counts().items()
    }
    # The front end's Fourier transform and mel filters are no model FLOPs.
    theirs = products["Global"] - products["MiDashengLMModel.audio_encoder.front_end"]
    counter = FlopCounter(model.config, trainable_parameters(model), data.geometry)
    counter._encoder_attention = counter._decoder_attention = 0
    ours = counter.step(data.tokens[rows], data.samples[rows], int(data.supervised[rows].sum()))
    assert ours == pytest.approx(theirs, rel=0.05)


def test_padding_of_the_attention_is_no_model_flop(shop):
    data = ClipDataset.open([shop.data])
    samples = np.array([100, 3200, 16000, 161280, 200000])
    patches, pairs = count_patches(samples, data.geometry)
    assert patches.tolist() == [data.geometry.patches(n) for n in samples.tolist()]
    chunks = [data.geometry.chunks(n) for n in samples.tolist()]
    assert pairs.tolist() == [sum(count**2 for count, _ in of_clip) for of_clip in chunks]


def test_dropout_is_seeded_by_place_alone():
    def draw(*place: int) -> torch.Tensor:
        seed_dropout(*place)
        return torch.rand(4)

    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    others = [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1, 1, 23), draw(1, 12, 3)]
    assert not any(torch.equal(draw(1, 2, 3), other) for other in others)


def token_id(shop) -> int:
    return ClipDataset.open([shop.data]).manifest.audio_token_id


def test_metrics_keep_whole_lines_up_to_a_step(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": float("nan") if step == 2 else 0.5, "rows": "ünï"})
    log.write({"train_runtime": 1.0})
    log.close()
    with open(path, "a") as stream:
        stream.write('{"step": 4, "lo')
    assert [line.get("step") for line in read_metrics(path)] == [1, 2, 3, None]
    assert read_metrics(path)[1]["loss"] is None
    again = MetricsLog(path, keep_steps=2)
    assert [line["step"] for line in again.kept] == [1, 2]
    again.write({"step": 3})
    again.close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    MetricsLog(path).close()
    assert path.read_text() == ""


def test_a_full_disk_under_the_metrics_is_told(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log._stream = SimpleNamespace(write=_full)
    with pytest.raises(MdlError, match=r"metrics\.jsonl can't be written: No space left on device"):
        log.write({"step": 1})


def _full(text: str) -> None:
    raise OSError(28, "No space left on device")


def test_a_tracker_that_fails_is_left_out_and_training_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    trackers = Trackers([], tmp_path, {}, cpu=True)
    told: list[int] = []

    def fail(values: Any, step: int) -> None:
        raise ConnectionError("no route to host\nand more")

    trackers._trackers = [
        SimpleNamespace(name="far", log=fail, finish=lambda: None),
        SimpleNamespace(name="near", log=lambda values, step: told.append(step), finish=lambda: None),
    ]
    for step in (1, 2, 3):
        trackers.log({"loss": 1.0}, step)
    assert told == [1, 2, 3]
    assert capfd.readouterr().err.count("--report-to far: failed (no route to host)") == 1
    assert is_main_process()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_is_noted_and_handlers_are_put_back(number: signal.Signals):
    before = [signal.getsignal(n) for n in STOP_SIGNALS]
    with StopSignals() as signals:
        assert not any(signals.flags()) and agreed_signal(signals.flags()) is None
        os.kill(os.getpid(), number)
        assert signals.received == number and agreed_signal(signals.flags()) == number
    assert [signal.getsignal(n) for n in STOP_SIGNALS] == before


def test_a_launcher_that_forwards_a_signal_asks_once(monkeypatch: pytest.MonkeyPatch):
    with StopSignals(launched=True) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT


def test_a_request_that_comes_twice_by_its_nature_is_one():
    """``timeout`` signals its child and then the child's group; a closed terminal has several senders."""
    with StopSignals(launched=False) as signals:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert signals.received == signal.SIGTERM


def test_where_no_step_is_to_be_finished_a_signal_stops():
    with StopSignals() as signals:
        with (
            pytest.raises(Stopped, match="nothing is lost") as stopped,
            signals.stop_at_once("nothing is lost"),
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.exit_code == 143
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), signals.stop_at_once("nothing is lost"):
            raise AssertionError("work that is not to begin")


def test_a_signal_that_stops_at_once_is_not_taken_for_an_error_of_what_is_being_done():
    with (  # noqa: PT012 -- a signal is taken as an error where something else is being done
        StopSignals() as signals,
        pytest.raises(Stopped, match="nothing is lost") as stopped,
        signals.stop_at_once("nothing is lost"),
    ):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Exception as error:  # as code has it that reads a user's files
            raise ModelError(f"config.json: can't be understood: {error}") from None
    assert stopped.value.exit_code == 130


def test_one_run_at_a_time_owns_an_output(tmp_path: Path):
    with (
        owning(tmp_path / "out"),
        pytest.raises(UserError, match="another run is at work there"),
        owning(tmp_path / "out"),
    ):
        pass
    with owning(tmp_path / "out"):
        pass
    assert not list((tmp_path / "out").iterdir())


def test_peak_memory_sees_what_was_used():
    reset_peak(CPU)
    before = peak_bytes(CPU)
    block = torch.ones(64 * 2**20 // 4)
    assert peak_bytes(CPU) - before > 40 * 2**20
    del block
    assert gib(3 * 2**29) == "1.50 GiB"


@pytest.mark.parametrize("max_tokens", [None, 100])
@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_evaluation_batches_cover_every_row_once(max_tokens: int | None, world_size: int):
    tokens = np.random.default_rng(0).integers(10, 90, 37)
    rows: Any = SimpleNamespace(tokens=tokens, supervised=tokens)
    batches = evaluation_batches(rows, 4, max_tokens)
    shares = [share_of(batches, rank, world_size) for rank in range(world_size)]
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(37))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for batch in batches:
        assert len(batch) <= 4 if max_tokens is None else tokens[list(batch)].sum() <= max_tokens


def test_evaluation_makes_the_same_number_of_passes_where_it_must(shop, tmp_path: Path):
    from mdl_toolkit.training.evaluate import Evaluation

    data = ClipDataset.open([make_dataset(tmp_path / "d", shop.model, rows=5)])
    totals, passes = [], []
    for rank in range(3):
        ranks: Any = SimpleNamespace(rank=rank, world_size=3, sum=lambda values: values, any=bool)
        load = MicroBatches([tmp_path / "d"], token_id(shop), CPU, 0)
        seen: list[tuple[int, ...]] = []
        model = torch.nn.Linear(1, 1)

        def loss_sum(batch: Any, seen: Any = seen, model: Any = model) -> torch.Tensor:
            assert not model.training
            seen.append(batch.indices)
            return torch.tensor(float(len(batch.targets)))

        wrapped: Any = SimpleNamespace(lockstep=True, model=model, loss_sum=loss_sum)
        totals.append(Evaluation(data, load, ranks, batch_size=1)(wrapped))
        passes.append(len(seen))
        assert model.training
    assert passes == [2, 2, 2], "5 batches on 3 processes: one makes a pass that counts for nothing"
    assert sum(totals) == pytest.approx(1.0)

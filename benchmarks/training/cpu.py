"""Training on a CPU: this loop beside a padded one in the style of the public 0.1.0, step by step in turn.

    python -m benchmarks.training.cpu [--steps 12] [--dtypes float32 bfloat16] [--threads 2] [--profile]

Both train LoRA of rank 16 on a model of 113 M parameters and the same random batches of 8 clips of 0.1 to
5 s, from the same weights. The padded loop works as 0.1.0 does by default: clips and texts padded to the
longest of a batch, clips kept as lists of numbers, attention with masks, logits of all positions, activations
recomputed, PEFT's own adapters, float32. (``commands/against_public.py`` measures 0.1.0 itself.)
A step of one follows a step of the other, and the machine's matrix-product peak is measured between them, so
that other work on the machine weighs on all three. Losses are compared step by step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.common import SHAPE, emit, peak, spread
from benchmarks.model.padded import padded_features, plain_products
from mdl_toolkit.compat.transformers_decoder import use_attention


class PaddedLoop:
    """A training loop on padded batches.

    Args:
        folder: Of the model.
        settings: Of the run.
        data: Its dataset.
        start: First values of the adapters, by name.
    """

    def __init__(self, folder: Path, settings: Any, data: Any, start: Mapping[str, torch.Tensor]) -> None:
        from peft import inject_adapter_in_model

        from mdl_toolkit.model_folders.load import load_model
        from mdl_toolkit.training.trainable.adapters import load_trained, lora_config, trainable_parameters

        self.data, self.settings = data, settings
        self.model: Any = load_model(folder)
        self.model.requires_grad_(False)
        config = lora_config(settings)
        config.modules_to_save = None
        inject_adapter_in_model(config, self.model)
        load_trained(self.model, start)
        self.model.train()
        self.trained = list(trainable_parameters(self.model).values())
        self.optimizer = torch.optim.AdamW(self.trained, weight_decay=0.0)
        # The library's own products, and its own attention, with masks.
        plain_products(self.model)
        use_attention(self.model.decoder, "sdpa")
        self.model.decoder.activation_checkpointing_enable({"use_reentrant": False})
        self.clips = [data[index].waveform.tolist() for index in range(len(data))]

    def step(self, rows: list[int], learning_rate: float) -> tuple[float, float]:
        """Seconds and loss of a step."""
        began = time.perf_counter()
        examples = [self.data[index] for index in rows]
        loss = self._loss(examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        value = loss.item()
        return time.perf_counter() - began, value

    def _loss(self, examples: list[Any]) -> torch.Tensor:
        longest = max(len(example.input_ids) for example in examples)
        ids = torch.zeros(len(examples), longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            ids[row, :length] = torch.from_numpy(example.input_ids)
            labels[row, :length] = torch.from_numpy(example.labels)
            mask[row, :length] = 1
        embeds = self.model.get_input_embeddings()(ids)
        clips = [torch.tensor(self.clips[example.index]) for example in examples]
        features = padded_features(self.model, clips, recompute=True)
        places = ids == self.model.config.audio_token_id
        embeds = embeds.masked_scatter(places[..., None], features)
        output = self.model.decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
        logits = output.logits.float()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


class RandomBatches:
    """An order of the data without regard to lengths: the plan of a run, for both loops."""

    def __init__(self, data: Any, batch: int) -> None:
        self.data, self.batch_size = data, batch
        self.order = np.random.default_rng(0).permutation(len(data))

    def __len__(self) -> int:
        return len(self.data)

    def epoch(self, epoch: int, first_sample: int = 0) -> list[Any]:  # noqa: ARG002 -- the interface of the package's Plan
        from mdl_toolkit.data.batching.plan import Step

        return [
            Step(
                first,
                self.order[first : first + self.batch_size],
                int(self.data.supervised[self.order[first : first + self.batch_size]].sum()),
                lambda samples: [samples.tolist()],
            )
            for first in range(first_sample, len(self), self.batch_size)
        ]


class Turns:
    """Takes the place of a run's reporter: after each of its steps the padded loop makes the same one."""

    def __init__(
        self,
        loop: PaddedLoop | None,
        steps: list[list[int]],
        dtype: torch.dtype,
        profiler: torch.profiler.profile | None,
    ) -> None:
        self.loop, self.steps, self.dtype, self.profiler = loop, steps, dtype, profiler
        self.ours: list[tuple[float, float]] = []
        self.padded: list[tuple[float, float]] = []
        self.peaks: list[float] = []
        self.began = time.perf_counter()

    def step(self, values: Mapping[str, Any], total_steps: int) -> None:  # noqa: ARG002 -- the interface of the package's Reporter
        # The loop's own clock runs on while the padded loop has its turn.
        self.ours.append((time.perf_counter() - self.began, values["loss"]))
        if self.loop is not None:
            self.padded.append(self.loop.step(self.steps[values["step"] - 1], values["learning_rate"]))
            self.peaks.append(peak(self.dtype))
        if self.profiler is not None and values["step"] == 1:
            self.profiler.start()
        self.began = time.perf_counter()


def prepare(folder: Path, clips: int) -> tuple[Path, Path]:
    """A model folder and a dataset with the lengths that the goal was set for."""
    from support.models.tiny import make_model_folder
    from support.training.runs import make_dataset

    model = make_model_folder(folder / "model", tie=True, **SHAPE)
    prompt = "Listen to this recording and say in a few words what it is"
    data = make_dataset(
        folder / "data",
        model,
        rows=clips,
        seconds=(0.1, 5.0),
        spread=(1.25, 1.95),
        prompt=prompt,
        words=(4, 5),
    )
    return model, data


def measure(
    model: Path,
    folder: Path,
    dtype: str,
    steps: int,
    batch: int,
    profiler: torch.profiler.profile | None = None,
) -> tuple[Turns, Any, float]:
    """Run both loops in turn; what they took, the dataset, and model FLOPs of a clip on average.

    With a profiler this loop alone, which it watches from the second step on.
    """
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.distributed.group import joined
    from mdl_toolkit.distributed.launch import read_launch
    from mdl_toolkit.settings import TrainSettings
    from mdl_toolkit.training.batches.loader import MicroBatches
    from mdl_toolkit.training.batches.order import RunOrder
    from mdl_toolkit.training.metrics.flops import FlopCounter
    from mdl_toolkit.training.signals import StopSignals
    from mdl_toolkit.training.steps.loop import Loop
    from mdl_toolkit.training.steps.optimizer import Optimizer
    from mdl_toolkit.training.steps.progress import RunProgress
    from mdl_toolkit.training.steps.schedule import LearningRates
    from mdl_toolkit.training.trainable.prepare import prepare

    settings = TrainSettings(
        train_dataset=str(folder), output=Path("unused"), model_name=str(model), lora_rank=16, lora_alpha=32,
        batch_size=batch, bf16=dtype == "bfloat16", sharding="none", max_steps=steps, save_steps=10**9,
    )  # fmt: skip
    data = ClipDataset.open([folder])
    with joined(read_launch()) as ranks:
        wrapped = prepare(model, settings, ranks)
        start = {name: p.detach().clone() for name, p in wrapped.trainable.items()}
        order = RunOrder(RandomBatches(data, batch), 1, steps)  # type: ignore[arg-type]
        rows = [scheduled.step.samples.tolist() for scheduled in order]
        loop = None if profiler else PaddedLoop(model, settings, data, start)
        turns: Any = Turns(loop, rows, getattr(torch, dtype), profiler)
        flops = FlopCounter(wrapped.model.config, wrapped.trainable, data.geometry)
        Loop(
            settings=settings, ranks=ranks, wrapped=wrapped, optimizer=Optimizer(wrapped.trainable),
            dataset=data, order=order, rates=LearningRates("constant", 1e-3, 0, steps),
            load=MicroBatches([folder], wrapped.model.config.audio_token_id, ranks.device, 0),
            reporter=turns, save=lambda _: "done", evaluation=None, flops=flops, progress=RunProgress(),
        ).run(StopSignals())  # fmt: skip
    of_steps = [flops.step(data.tokens[r], data.samples[r], int(data.supervised[r].sum())) for r in rows]
    return turns, data, sum(of_steps) / sum(map(len, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true", help="print where this loop's time goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model, data_folder = prepare(Path(folder), options.batch * options.steps)
        for dtype in options.dtypes:
            if options.profile:
                profile(model, data_folder, dtype, options)
                continue
            turns, data, per_clip = measure(model, data_folder, dtype, options.steps, options.batch)
            report(turns, data, per_clip, dtype, options)


def report(turns: Turns, data: Any, per_clip: float, dtype: str, options: argparse.Namespace) -> None:
    # The first step warms up: memory is fetched from the system, kernels are chosen.
    ours = [options.batch / seconds for seconds, _ in turns.ours[1:]]
    padded = [options.batch / seconds for seconds, _ in turns.padded[1:]]
    speedup = [a / b for a, b in zip(ours, padded, strict=True)]
    share = [rate * per_clip / top for rate, top in zip(ours, turns.peaks[1:], strict=True)]
    differences = [abs(a - b) / b for (_, a), (_, b) in zip(turns.ours, turns.padded, strict=True)]
    patches = np.mean([data.geometry.patches(int(n)) for n in data.samples])
    emit(
        "training_cpu",
        ("torch", "transformers", "peft"),
        dtype=dtype,
        threads=torch.get_num_threads(),
        clips_per_second=spread(ours),
        padded_float32_clips_per_second=spread(padded),
        speedup=spread(speedup),
        peak_gflops=spread([value / 1e9 for value in turns.peaks], 1),
        model_gflop_per_clip=round(per_clip / 1e9, 2),
        share_of_peak=spread(share),
        largest_relative_loss_difference=max(differences),
        losses={
            "ours": [round(x, 4) for _, x in turns.ours],
            "padded": [round(x, 4) for _, x in turns.padded],
        },
        batch=options.batch,
        mean_patches=round(float(patches), 1),
        mean_tokens=round(float(data.tokens.mean()), 1),
        mean_supervised=round(float(data.supervised.mean()), 1),
    )


def profile(model: Path, data: Path, dtype: str, options: argparse.Namespace) -> None:
    profiler = torch.profiler.profile()
    measure(model, data, dtype, options.steps, options.batch, profiler)
    profiler.stop()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30), file=sys.stderr)


if __name__ == "__main__":
    main()

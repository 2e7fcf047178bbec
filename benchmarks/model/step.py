"""Forward and backward pass of the packed model against the machine's matrix-product peak.

    python -m benchmarks.model.step [--steps 5] [--dtype bfloat16] [--profile]

The shape has 116 M parameters (encoder 32 M, decoder 82 M); batches are 8 clips of 0.1 to 5 s; LoRA of rank
16 is trained on the default targets. The peak is measured between the steps, so that other work on the
machine weighs on both.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import SHAPE, emit, peak, spread
from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel

AUDIO_TOKEN = 5
CONFIG = {
    **SHAPE,
    "text_config": {**SHAPE["text_config"], "tie_word_embeddings": True},
    "audio_token_id": AUDIO_TOKEN,
}
TARGETS = r".*(attn\.qkv|attn\.proj|net\.0|net\.2|gate_proj|up_proj|down_proj)$"


def batch_of(model: MiDashengLMModel, rng: np.random.Generator, clips: int, prompt: int, answer: int) -> dict:
    samples = tuple(int(n) for n in rng.integers(1600, 80000, clips))
    tokens = [model.geometry.audio_tokens(n) for n in samples]
    rows = [
        np.concatenate([np.full(n, AUDIO_TOKEN), rng.integers(6, 16384, prompt + answer)]) for n in tokens
    ]
    lengths = [len(row) for row in rows]
    ends = np.cumsum(lengths)
    targets = np.concatenate([np.arange(end - answer, end) for end in ends])
    ids = np.concatenate(rows)
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])),
        "audio_positions": torch.from_numpy(np.flatnonzero(ids == AUDIO_TOKEN)),
        "target_positions": torch.from_numpy(targets - 1),
        "targets": torch.from_numpy(ids[targets]),
        "waveform": torch.from_numpy(rng.standard_normal(sum(samples)).astype(np.float32) * 0.1),
        "audio_samples": samples,
        "sequence_lengths": tuple(lengths),
    }


def make_model(dtype: torch.dtype) -> MiDashengLMModel:
    """The model with frozen weights and adapters, as a run trains it."""
    model = MiDashengLMModel(MiDashengLMConfig(**CONFIG))
    model.use_own_layers()
    model.requires_grad_(False)
    model.to(dtype)
    inject_adapter_in_model(LoraConfig(r=16, lora_alpha=16, target_modules=TARGETS), model)
    model.train()
    return model


def measure(step: Callable[[dict], None], batches: Sequence[dict], dtype: torch.dtype) -> list[list[float]]:
    """FLOPs, seconds, and the matrix-product peak around each step."""
    # Of oneDNN's products torch knows no formula.
    onednn = {torch.ops.mkldnn._linear_pointwise: lambda x, w, *_, **__: 2 * math.prod(x) * w[0]}  # noqa: SLF001 -- what the package uses is what is counted
    flops, seconds, peaks = [], [], [peak(dtype)]
    for batch in batches:
        counter = FlopCounterMode(display=False, custom_mapping=onednn)
        with counter:
            step(batch)
        flops.append(float(counter.get_total_flops()))
        start = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - start)
        peaks.append(peak(dtype))
    return [flops, seconds, peaks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = make_model(dtype)
    batches = [batch_of(model, rng, options.clips, 32, 12) for _ in range(options.steps)]

    def step(batch: dict) -> None:
        model(**batch).loss_sum.backward()
        model.zero_grad()

    step(batches[0])
    flops, seconds, peaks = measure(step, batches, dtype)
    if options.profile:
        with torch.profiler.profile() as profile:
            step(batches[0])
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))
    emit(
        "model_step",
        parameters=sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name),
        dtype=options.dtype,
        clips=options.clips,
        threads=torch.get_num_threads(),
        gflop_per_clip=round(sum(flops) / len(flops) / options.clips / 1e9, 2),
        clips_per_s=round(options.clips * options.steps / sum(seconds), 3),
        gflop_per_s=spread([f / s / 1e9 for f, s in zip(flops, seconds, strict=True)], 1),
        peak_gflop_per_s=spread([p / 1e9 for p in peaks], 1),
        share_of_peak=spread(
            [f / s / p for f, s, p in zip(flops, seconds, peaks[1:], strict=True)],
        ),
    )


if __name__ == "__main__":
    main()

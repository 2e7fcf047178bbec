"""Training the 7B shape on one GPU: clips a second, memory, and how near the arithmetic comes to the peak.

    python -m benchmarks.training.gpu [--case NAME ...] [--repeats 5] [--steps 4] [--profile FOLDER]
    python -m benchmarks.training.gpu --smoke          # a tiny shape on the CPU, to see that it runs

Random weights, LoRA of rank 32 on the default targets, clips of one length with 40 prompt and 10 answer
tokens. What is timed is the step of a run: forward, backward, clipping, AdamW; batches lie on the GPU. After
two steps to warm up, ``--repeats`` times ``--steps`` steps are timed. The peak of a bfloat16 matrix product
is measured before and after. One JSON line for each case; a case that runs out of memory says so in its line.

Cases:
    5s            32 clips of 5 s, no recomputation: the goal is 190 clips/s within 40 GiB
    5s-large      64 clips of 5 s
    5s-recompute  64 clips of 5 s with gradient checkpointing
    5s-compile    32 clips of 5 s with compiled blocks
    30s           16 clips of 30 s, no recomputation: the goal is 45 clips/s
    24gb          the setting for cards of 24 GB: 8 clips of 5 s, recomputation
    12gb          the setting for cards of 12 GB: 4-bit weights, 4 clips of 5 s, recomputation
    mixed         64 clips of 0.5 to 10 s, which padding would nearly double
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import emit, spread

PROMPT, ANSWER, RATE = 40, 10, 16000
GOALS = {"5s": 190.0, "30s": 45.0}
SEVEN_BILLION = {
    "audio_encoder_config": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    "text_config": {
        "model_type": "qwen2_5_omni_text", "hidden_size": 3584, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
        "rope_theta": 1e6, "max_position_embeddings": 32768, "tie_word_embeddings": False,
    },
    "audio_token_id": 151646,
}  # fmt: skip
TINY = {
    "audio_encoder_config": {"embed_dim": 64, "depth": 2, "num_heads": 4},
    "text_config": {
        "model_type": "qwen2_5_omni_text", "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 512,
        "tie_word_embeddings": False,
    },
    "audio_token_id": 511,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A setting: clips of a micro-batch, their length in seconds, and what saves memory or time."""

    clips: int
    seconds: tuple[float, float]
    recompute: bool = False
    compile: bool = False
    quantization: str | None = None
    limit_gib: float | None = None


CASES = {
    "5s": Case(32, (5, 5), limit_gib=40),
    "5s-large": Case(64, (5, 5)),
    "5s-recompute": Case(64, (5, 5), recompute=True),
    "5s-compile": Case(32, (5, 5), compile=True, limit_gib=40),
    "30s": Case(16, (30, 30)),
    "24gb": Case(8, (5, 5), recompute=True, limit_gib=22.5),
    "12gb": Case(4, (5, 5), recompute=True, quantization="4bit", limit_gib=11),
    "mixed": Case(64, (0.5, 10)),
}


def build_model(shape: dict[str, Any], device: torch.device, dtype: torch.dtype, quantization: Any) -> Any:
    """A model of random weights, made on the device tensor by tensor; a quantised one never exists whole."""
    from transformers.initialization import no_init_weights

    from mdl_toolkit.compat.peft_layers import mark_as_quantized
    from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel
    from mdl_toolkit.model_folders.load import named_tensors, set_tensor, tied_names
    from mdl_toolkit.model_folders.names import DECODER
    from mdl_toolkit.model_folders.quantize import quantized_parameter, replace_linears

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"), no_init_weights():
            model = MiDashengLMModel(MiDashengLMConfig(**shape))
    finally:
        torch.set_default_dtype(before)
    quantized = replace_linears(model.decoder, quantization, dtype, DECODER) if quantization else set()
    generator = torch.Generator(device).manual_seed(0)

    def make(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() and name not in quantized:
            return torch.zeros_like(tensor, device=device)
        kind = dtype if name in quantized else tensor.dtype
        made = torch.empty(tensor.shape, dtype=kind, device=device)
        if "norm" in name or "init_bn" in name:
            made.fill_(0.0 if name.endswith(("bias", "running_mean")) else 1.0)
        else:
            made.normal_(0.0, 0.02, generator=generator)
        if name in quantized:
            return quantized_parameter(model.get_submodule(name.rpartition(".")[0]), made, device)
        return torch.nn.Parameter(made) if isinstance(tensor, torch.nn.Parameter) else made

    tensors = dict(named_tensors(model))
    for names in tied_names(model):
        made = make(names[0], tensors[names[0]])
        for name in names:
            set_tensor(model, name, made)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            set_tensor(model, name, torch.empty_like(buffer, device=device))
    model.recompute_constants()
    if quantization:
        mark_as_quantized(model, quantization)
    return model


def make_batch(model: Any, case: Case, seed: int, device: torch.device) -> Any:
    """A micro-batch of random clips and tokens."""
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.data.batching.packing import pack
    from mdl_toolkit.data.dataset.dataset import Example

    chance = np.random.default_rng(seed)
    audio, vocabulary = model.config.audio_token_id, model.config.text_config.vocab_size
    examples = []
    for index in range(case.clips):
        samples = int(RATE * chance.uniform(*case.seconds))
        words = chance.integers(0, min(audio, vocabulary) - 1, PROMPT + ANSWER)
        placeholders = np.full(model.geometry.audio_tokens(samples), audio)
        ids = np.concatenate([words[: PROMPT // 2], placeholders, words[PROMPT // 2 :]])
        labels = np.full(len(ids), -100)
        labels[-ANSWER:] = ids[-ANSWER:]
        waveform = chance.standard_normal(samples).astype(np.float32) * 0.1
        examples.append(Example(ids, labels, waveform, index, f"clip {index}"))
    return PackedBatch.of(pack(examples, audio)).to(device)


class Bench:
    """A model in training, as a run has it."""

    def __init__(self, case: Case, shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        from mdl_toolkit.distributed.group import Ranks
        from mdl_toolkit.distributed.launch import Launch
        from mdl_toolkit.settings import TrainSettings
        from mdl_toolkit.training.metrics.flops import FlopCounter
        from mdl_toolkit.training.steps.optimizer import Optimizer
        from mdl_toolkit.training.trainable.adapters import make_trainable
        from mdl_toolkit.training.trainable.wrap import Wrapped

        settings = TrainSettings(train_dataset="none", output=Path("none"), sharding="none")
        self.device = device
        self.model = build_model(shape, device, dtype, case.quantization)
        make_trainable(self.model, settings)
        if case.recompute:
            self.model.recompute_blocks()
        if case.compile:
            self.model.compile_blocks()
        self.model.train()
        self.wrapped = Wrapped(self.model, Ranks(Launch(), device), dtype)
        self.optimizer = Optimizer(self.wrapped.trainable)
        self.batches = [make_batch(self.model, case, seed, device) for seed in range(4)]
        self.flops = FlopCounter(self.model.config, self.wrapped.trainable, self.model.geometry)
        self.hold = torch.zeros((), device=device)

    def step(self, number: int) -> torch.Tensor:
        batch = self.batches[number % len(self.batches)]
        loss = self.wrapped.micro_batch(batch, 1.0 / (len(batch.rows) * ANSWER), last=True)
        self.wrapped.clip_grad_norm(1.0)
        self.optimizer.step(1e-4, self.hold)
        self.wrapped.zero_grad()
        return loss

    def model_flops(self) -> float:
        """Of a step, on average."""
        return float(
            np.mean(
                [
                    self.flops.step(
                        np.array(batch.sequence_lengths), np.array(batch.audio_samples), len(batch.targets)
                    )
                    for batch in self.batches
                ]
            )
        )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a square matrix product."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    a @ b
    synchronize(device)
    start = time.perf_counter()
    for _ in range(10):
        a @ b
    synchronize(device)
    return 10 * 2 * size**3 / (time.perf_counter() - start)


def host_synchronisations(bench: Bench) -> int | None:
    """How often the host waits for the GPU within a step, as torch's own check counts; none is the goal."""
    if bench.device.type != "cuda":
        return None
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            bench.step(0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def clips_per_second(bench: Bench, case: Case, steps: int, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    for number in range(steps):
        bench.step(number)
    synchronize(device)
    return case.clips * steps / (time.perf_counter() - start)


def measure(name: str, case: Case, options: argparse.Namespace) -> None:
    device, dtype, shape = options.device, options.dtype, options.shape
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    settings: dict[str, Any] = {
        "case": name, "clips": case.clips, "seconds": list(case.seconds), "recompute": case.recompute,
        "compile": case.compile, "quantization": case.quantization,
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }  # fmt: skip
    try:
        bench = Bench(case, shape, device, dtype)
        loaded = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        for number in range(2):
            bench.step(number)
        peak_before = matrix_peak(device, dtype, options.peak_size)
        rates = [clips_per_second(bench, case, options.steps, device) for _ in range(options.repeats)]
    except torch.OutOfMemoryError as error:
        emit("training_gpu", **settings, out_of_memory=str(error).splitlines()[0])
        return
    peak = (peak_before + matrix_peak(device, dtype, options.peak_size)) / 2
    flops = bench.model_flops() / case.clips
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    emit(
        "training_gpu",
        ("torch", "transformers", "peft", "bitsandbytes"),
        **settings,
        clips_per_second=spread(rates, 2),
        goal_clips_per_second=GOALS.get(name),
        tokens_per_step=round(float(np.mean([len(batch.input_ids) for batch in bench.batches]))),
        parameters_trained=sum(p.numel() for p in bench.wrapped.trainable.values()),
        model_gflop_per_clip=round(flops / 1e9, 2),
        peak_tflops=round(peak / 1e12, 2),
        share_of_peak=spread([rate * flops / peak for rate in rates]),
        peak_memory_gib=None if memory is None else round(memory, 2),
        memory_after_loading_gib=round(loaded / 2**30, 2),
        memory_limit_gib=case.limit_gib,
        within_limit=None if memory is None or case.limit_gib is None else memory <= case.limit_gib,
        split_batches=bench.wrapped.splits,
        host_synchronisations_in_a_step=host_synchronisations(bench),
        final_loss=round(float(bench.step(0)) / (case.clips * ANSWER), 3),
    )
    if options.profile:
        profile(name, bench, options)


def profile(name: str, bench: Bench, options: argparse.Namespace) -> None:
    """Write where the time of two steps goes: a table of kernels, and a trace for a viewer."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for number in range(2):
            bench.step(number)
        synchronize(bench.device)
    options.profile.mkdir(parents=True, exist_ok=True)
    order = "self_cuda_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=40)
    (options.profile / f"{name}.txt").write_text(table, encoding="utf-8")
    profiler.export_chrome_trace(str(options.profile / f"{name}.json.gz"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--clips", type=int, help="clips of a micro-batch, in place of the case's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--profile", type=Path, help="folder for tables and traces")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape on the CPU")
    options = parser.parse_args()
    if options.smoke:
        options.device, options.dtype, options.shape = torch.device("cpu"), torch.float32, TINY
        options.peak_size = 256
    elif torch.cuda.is_available():
        options.device, options.dtype, options.shape = torch.device("cuda", 0), torch.bfloat16, SEVEN_BILLION
        options.peak_size = 8192
    else:
        sys.exit(
            "no GPU here: this benchmark needs one (H100 or H200 for its goals); --smoke runs on the CPU"
        )
    for name in options.case:
        case = CASES[name]
        if options.clips:
            case = Case(**{**vars(case), "clips": options.clips})
        measure(name, case, options)


if __name__ == "__main__":
    main()

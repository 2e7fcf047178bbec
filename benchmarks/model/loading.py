"""Memory and time of loading a model, against the weights that are kept: random weights in a given shape.

python -m benchmarks.model.loading [--shape eighth|half|7b] [--folder DIR] [--case bf16 8bit …]

`7b` is the published shape: 16.6 GB on disk; in float32 it needs 33 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import emit

# Widths, depths and vocabulary shrink together, so that each part keeps about its share of the weights.
SHAPES = {
    "eighth": {"encoder": (640, 8, 8), "decoder": (1792, 8, 14, 2, 9472, 32000)},
    "half": {"encoder": (1280, 16, 16), "decoder": (3584, 14, 28, 4, 18944, 76032)},
    "7b": {"encoder": (1280, 32, 16), "decoder": (3584, 28, 28, 4, 18944, 152064)},
}
CASES = ("bf16", "float32", "8bit", "4bit", "library")


def config(shape: str) -> dict:
    width, depth, heads = SHAPES[shape]["encoder"]
    hidden, layers, q_heads, kv_heads, inner, vocabulary = SHAPES[shape]["decoder"]
    return {
        "model_type": "midashenglm",
        "architectures": ["MiDashengLMModel"],
        "audio_token_id": vocabulary - 1,
        "subsample_factor": 5,
        "torch_dtype": "bfloat16",
        "audio_encoder_config": {"embed_dim": width, "depth": depth, "num_heads": heads},
        "text_config": {
            "model_type": "qwen2_5_omni_text",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": q_heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary,
            "tie_word_embeddings": False,
        },
    }


def make_folder(folder: Path, shape: str) -> None:
    """Write a bfloat16 model of random weights, shard by shard, one tensor in memory at a time."""
    import torch

    from mdl_toolkit.model_folders.load import build_empty, named_tensors

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(shape)))
    tensors = named_tensors(build_empty(folder, torch.bfloat16))
    shards: list[list[tuple[str, torch.Tensor]]] = [[]]
    size = 0
    for name, tensor in tensors:
        if size > 4 << 30:
            shards.append([])
            size = 0
        shards[-1].append((name, tensor))
        size += tensor.nbytes
    weight_map = {}
    names = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, position = {}, 0
        for name, tensor in shard:
            end = position + tensor.nbytes
            header[name] = {
                "dtype": names[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [position, end],
            }
            weight_map[name], position = file, end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for _, tensor in shard:
                values = torch.empty(tensor.shape, dtype=torch.float32).uniform_(-0.02, 0.02)
                stream.write(values.to(tensor.dtype).reshape(-1).view(torch.uint8).numpy().tobytes())
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def memory(field: str) -> float:
    """A line of this process's memory status, in MiB."""
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) / 1024 for line in stream if line.startswith(field))


def measure(folder: Path, case: str) -> dict:
    """Load in this process; every weight is read once, so that mapped ones count too."""
    import torch

    from mdl_toolkit.model_folders.load import load_model

    dtype = torch.float32 if case == "float32" else torch.bfloat16
    quantization: Any = case if case in ("8bit", "4bit") else None
    if quantization:
        import bitsandbytes  # noqa: F401 -- its own memory is not the weights'
    if case == "library":
        from transformers import AutoModelForCausalLM

        import mdl_toolkit.model  # noqa: F401 -- registers the model
    before = memory("VmRSS")
    start = time.perf_counter()
    if case == "library":
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
    else:
        model = load_model(folder, dtype=dtype, quantization=quantization)
    loaded = time.perf_counter() - start
    kept, seen = 0, set()
    for tensor in [*model.parameters(), *model.buffers()]:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept += tensor.nbytes
            tensor.view(-1)[:: max(1, 4096 // tensor.element_size() // 2)].sum()
    peak = memory("VmHWM") - before
    return {
        "load_seconds": round(loaded, 2),
        "read_seconds": round(time.perf_counter() - start, 2),
        "kept_mib": round(kept / 2**20),
        "peak_mib": round(peak),
        "peak_over_kept": round(peak / (kept / 2**20), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="eighth")
    parser.add_argument("--folder", type=Path, help="where the weights are made, or were made before")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.folder, args.measure)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / "model"
        if not (folder / "config.json").exists():
            make_folder(folder, args.shape)
        for case in args.case:
            words = [
                sys.executable,
                "-m",
                "benchmarks.model.loading",
                "--folder",
                str(folder),
                "--measure",
                case,
            ]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            lines = done.stdout.splitlines()
            result = json.loads(lines[-1]) if done.returncode == 0 else {"failed": done.stderr[-500:]}
            emit("loading", ("torch", "transformers", "safetensors"), shape=args.shape, case=case, **result)


if __name__ == "__main__":
    main()

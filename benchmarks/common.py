"""What every benchmark shares: one JSON line per result, with the machine, the versions and the spread."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Real recordings, where the repository has them beside it.
RECORDINGS = ROOT.parent / "shared" / "data"

#: A model of 113 M parameters, for tests' ``make_model_folder``.
SHAPE: dict[str, Any] = {
    "audio_encoder_config": {"embed_dim": 512, "depth": 10, "num_heads": 8},
    "text_config": {
        "hidden_size": 768,
        "num_hidden_layers": 10,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "intermediate_size": 2304,
        "vocab_size": 16384,
        "initializer_range": 0.02,
        "rope_scaling": None,
        "model_type": "qwen2",
    },
}


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, and how busy the machine is."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            model = next(line.split(":", 1)[1].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 2)}


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of Python and of the packages named."""
    found = {"python": platform.python_version()}
    for name in ("mdl-toolkit", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def spread(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Median, smallest and largest of repeated measurements, and their number."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "runs": len(values),
    }


def peak(dtype: Any) -> float:
    """FLOP/s of a large matrix product in a dtype of torch's, by the faster of the libraries that it has."""
    import torch

    from mdl_toolkit.model.kernels.linear import linear

    a, b = torch.randn(1024, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    start = time.perf_counter()
    for _ in range(4):
        linear(a, b)
    return 4 * 2 * 1024 * 2048 * 2048 / (time.perf_counter() - start)


def emit(benchmark: str, packages: Sequence[str] = ("torch",), **result: Any) -> None:
    """Print one result as one JSON line."""
    print(
        json.dumps({"benchmark": benchmark, **result, "machine": machine(), "versions": versions(*packages)}),
        flush=True,
    )

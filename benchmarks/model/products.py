"""Matrix products of a linear layer on a CPU: torch's own choice of library beside oneDNN.

    python -m benchmarks.model.products [--threads 2]

For each shape (rows, inputs, outputs): GFLOP/s of ``torch.nn.functional.linear``, of oneDNN with the weight
as it is, and of oneDNN with the weight laid out for it beforehand; forward, and backward to the inputs. Many
weights take turns, so that none stays in a cache.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.common import emit

SHAPES = [
    (400, 512, 1536), (400, 2048, 512), (400, 768, 2304), (400, 2304, 768), (96, 768, 16384), (32, 768, 2304),
    (8, 768, 2304), (400, 192, 576),
]  # fmt: skip
WEIGHT_BYTES = 64e6


def seconds(work: Callable[[], object], least: float = 0.1) -> float:
    """Median time of a call, over five runs of at least so many seconds."""
    work()
    start = time.perf_counter()
    work()
    calls = max(3, int(least / max(time.perf_counter() - start, 1e-6)))
    runs = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        runs.append((time.perf_counter() - start) / calls)
    return statistics.median(runs)


def measure(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> dict[str, int]:
    """GFLOP/s of each way."""
    count = min(200, max(2, int(WEIGHT_BYTES / (inputs * outputs * dtype.itemsize))))
    weights = [torch.randn(outputs, inputs).to(dtype) for _ in range(count)]
    product, lay_out = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001 -- what the package uses is what is measured
    packed = [lay_out(weight, rows) for weight in weights]
    packed_back = [lay_out(weight.t().contiguous(), rows) for weight in weights]
    x, slope = torch.randn(rows, inputs).to(dtype), torch.randn(rows, outputs).to(dtype)
    ways: dict[str, Callable[[torch.Tensor], object]] = {
        "torch": lambda w: F.linear(x, w),
        "onednn": lambda w: product(x, w, None, "none", [], ""),
        "onednn_laid_out": lambda w: product(x, w, None, "none", [], ""),
        "backward_torch": lambda w: slope @ w,
        "backward_onednn": lambda w: product(slope, w.t(), None, "none", [], ""),
        "backward_onednn_laid_out": lambda w: product(slope, w, None, "none", [], ""),
    }
    of_ways = {"onednn_laid_out": packed, "backward_onednn_laid_out": packed_back}
    gflop = 2 * rows * inputs * outputs / 1e9
    speeds = {}
    with torch.no_grad():
        for name, way in ways.items():
            turns = itertools.cycle(of_ways.get(name, weights))
            speeds[name] = round(gflop / seconds(lambda way=way, turns=turns: way(next(turns))))  # type: ignore
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            emit(
                "products",
                dtype=str(dtype).removeprefix("torch."),
                shape=shape,
                threads=torch.get_num_threads(),
                gflops=measure(*shape, dtype),
            )


if __name__ == "__main__":
    main()

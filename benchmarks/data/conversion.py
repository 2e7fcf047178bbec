"""How fast recordings become a dataset: whole commands, as a person runs them.

    python -m benchmarks.data.conversion [--rows 1000] [--repeats 3] [--baseline-python PATH]

Makes clips of 5 seconds, 44.1 kHz, mono, 16-bit wav (a tone in noise, the same in every run), then measures:

- ``command``: wall and processor time of ``convert-dataset`` as a whole; ``work_s`` is the same less a
  conversion of one row, which is starting up and little else;
- ``cores``: the same for one worker, two, … as many as there are cores;
- ``storage``: bytes on disk for each --audio-storage;
- ``growth``: rows doubled again and again: the exponent that time grows with, and peak memory;
- with --baseline-python, an interpreter that has another mdl-toolkit (the public 0.1.0): the same command by
  it, on the same clips, in turns with ours.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from benchmarks.common import emit, spread

PACKAGES = ("numpy", "soundfile", "soxr", "pyarrow", "tokenizers")


class Run(NamedTuple):
    """What one command took."""

    wall: float
    cpu: float
    peak_mib: float


def make_clips(folder: Path, rows: int, seconds: float, rate: int) -> None:
    """Write the recordings."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(0)
    times = np.arange(round(seconds * rate)) / rate
    for i in range(rows):
        noise = dice.standard_normal(len(times)).astype(np.float32)
        samples = 0.05 * noise + 0.3 * np.sin(2 * np.pi * (200 + i) * times)
        soundfile.write(folder / f"{i}.wav", samples.astype(np.float32), rate)


def write_rows(folder: Path, rows: int, clips: int) -> Path:
    """A CSV of so many rows over the clips that there are."""
    path = folder / f"rows-{rows}.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["audio", "prediction"])
        writer.writerows((f"{i % clips}.wav", f"a tone of {200 + i % clips} hertz") for i in range(rows))
    return path


def convert(program: list[str], source: Path, output: Path, *words: str) -> Run:
    """Run the command once."""
    shutil.rmtree(output, ignore_errors=True)
    command = [*program, "convert-dataset", str(source), "--output", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--base-dir", str(source.parent), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said.decode()[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(time.perf_counter() - start, cpu, usage.ru_maxrss / 1024)


def summary(runs: list[Run]) -> dict[str, object]:
    """The measurements of repeated runs."""
    return {
        "wall_s": spread([run.wall for run in runs]),
        "cpu_s": spread([run.cpu for run in runs]),
        "peak_mib": spread([run.peak_mib for run in runs], digits=0),
    }


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of the logarithms: 1 is linear, 0 constant."""
    x, y = np.log(sizes), np.log(values)
    return round(float(np.polyfit(x, y, 1)[0]), 3)


def report(name: str, **result: object) -> None:
    """One line."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}
    emit("conversion", packages=PACKAGES, measurement=name, **rounded)


class Bench:
    """What all measurements share: the clips, our program, and how often to repeat."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args, self.output = folder, args, folder / "out"
        self.cores = len(os.sched_getaffinity(0))
        self.program = [str(Path(sys.executable).with_name("mdl-toolkit"))]
        self.source = write_rows(folder, args.rows, args.rows)
        single = write_rows(folder, 1, args.rows)
        self.start = [self.ours(single) for _ in range(args.repeats)]

    def ours(self, source: Path, *words: str) -> Run:
        """Our command once."""
        return convert(self.program, source, self.output, "--model-name", self.args.model_name, *words)

    def megabytes(self) -> float:
        """Size of the dataset made last."""
        return round(sum(path.stat().st_size for path in self.output.iterdir()) / 1e6, 1)

    def command(self) -> None:
        """The whole command, and the baseline's in turns with it."""
        words = ["--num-workers", str(self.cores)]
        runs: list[Run] = []
        others: list[Run] = []
        for _ in range(self.args.repeats):
            runs.append(self.ours(self.source, *words))
            if self.args.baseline_python:
                program = [str(Path(self.args.baseline_python).with_name("mdl-toolkit"))]
                model = ["--model-name", self.args.baseline_model or self.args.model_name]
                others.append(convert(program, self.source, self.output, *model, *words))
        work = min(run.wall for run in runs) - min(run.wall for run in self.start)
        started = spread([run.wall for run in self.start])
        report("command", program="ours", rows=self.args.rows, **summary(runs), start_s=started, work_s=work)
        if others:
            report("command", program="baseline", rows=self.args.rows, **summary(others))

    def by_cores(self) -> None:
        """One worker, two, four, …"""
        workers = 1
        while workers <= self.cores:
            runs = [self.ours(self.source, "--num-workers", str(workers)) for _ in range(self.args.repeats)]
            report("cores", workers=workers, rows=self.args.rows, **summary(runs))
            workers *= 2

    def by_storage(self) -> None:
        """Disk space."""
        for storage in ("pcm16", "flac", "reference"):
            run = self.ours(self.source, "--audio-storage", storage)
            report("storage", storage=storage, rows=self.args.rows, size_mb=self.megabytes(), cpu_s=run.cpu)

    def growth(self) -> None:
        """Rows doubled."""
        sizes = [int(value) for value in self.args.growth.split(",")]
        grown = []
        for rows in sizes:
            source = write_rows(self.folder, rows, self.args.rows)
            runs = [self.ours(source, "--num-workers", str(self.cores)) for _ in range(self.args.repeats)]
            grown.append(min(runs, key=lambda run: run.cpu))
        started = min(run.cpu for run in self.start)
        report(
            "growth",
            rows=sizes,
            wall_s=[round(run.wall, 3) for run in grown],
            cpu_s=[round(run.cpu, 3) for run in grown],
            peak_mib=[round(run.peak_mib) for run in grown],
            exponent_of_cpu_less_start=exponent(sizes, [max(run.cpu - started, 1e-3) for run in grown]),
            exponent_of_peak_memory=exponent(sizes, [run.peak_mib for run in grown]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=int, default=44100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--growth", default="500,1000,2000,4000", help="rows, doubled each time")
    parser.add_argument("--model-name", default="tiny")
    parser.add_argument("--baseline-python", help="interpreter of another installation")
    parser.add_argument("--baseline-model", help="model folder for it; else --model-name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mdl-conversion-") as name:
        make_clips(Path(name), args.rows, args.seconds, args.rate)
        bench = Bench(Path(name), args)
        bench.command()
        bench.by_cores()
        bench.by_storage()
        bench.growth()


if __name__ == "__main__":
    main()

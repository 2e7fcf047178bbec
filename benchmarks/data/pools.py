"""The conversion's worker processes against ``concurrent.futures.ProcessPoolExecutor``, in turns.

python -m benchmarks.data.pools [--workers 2] [--clips 400] [--repeats 5]

- ``speed``: seconds from making the pool to the first result, clips a second after it, memory of the workers;
- ``killed``: what the error says when a worker is killed;
- ``stuck``: seconds to leave the pool while one worker doesn't answer (stopped), up to 10;
- ``left``: worker processes that are still there 5 seconds after the converting process was killed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from benchmarks.common import emit, spread
from benchmarks.data.conversion import make_clips
from benchmarks.data.feeding import descendants, pss_mib
from mdl_toolkit.data.audio.load import AudioLimits
from mdl_toolkit.data.conversion.pool import WorkerPool
from mdl_toolkit.data.conversion.worker import THREADS, ClipJob, LoadOptions, load

OPTIONS = LoadOptions(AudioLimits(), 16000, "pcm16")
CHUNK = 8


def load_chunk(jobs: list[ClipJob]) -> list[tuple[int, bytes]]:
    """In a process of the executor: a chunk's clips, which have to be bytes to be sent."""
    results = [load(job, OPTIONS) for job in jobs]
    return [(result.samples, bytes(result.audio)) for result in results]


def ours(chunks: list[list[ClipJob]], workers: int) -> Iterator[int]:
    """Numbers of clips in each chunk, by the conversion's own pool."""
    with WorkerPool(workers) as pool:
        for results in pool.run(iter(chunks), OPTIONS, lambda number: f"row {number}"):
            yield len(results)


def executor(chunks: list[list[ClipJob]], workers: int) -> Iterator[int]:
    """The same by the library, in order, with as many chunks ahead."""
    context = multiprocessing.get_context("spawn")
    waiting: deque[Future[list[tuple[int, bytes]]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(load_chunk, chunk))
            if len(waiting) >= 4 * workers:
                yield len(waiting.popleft().result())
        while waiting:
            yield len(waiting.popleft().result())


def executor_of_twice(chunks: list[list[ClipJob]], workers: int) -> Iterator[int]:
    """With as many processes as the conversion's own workers have threads."""
    return executor(chunks, THREADS * workers)


POOLS = {"ours": ours, "executor": executor, "executor of twice as many": executor_of_twice}


def speed(pool: str, chunks: list[list[ClipJob]], workers: int) -> tuple[float, float, float]:
    """Seconds to the first result, clips a second after it, MiB of the workers."""
    start = time.perf_counter()
    counts = POOLS[pool](chunks, workers)
    next(counts)
    first, rest = time.perf_counter(), 0
    for place, count in enumerate(counts):
        rest += count
        if place == len(chunks) // 2:
            memory = sum(pss_mib(pid) for pid in descendants())
    return first - start, rest / (time.perf_counter() - first), memory


def busiest() -> int:
    """The worker that has used most processor time: not the process that helps the executor."""

    def ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    return max(descendants(), key=ticks)


def killed(pool: str, chunks: list[list[ClipJob]], workers: int) -> str:
    """What the error says."""
    counts = POOLS[pool](chunks, workers)
    next(counts)
    os.kill(busiest(), signal.SIGKILL)
    try:
        for _ in counts:
            pass
    except Exception as error:  # whatever the pool makes of it
        return f"{type(error).__name__}: {error}"
    return "no error"


def stuck(pool: str, chunks: list[list[ClipJob]], workers: int) -> float:
    """Seconds to leave the pool while a worker is stopped."""
    counts = POOLS[pool](chunks, workers)
    next(counts)
    pid = busiest()
    os.kill(pid, signal.SIGSTOP)
    let_go = threading.Timer(10, os.kill, (pid, signal.SIGCONT))
    let_go.start()
    start = time.perf_counter()
    counts.close()  # type: ignore[attr-defined]
    let_go.cancel()
    return time.perf_counter() - start


def left(pool: str, folder: Path, workers: int) -> int:
    """Workers that outlive the converting process."""
    before = set(descendants())
    words = [sys.executable, "-m", "benchmarks.data.pools", "--endless", pool, str(folder)]
    process = subprocess.Popen([*words, "--workers", str(workers)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    there = set(descendants()) - before - {process.pid}
    process.kill()
    process.wait()
    time.sleep(5)
    alive = [pid for pid in there if Path(f"/proc/{pid}").exists()]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return len(alive)


def jobs_of(folder: Path, clips: int) -> list[list[ClipJob]]:
    """Chunks of jobs over the clips of a folder, again and again."""
    files = sorted(folder.glob("*.wav"))
    jobs = [ClipJob(i + 2, str(files[i % len(files)]), None, None) for i in range(clips)]
    return [jobs[i : i + CHUNK] for i in range(0, clips, CHUNK)]


def main() -> None:
    """Measure in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--endless", nargs=2, metavar=("POOL", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.endless:
        pool, folder = options.endless
        for _ in POOLS[pool](jobs_of(Path(folder), 1_000_000), options.workers):
            print("at work", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder), 50, 5.0, 44100)
        chunks = jobs_of(Path(folder), options.clips)
        runs = {pool: list[tuple[float, float, float]]() for pool in POOLS}
        for _ in range(options.repeats):
            for pool in POOLS:
                runs[pool].append(speed(pool, chunks, options.workers))
        for pool, measured in runs.items():
            first, rate, memory = zip(*measured, strict=True)
            emit(
                "pools", ("soundfile", "soxr"), pool=pool, workers=options.workers,
                first_s=spread(first), clips_per_second=spread(rate), workers_mib=spread(memory),
                killed=killed(pool, chunks, options.workers),
                stuck_s=round(stuck(pool, chunks, options.workers), 2),
                left=left(pool, Path(folder), options.workers),
            )  # fmt: skip


if __name__ == "__main__":
    main()

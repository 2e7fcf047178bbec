"""The process that decodes and resamples: clips in, 16-bit samples out, over a socket, until it closes.

Started anew by ``pool.py`` (not forked), it imports numpy, soundfile and soxr and nothing else that is large.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from mdl_toolkit.data.audio.load import AudioLimits, flac_bytes, is_silent, load_waveform, to_pcm16
from mdl_toolkit.data.channel import hush_libraries, receive, send
from mdl_toolkit.errors import DataError

PROGRESS = struct.Struct("<q")
#: Clips that a worker loads at a time.
THREADS = 2


class Job(NamedTuple):
    """A clip to load: the row's number, path or URL, and the segment in seconds."""

    number: int
    source: str
    start: float | None
    end: float | None


class Result(NamedTuple):
    """What became of a job.

    Attributes:
        problem: What is wrong with the clip; ``None``: nothing.
        samples: Its length at the model's rate.
        clipped: Samples beyond full scale.
        silent: Whether nothing is to be heard in it.
        audio: As stored; empty for a reference.
    """

    problem: str | None
    samples: int = 0
    clipped: int = 0
    silent: bool = False
    audio: Any = b""


@dataclass(frozen=True)
class Task:
    """What is the same for all jobs."""

    limits: AudioLimits
    sample_rate: int
    storage: str


def load(job: Job, task: Task) -> Result:
    """Load one clip as it is to be stored."""
    try:
        waveform = load_waveform(
            job.source, start=job.start, end=job.end, limits=task.limits, sample_rate=task.sample_rate
        )
    except DataError as error:
        return Result(str(error))
    except MemoryError:
        return Result(f"{job.source}: not enough memory to decode it")
    pcm, clipped = to_pcm16(waveform)
    if task.storage == "pcm16":
        audio: Any = pcm.data.cast("B")
    else:
        audio = flac_bytes(pcm, task.sample_rate) if task.storage == "flac" else b""
    return Result(None, len(pcm), clipped, is_silent(pcm), audio)


class Loader:
    """Loads chunks of clips, :data:`THREADS` clips at a time.

    The libraries that decode and resample let other threads run meanwhile: one clip is computed while another
    waits for its file, and a single worker makes use of more than one core.

    Args:
        task: What is the same for all jobs.
        progress_fd: File in which the numbers of the rows in hand are kept, so that the pool can name them.
        place: Which of the file's slots, :data:`THREADS` for each worker, are this process's.
    """

    def __init__(self, task: Task, progress_fd: int, place: int) -> None:
        self._task, self._progress_fd, self._first_slot = task, progress_fd, place * THREADS
        self._slots = itertools.count(self._first_slot)
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(THREADS, initializer=self._take_slot)

    def submit(self, jobs: list[Job]) -> list[Future[Result]]:
        """Begin to load a chunk."""
        return [self._threads.submit(self._load, job) for job in jobs]

    def _take_slot(self) -> None:
        self._own.slot = next(self._slots)

    def _load(self, job: Job) -> Result:
        self._note(job.number)
        result = load(job, self._task)
        self._note(0)
        return result

    def _note(self, number: int) -> None:
        os.pwrite(self._progress_fd, PROGRESS.pack(number), self._own.slot * PROGRESS.size)


def serve(connection: socket.socket, loader: Loader) -> None:
    """Load chunk after chunk until the socket closes; one is begun before the results of another are sent."""
    chunks: deque[list[Future[Result]]] = deque()
    arriving = select.poll()
    arriving.register(connection, select.POLLIN)
    while True:
        waiting = bool(arriving.poll(0))
        if chunks and (not waiting or len(chunks) > 1):
            results = [future.result() for future in chunks.popleft()]
            said = [(*r[:-1], len(r.audio)) for r in results]
            send(connection, said, [r.audio for r in results if len(r.audio)])
            continue
        message = receive(connection)
        if message is None:
            return
        chunks.append(loader.submit(message[0]))


def main(socket_fd: int, progress_fd: int, place: int) -> None:
    """Serve until the socket closes.

    Args:
        socket_fd: Connected socket to the pool.
        progress_fd: See :class:`Loader`.
        place: This worker's number.
    """
    hush_libraries()
    connection = socket.socket(fileno=socket_fd)
    try:
        first = receive(connection)
        if first is not None:
            serve(connection, Loader(first[0], progress_fd, place))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the pool has gone: nothing is left to do, and nobody to tell
    os._exit(0)  # without waiting for clips that nobody wants any more

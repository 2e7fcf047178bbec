"""The process that decodes and resamples: clips in, 16-bit samples out, over a socket, until it closes.

Started anew by ``pool.py`` (not forked), it imports numpy, soundfile and soxr and nothing else that is large.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
from mdl_toolkit.data.audio.pcm16 import flac_bytes, is_silent, to_pcm16
from mdl_toolkit.data.child_process import receive, send, set_status, silence_libraries
from mdl_toolkit.errors import DataError, shortage

#: Clips that a worker loads at a time.
THREADS = 2


class ClipJob(NamedTuple):
    """A clip to load.

    Attributes:
        number: The number of its row.
        source: Its path or URL.
        start: Where its segment begins, in seconds; ``None`` for the recording's beginning.
        end: Where its segment ends, in seconds; ``None`` for the recording's end.
    """

    number: int
    source: str
    start: float | None
    end: float | None


class LoadedClip(NamedTuple):
    """A clip as it is stored, or why there is none.

    Attributes:
        problem: What is wrong with the clip; ``None`` where nothing is.
        samples: Its length in samples at the model's rate.
        clipped: The number of samples that were beyond full scale.
        silent: Whether there is no sound in it.
        audio: Its bytes as they are stored; empty for a reference.
    """

    problem: str | None
    samples: int = 0
    clipped: int = 0
    silent: bool = False
    audio: Any = b""


@dataclass(frozen=True)
class LoadOptions:
    """How clips are loaded: what is the same for all jobs.

    Attributes:
        limits: What a row may name.
        sample_rate: The model's rate in Hz.
        storage: ``pcm16``, ``flac`` or ``reference``.
        work: What is done with a job in place of loading its clip to be stored. It is sent to the worker
            processes, so it must be a function of a module, or an object that can be pickled; it may raise
            DataError.
    """

    limits: AudioLimits
    sample_rate: int
    storage: str
    work: Callable[[ClipJob], LoadedClip] | None = None


def load(job: ClipJob, options: LoadOptions) -> LoadedClip:
    """Load one clip as it is to be stored."""
    try:
        if options.work is not None:
            return options.work(job)
        waveform = load_waveform(
            job.source, start=job.start, end=job.end, limits=options.limits, sample_rate=options.sample_rate
        )
    except DataError as error:
        return LoadedClip(str(error))
    except MemoryError:
        return LoadedClip(f"{job.source}: not enough memory to decode it")
    pcm, clipped = to_pcm16(waveform)
    if options.storage == "pcm16":
        audio: Any = pcm.data.cast("B")
    else:
        audio = flac_bytes(pcm, options.sample_rate) if options.storage == "flac" else b""
    return LoadedClip(None, len(pcm), clipped, is_silent(pcm), audio)


class Loader:
    """Loads chunks of clips, :data:`THREADS` clips at a time.

    The libraries that decode and resample let other threads run meanwhile: one clip is computed while another
    waits for its file, and a single worker makes use of more than one core.

    Args:
        options: What is the same for all jobs.
        status_fd: The file descriptor of the pool's ``StatusLines``. Each thread has a line, which says the
            number of the row that it is loading, so that the pool can name it.
        place: The number of this worker; lines ``place * THREADS`` and on are those of its threads.
    """

    def __init__(self, options: LoadOptions, status_fd: int, place: int) -> None:
        self._options, self._status_fd = options, status_fd
        self._lines = itertools.count(place * THREADS)
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(THREADS, initializer=self._take_line)

    def submit(self, jobs: list[ClipJob]) -> list[Future[LoadedClip]]:
        """Begin to load a chunk."""
        return [self._threads.submit(self._load, job) for job in jobs]

    def _take_line(self) -> None:
        self._own.line = next(self._lines)

    def _load(self, job: ClipJob) -> LoadedClip:
        set_status(self._status_fd, self._own.line, str(job.number))
        clip = load(job, self._options)
        set_status(self._status_fd, self._own.line, "")
        return clip


def serve(connection: socket.socket, loader: Loader) -> None:
    """Load chunk after chunk until the socket closes; the next one is begun before results are sent."""
    chunks: deque[list[Future[LoadedClip]]] = deque()
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


def main(socket_fd: int, status_fd: int, place: int) -> None:
    """Serve until the socket closes.

    Args:
        socket_fd: The file descriptor of a socket that is connected to the pool.
        status_fd: The file descriptor of the pool's ``StatusLines``.
        place: The number of this worker.
    """
    silence_libraries()
    connection = socket.socket(fileno=socket_fd)
    try:
        first = receive(connection)
        if first is not None:
            serve(connection, Loader(first[0], status_fd, place))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the pool has gone: nothing is left to do, and nobody to tell
    except RuntimeError as error:
        if (cause := shortage(error)) is None:
            raise
        sys.stderr.write(f"conversion worker {place}: {cause}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # without waiting for clips that nobody wants any more

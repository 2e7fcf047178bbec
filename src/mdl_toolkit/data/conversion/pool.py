"""Worker processes that load clips in parallel; results come in the order of the jobs.

A worker imports little and ends with its socket: when this process is killed, so are its workers. One that
dies is an error which names its rows; one that takes long is named while this process waits.

``concurrent.futures.ProcessPoolExecutor`` was tried in its place (``benchmarks/data/pools.py``; Python 3.11,
two workers on two busy cores, medians of five turns each):

- a worker that is killed: its ``BrokenProcessPool`` names no job, here the message names the rows;
- a worker that doesn't answer: leaving the executor waits until it does (it ends its processes from Python
  3.14 on), leaving this pool takes 0.1 s;
- the converting process is killed: the executor's workers live on, these don't;
- its processes get the terminal's Ctrl-C, import the caller's script again, and queue by semaphores;
- 229 clips a second here, where a worker has two threads, 187 there; 142 with twice as many processes, in
  114 MiB instead of 66.

Threads of a ``ThreadPoolExecutor`` with a worker process each were no shorter: the order, the bytes that may
wait and the chunks that a worker has at once are what this module is about.
"""

from __future__ import annotations

import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from mdl_toolkit.data.child_process import ChildProcess, StatusLines, receive, send
from mdl_toolkit.errors import MdlError, shortage
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.terminal.progress import duration

if TYPE_CHECKING:
    from mdl_toolkit.data.conversion.worker import ClipJob, LoadedClip, LoadOptions

logger = get_logger(__name__)

#: Seconds without any result after which the rows in hand are named.
STALL_SECONDS = 30.0
#: Bytes of results that may wait for an earlier chunk.
MAX_WAITING = 256 << 20
#: Chunks that a worker has at once: two that it loads, and the next.
_QUEUED = 3
#: Chunks given out ahead of the first unfinished one, for each worker.
_AHEAD = 4
#: A message up to this size fits into a socket's buffer even while its reader is busy sending.
_SMALL = 1 << 15


class _Worker(ChildProcess):
    def __init__(self, place: int, status: StatusLines) -> None:
        self.place = place
        #: Number and jobs of the chunks given to it, in order.
        self.chunks: deque[tuple[int, list[ClipJob]]] = deque()
        try:
            fd = status.fileno()
            super().__init__("mdl_toolkit.data.conversion.worker", (fd, place), share=(fd,))
        except OSError as error:
            raise MdlError(
                f"a conversion worker can't be started ({shortage(error) or error.strerror or error}); "
                "try fewer --num-workers"
            ) from error


class WorkerPool:
    """Worker processes that load clips. A context manager: leaving it ends the processes.

    Args:
        count: The number of processes to start now; :meth:`grow` starts more.
    """

    def __init__(self, count: int) -> None:
        self._status = StatusLines()
        self._workers: list[_Worker] = []
        try:
            self.grow(count)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grow(self, count: int) -> None:
        """Start processes until there are ``count``."""
        while len(self._workers) < count:
            self._workers.append(_Worker(len(self._workers), self._status))

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._status.close()

    def run(
        self, chunks: Iterable[list[ClipJob]], options: LoadOptions, name: Callable[[int], str]
    ) -> Iterator[list[LoadedClip]]:
        """Load chunks of clips.

        Args:
            chunks: The jobs, in chunks of as many as a worker takes at a time.
            options: How they are loaded.
            name: Gives a row's name for messages, by its number.

        Yields:
            The results of each chunk, in order.

        Raises:
            MdlError: A worker has died; the message names the rows that it had.
        """
        for worker in self._workers:
            try:
                send(worker.socket, options)
            except OSError:
                raise self._died(worker, name) from None
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.socket, selectors.EVENT_READ, worker)
            yield from self._run(iter(chunks), selector, name)

    def _run(
        self, chunks: Iterator[list[ClipJob]], selector: selectors.BaseSelector, name: Callable[[int], str]
    ) -> Iterator[list[LoadedClip]]:
        finished: dict[int, list[LoadedClip]] = {}
        given = taken = waiting = 0
        more = True
        last = time.monotonic()
        while more or taken < given:
            while more and given - taken < _AHEAD * len(self._workers) and waiting < MAX_WAITING:
                worker = min(self._workers, key=lambda w: len(w.chunks))
                if len(worker.chunks) >= _QUEUED:
                    break
                chunk = next(chunks, None)
                if chunk is None:
                    more = False
                    break
                while not self._give(worker, given, chunk, name):
                    waiting += self._collect(worker, finished, name)
                given += 1
            while taken in finished:
                results = finished.pop(taken)
                waiting -= sum(len(result.audio) for result in results)
                taken += 1
                yield results
                last = time.monotonic()
            if taken == given:
                continue
            for key, _ in selector.select(timeout=1.0):
                waiting += self._collect(key.data, finished, name)
                last = time.monotonic()
            if time.monotonic() - last >= STALL_SECONDS:
                last = time.monotonic()
                rows = [row for worker in self._workers for row in self._in_hand(worker, name)]
                logger.info(
                    f"nothing has come for {duration(STALL_SECONDS)}; in hand: {', '.join(rows) or 'none'}"
                )

    def _give(self, worker: _Worker, number: int, chunk: list[ClipJob], name: Callable[[int], str]) -> bool:
        """Send a chunk to a worker, unless that could block because the worker is busy sending itself."""
        if worker.chunks and sum(len(job.source) + 64 for job in chunk) > _SMALL:
            return False
        worker.chunks.append((number, chunk))
        try:
            send(worker.socket, chunk)
        except OSError:
            raise self._died(worker, name) from None
        return True

    def _collect(
        self, worker: _Worker, finished: dict[int, list[LoadedClip]], name: Callable[[int], str]
    ) -> int:
        """Take one chunk's results from a worker; returns their size in bytes."""
        from mdl_toolkit.data.conversion.worker import LoadedClip

        try:
            message = receive(worker.socket)
        except OSError:
            message = None
        if message is None or not worker.chunks:
            raise self._died(worker, name)
        said, body = message
        number, _ = worker.chunks.popleft()
        results, offset = [], 0
        for problem, samples, clipped, silent, size in said:
            results.append(LoadedClip(problem, samples, clipped, silent, body[offset : offset + size]))
            offset += size
        finished[number] = results
        return len(body)

    def _in_hand(self, worker: _Worker, name: Callable[[int], str]) -> list[str]:
        """Names of the rows that a worker is reading."""
        from mdl_toolkit.data.conversion.worker import THREADS

        first = worker.place * THREADS
        lines = [self._status.read(place) for place in range(first, first + THREADS)]
        return [name(row) for row in sorted(int(line) for line in lines if line)]

    def _died(self, worker: _Worker, name: Callable[[int], str]) -> MdlError:
        how, code = worker.how_it_ended()
        rows = self._in_hand(worker, name)
        jobs = worker.chunks[0][1] if worker.chunks else []
        if rows:
            where = f" while it read {' and '.join(rows)}"
        elif jobs:
            where = f" on rows {jobs[0].number} to {jobs[-1].number}"
        else:
            where = " before it had any row"
        hint = "; out of memory? Try fewer --num-workers" if code == -signal.SIGKILL else ""
        return MdlError(f"a conversion worker {how}{where}{hint}")

"""Micro-batches, prepared ahead by data workers, in exactly the order of the run.

A data worker (``data/batching/preparing.py``) is a new process that shares nothing with the run: it opens the
dataset itself and sends batches through a socket. It ignores the signals that a scheduler or terminal sends
to all processes of a job, and it ends when the run ends, even if the run is killed. For each worker, a thread
of the run gives it one task after the other and takes its batches. The run waits for the next batch, watches
the worker that makes it, and hears signals meanwhile: whatever happens to a worker ends the wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGBUS, SIGKILL
from typing import Any

import torch

from mdl_toolkit.data.batching.collate import PackedBatch
from mdl_toolkit.data.batching.packing import BatchHeader
from mdl_toolkit.data.batching.preparing import BatchFailure, Preparer
from mdl_toolkit.data.child_process import ChildProcess, StatusLines, receive, send
from mdl_toolkit.errors import DataError, MdlError, shortage
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.progress import duration

logger = get_logger(__name__)

Indices = tuple[int, ...]

#: Micro-batches that are kept ready or in work, for each worker.
PREFETCH = 4
#: Bytes of ready micro-batches after which none but the next one is begun.
MAX_READY = 256 << 20
#: Seconds that a single row, or opening the dataset, may take before it is named.
NAMED_SECONDS = 30.0
#: And before the run ends: a network drive that answers again within that time does no harm.
STALL_SECONDS = 600.0
#: Seconds to wait for a worker that somebody has stopped.
STOPPED_SECONDS = 10.0
#: Seconds between two looks while waiting.
TICK = 0.2


class WaitEnded(MdlError):  # noqa: N818 -- somebody asked for it
    """A signal asked the run to stop while it waited for a batch."""


def _never() -> bool:
    return False


class MicroBatches:
    """Micro-batches of one or several datasets, on the device, in the order of the tasks.

    In a ``with`` block the workers serve all calls until its end; else they end with a call's generator.

    Args:
        paths: The folders of the dataset.
        audio_token_id: The id of the audio placeholder.
        device: The device of the micro-batches; to a GPU they are copied from pinned memory, without waiting.
        workers: The number of processes that prepare them. With 0, this process prepares each when it is
            asked for.
        further: The folders of each further dataset. Its rows are numbered on after those of the datasets
            before it; a micro-batch has rows of one dataset.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        audio_token_id: int,
        device: torch.device,
        workers: int,
        further: Sequence[Sequence[Path]] = (),
    ) -> None:
        self._source = ([[Path(path) for path in each] for each in (paths, *further)], audio_token_id)
        self._device, self._workers = device, workers
        self._data_workers: _DataWorkers | None = None
        self._kept = False

    def __enter__(self) -> MicroBatches:
        self._kept = True
        return self

    def __exit__(self, *_: object) -> None:
        self._kept = False
        self._end_data_workers()

    def start(self) -> None:
        """Start the workers now rather than with the first call, so that they get ready meanwhile."""
        if self._workers and self._data_workers is None:
            self._data_workers = _DataWorkers(self._source, self._device, self._workers)

    def __call__(
        self, tasks: Iterable[Indices], interrupted: Callable[[], bool] = _never
    ) -> Generator[PackedBatch, None, None]:
        """The micro-batches of some tasks, in order. Close the generator if it isn't used to its end.

        Args:
            tasks: The rows of each micro-batch.
            interrupted: Says whether to end waiting; it is asked now and then while waiting.

        Raises:
            DataError: A row can't be used; its name is in the message.
            MdlError: A worker has ended, is stopped, or has been at one row for too long.
            WaitEnded: ``interrupted`` said to end waiting.
        """
        return self._by_workers(tasks, interrupted) if self._workers else self._by_itself(tasks)

    def _by_itself(self, tasks: Iterable[Indices]) -> Generator[PackedBatch, None, None]:
        preparer = Preparer(*self._source)
        for indices in tasks:
            made = preparer(indices)
            if isinstance(made, BatchFailure):
                raise _error(made)
            batch = PackedBatch.of(made)
            if self._device.type == "cuda":
                batch = batch.pin_memory()
            yield batch.to(self._device, non_blocking=True)

    def _by_workers(
        self, tasks: Iterable[Indices], interrupted: Callable[[], bool]
    ) -> Generator[PackedBatch, None, None]:
        self.start()
        workers, drained = self._data_workers, False
        assert workers is not None
        try:
            yield from workers.batches(iter(tasks), interrupted)
            drained = True
        finally:
            if not (drained and self._kept):
                self._end_data_workers()

    def _end_data_workers(self) -> None:
        if self._data_workers is not None:
            self._data_workers.close()
            self._data_workers = None


@dataclass(frozen=True)
class _Arrived:
    """A batch as it came from a worker, in memory from which the device can copy it."""

    header: BatchHeader
    body: torch.Tensor


class _DataWorker(ChildProcess):
    """A data worker.

    Attributes:
        place: The number of the worker.
        task: The number of the batch that it is making, if any.
        thread: The thread that gives it tasks and takes its batches.
    """

    def __init__(self, place: int, notes: StatusLines) -> None:
        self.place = place
        self.task: int | None = None
        self.thread: threading.Thread | None = None
        try:
            super().__init__(
                "mdl_toolkit.data.batching.preparing", (notes.fileno(), place), (notes.fileno(),)
            )
        except OSError as error:
            raise MdlError(
                f"a data worker can't be started ({shortage(error) or error.strerror or error}); try fewer "
                "--data-workers, or 0"
            ) from error


class _DataWorkers:
    """Data workers that make batches ahead; :meth:`batches` gives the batches in order.

    Args:
        source: The folders of each dataset, and the id of the audio placeholder.
        device: The device of the batches.
        count: The number of workers.
    """

    def __init__(self, source: tuple[list[list[Path]], int], device: torch.device, count: int) -> None:
        self._source, self._device = source, device
        # All that follows is shared with the threads; it is used only while this lock is held.
        self._changed = threading.Condition()
        self._tasks: deque[tuple[int, Indices]] = deque()
        self._ready: dict[int, _Arrived | BatchFailure] = {}
        self._ready_bytes = self._given = self._taken = 0
        self._problem: MdlError | None = None
        self._closed = False
        self._notes = StatusLines()
        self._workers: list[_DataWorker] = []
        try:
            for place in range(count):
                worker = _DataWorker(place, self._notes)
                self._workers.append(worker)
                worker.thread = threading.Thread(target=self._serve, args=(worker,), daemon=True)
                worker.thread.start()
        except BaseException:
            self.close()
            raise

    def batches(self, tasks: Iterator[Indices], interrupted: Callable[[], bool]) -> Iterator[PackedBatch]:
        """The batches of some tasks; arguments and errors as :meth:`MicroBatches.__call__`."""
        while True:
            while self._given - self._taken < PREFETCH * len(self._workers):
                indices = next(tasks, None)
                if indices is None:
                    break
                with self._changed:
                    self._tasks.append((self._given, indices))
                    self._given += 1
                    self._changed.notify_all()
            if self._taken == self._given:
                return
            found = self._next(interrupted)
            if isinstance(found, BatchFailure):
                raise _error(found)
            yield PackedBatch.from_message(found.header, found.body, self._device)

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            if worker.thread is not None and worker.thread.ident is not None:
                worker.thread.join(timeout=5)
        self._notes.close()

    def _next(self, interrupted: Callable[[], bool]) -> _Arrived | BatchFailure:
        """Wait for the batch that is next."""
        wait = _Wait()
        with self._changed:
            while self._problem is None and self._taken not in self._ready:
                if interrupted():
                    raise WaitEnded("a batch was awaited when a signal asked to stop")
                self._changed.wait(TICK)
                if self._problem is None and self._taken not in self._ready:
                    self._watch(wait)
            if self._problem is not None:
                raise self._problem
            found = self._ready.pop(self._taken)
            self._ready_bytes -= _size(found)
            self._taken += 1
            self._changed.notify_all()
        return found

    def _watch(self, wait: _Wait) -> None:
        """Name a row that takes long, and stop waiting for one that takes for ever."""
        worker = next((worker for worker in self._workers if worker.task == self._taken), None)
        at = self._notes.read(worker.place) if worker else ""
        wait.go_on((worker, at))
        where = f"reads {at}" if at else "prepares a batch"
        pid = worker.process.pid if worker else 0
        if worker is not None and wait.seconds >= STOPPED_SECONDS and worker.is_stopped():
            raise MdlError(
                f"data worker {pid} is stopped (by SIGSTOP) while it {where}; let it run (kill -CONT "
                f"{pid}) or don't stop it"
            )
        if wait.seconds >= STALL_SECONDS:
            raise MdlError(
                f"nothing has moved for {duration(STALL_SECONDS)} while data worker {pid} {where}: its disk "
                "doesn't answer. Look after the disk or network drive, or copy the data to a local one"
            )
        if wait.seconds >= NAMED_SECONDS and not wait.named:
            wait.named = True
            logger.info(
                f"no batch for {duration(NAMED_SECONDS)}: data worker {pid} still {where} (the run "
                f"waits {duration(STALL_SECONDS)} for a row)",
                extra=EVERYWHERE,
            )

    def _serve(self, worker: _DataWorker) -> None:
        """In a thread: give a worker its tasks and take its batches."""
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # else memory would be pinned by way of the first GPU
            send(worker.socket, self._source)
            while (indices := self._task_for(worker)) is not None:
                send(worker.socket, indices)
                arrived = self._receive(worker)
                if arrived is None:
                    raise ConnectionResetError
                with self._changed:
                    assert worker.task is not None
                    self._ready[worker.task] = arrived
                    self._ready_bytes += _size(arrived)
                    worker.task = None
                    self._changed.notify_all()
        except OSError:
            self._report_end(worker, None)
        except BaseException as error:
            self._report_end(worker, error)

    def _task_for(self, worker: _DataWorker) -> Indices | None:
        """Wait for the next task of a worker; ``None`` when there are no more."""
        with self._changed:
            while not self._closed:
                if self._tasks:
                    number, indices = self._tasks[0]
                    # However much is ready, the batch that is waited for is made.
                    if self._ready_bytes < MAX_READY or number == self._taken:
                        self._tasks.popleft()
                        worker.task = number
                        return indices
                self._changed.wait()
        return None

    def _receive(self, worker: _DataWorker) -> _Arrived | BatchFailure | None:
        body = torch.empty(0, dtype=torch.uint8)

        def allocate(size: int) -> memoryview:
            nonlocal body
            body = torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            return memoryview(body.numpy())  # type: ignore[arg-type]

        message = receive(worker.socket, allocate)
        if message is None:
            return None
        said: Any = message[0]
        return said if isinstance(said, BatchFailure) else _Arrived(said, body)

    def _report_end(self, worker: _DataWorker, error: BaseException | None) -> None:
        """Report to the run that a worker makes no further batch."""
        if self._closed:
            return
        at = self._notes.read(worker.place)
        where = f" while it read {at}" if at else ""
        if error is not None:
            problem = f"a batch can't be taken from data worker {worker.process.pid}: {error}"
        else:
            how, code = worker.how_it_ended()
            problem = f"data worker {worker.process.pid} {how}{where}{self._hint(code)}"
        with self._changed:
            self._problem = self._problem or MdlError(problem)
            self._changed.notify_all()

    def _hint(self, code: int | None) -> str:
        if code == -SIGKILL:
            return ", most likely for want of memory: try fewer --data-workers, or a smaller --batch-size"
        if code == -SIGBUS:
            folders = ", ".join(str(folder) for each in self._source[0] for folder in each)
            return f": a file of {folders} was cut short, or its disk can't be read"
        return "; --data-workers 0 prepares batches in the run itself"


@dataclass
class _Wait:
    """How long a batch has been waited for since something last moved.

    Time in which this process itself was stopped (Ctrl-Z, a scheduler's suspension) doesn't count.
    """

    seconds: float = 0.0
    named: bool = False
    _clock: float = 0.0
    _state: object = None

    def __post_init__(self) -> None:
        self._clock = time.monotonic()

    def go_on(self, state: object) -> None:
        """Count the time since the last look, from 0 where the state is another one."""
        now = time.monotonic()
        self.seconds += min(now - self._clock, 2 * TICK)
        self._clock = now
        if state != self._state:
            self._state, self.seconds, self.named = state, 0.0, False


def _size(found: _Arrived | BatchFailure) -> int:
    return found.body.nbytes if isinstance(found, _Arrived) else 0


def _error(failure: BatchFailure) -> MdlError:
    return (DataError if failure.of_data else MdlError)(failure.message)

"""Micro-batches, prepared ahead by worker processes, in exactly the order of the run.

Workers share nothing with the run but the paths of the dataset: they are started from a clean server process
(no threads, no process group, no GPU context to inherit), open the dataset themselves, and don't react to the
signals that a scheduler or terminal sends to all processes of a job: the run decides when to stop.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mdl_toolkit.errors import DataError, MdlError
from mdl_toolkit.train.signals import STOP_SIGNALS

if TYPE_CHECKING:
    from mdl_toolkit.data.collate import PackedBatch
    from mdl_toolkit.data.dataset import ClipDataset

Indices = tuple[int, ...]

#: Micro-batches that each worker keeps ready.
PREFETCH = 4


@dataclass(frozen=True)
class Failure:
    """What went wrong in a worker, as text: an exception may not survive the way between processes."""

    message: str
    of_data: bool


class _Collated(Dataset[Any]):
    """A dataset whose items are whole micro-batches, addressed by tuples of sample indices."""

    def __init__(self, paths: Sequence[Path], audio_token_id: int) -> None:
        self._paths, self._audio_token_id = list(paths), audio_token_id
        self._dataset: ClipDataset | None = None

    def __getitem__(self, indices: Indices) -> PackedBatch | Failure:
        from mdl_toolkit.data.collate import collate
        from mdl_toolkit.data.dataset import ClipDataset

        names: list[str] = []
        try:
            if self._dataset is None:
                self._dataset = ClipDataset.open(self._paths, look=False)
            examples = []
            for index in indices:
                names = [self._dataset.row_names.name(index)]
                examples.append(self._dataset[index])
            names = [self._dataset.row_names.name(index) for index in indices]
            return collate(examples, self._audio_token_id)
        except MdlError as error:
            return Failure(str(error), isinstance(error, DataError))
        except Exception as error:
            where = ", ".join(names) or "the dataset"
            return Failure(f"{where}: can't be prepared: {type(error).__name__}: {error}", False)


class _Order(Sampler[Indices]):
    """Gives out the tasks that it was last handed."""

    def __init__(self, tasks: Iterable[Indices]) -> None:
        self.tasks = tasks

    def __iter__(self) -> Iterator[Indices]:
        return iter(self.tasks)


def _as_it_is(batch: Any) -> Any:
    return batch


class MicroBatches:
    """Micro-batches of a dataset, on the device, in the order of the tasks.

    Args:
        paths: Folders of the dataset.
        audio_token_id: Of the model.
        device: Where the tensors go; on a GPU they are pinned by a thread and copied without waiting.
        workers: Processes that prepare them; 0: this process does it when a batch is asked for.
    """

    def __init__(
        self, paths: Sequence[Path], audio_token_id: int, device: torch.device, workers: int
    ) -> None:
        self._device, self._workers = device, workers
        self._order = _Order(())
        self._loader: DataLoader[Any] = DataLoader(
            _Collated(paths, audio_token_id),
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            multiprocessing_context=_workers_context() if workers else None,
            worker_init_fn=_prepare_worker if workers else None,
            prefetch_factor=PREFETCH if workers else None,
        )

    def __call__(self, tasks: Iterable[Indices]) -> Generator[PackedBatch, None, None]:
        """The micro-batches of some tasks, in order. Close it where it isn't used to its end.

        Raises:
            DataError: A row can't be used; its name is in the message.
            MdlError: A worker ended or failed.
        """
        self._order.tasks = tasks
        before = set(multiprocessing.active_children())
        with _clean_start() if self._workers else contextlib.nullcontext():
            iterator = iter(self._loader)
        return self._batches(iterator, set(multiprocessing.active_children()) - before)

    def _batches(self, iterator: Iterator[Any], workers: set[Any]) -> Generator[PackedBatch, None, None]:
        try:
            while True:
                batch = self._next(iterator)
                if batch is None:
                    return
                if isinstance(batch, Failure):
                    raise (DataError if batch.of_data else MdlError)(batch.message)
                yield batch.to(self._device, non_blocking=True)
        finally:
            # Its workers end with it. One that doesn't has to be killed: it hears no other signal, and Python
            # waits for it at its exit.
            del iterator
            for process in workers:
                if process.is_alive():
                    process.kill()

    def _next(self, iterator: Iterator[Any]) -> PackedBatch | Failure | None:
        try:
            return next(iterator, None)
        except (RuntimeError, OSError, EOFError) as error:
            # What a worker has sent is fetched from it when it is opened: if it is gone, so is that.
            if not self._workers or (isinstance(error, RuntimeError) and "worker" not in str(error)):
                raise
            raise MdlError(
                "a process that prepares batches has ended without a word, for example because the machine "
                "ran out of host memory or /dev/shm; try fewer --data-workers, or 0"
            ) from error


def start_ahead(workers: int) -> None:
    """Start the server that workers are forked from, which imports what they need while others work."""
    if workers:
        _workers_context()
        with _clean_start():
            forkserver.ensure_running()


def _workers_context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mdl_toolkit.train.loader", "mdl_toolkit.data.collate"])
    return context


def _prepare_worker(worker: int) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_run, name="end-with-the-run", daemon=True).start()


def _end_with_the_run() -> None:
    """End this worker when the run is gone, be it killed.

    torch's own watch looks at the parent of this process, which is the server that it was forked from; and
    that lives as long as any worker.
    """
    run = multiprocessing.parent_process()
    assert run is not None
    run.join()
    os._exit(1)


@contextlib.contextmanager
def _clean_start() -> Iterator[None]:
    """Start processes that take no part in the run's signals and don't run its main script again.

    A blocked signal stays blocked in the processes started meanwhile. (Starting the resource tracker unblocks
    some, so it comes first.) New processes import the main script to
    find what was defined there; ours need nothing of it, and a script without the ``__main__`` guard would
    start the training anew in each of them.
    """
    main = sys.modules["__main__"]
    hidden = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main)["__spec__"] = None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for name, value in hidden.items():
            setattr(main, name, value)

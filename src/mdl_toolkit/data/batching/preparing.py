"""The process that prepares micro-batches for training: rows in, bytes out, until its socket closes.

``training/batches/loader.py`` starts it. It imports numpy and pyarrow, not torch.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdl_toolkit.data.batching.packing import Packed, pack, to_message
from mdl_toolkit.data.child_process import receive, send, set_status, silence_libraries
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import DataError, MdlError, shortage


@dataclass(frozen=True)
class BatchFailure:
    """What went wrong with a micro-batch, as text: not every exception can be sent between processes.

    Attributes:
        message: The message for a person.
        of_data: Whether the data is at fault.
    """

    message: str
    of_data: bool


class Preparer:
    """Prepares micro-batches of datasets, which are opened for the first of them.

    Args:
        datasets: The folders of each dataset. Rows are numbered through: those of the second dataset come
            after the last one of the first. A micro-batch has rows of one dataset.
        audio_token_id: The id of the model's audio placeholder.
        note: Called with what is about to be read, and with an empty text when it has been.
    """

    def __init__(
        self,
        datasets: Sequence[Sequence[Path]],
        audio_token_id: int,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folders, self._audio_token_id, self._note = list(datasets), audio_token_id, note
        self._datasets: list[ClipDataset] = []

    def open(self) -> list[ClipDataset]:
        """Open the datasets, unless that was done."""
        for folders in self._folders[len(self._datasets) :]:
            self._note(", ".join(map(str, folders)))
            self._datasets.append(ClipDataset.open(folders, check=False))
            self._note("")
        return self._datasets

    def _of(self, index: int) -> tuple[ClipDataset, int]:
        """The dataset that has a row, and the number of that dataset's first row."""
        first = 0
        for dataset in self.open():
            if index < first + len(dataset):
                return dataset, first
            first += len(dataset)
        raise IndexError(index)

    def __call__(self, indices: Sequence[int]) -> Packed | BatchFailure:
        """The rows with these indices as a batch, or why there is none."""
        made = self._made(indices)
        self._note("")
        return made

    def _made(self, indices: Sequence[int]) -> Packed | BatchFailure:
        names: list[str] = []
        try:
            dataset, first = self._of(indices[0])
            indices = [index - first for index in indices]
            examples = []
            for index in indices:
                names = [dataset.row_name(index)]
                self._note(names[0])
                examples.append(dataset[index])
            names = [dataset.row_name(index) for index in indices]
            packed = pack(examples, self._audio_token_id)
            return replace(packed, indices=tuple(index + first for index in packed.indices))
        except MdlError as error:
            return BatchFailure(str(error), isinstance(error, DataError))
        except MemoryError:
            where = ", ".join(names) or "the dataset"
            return BatchFailure(f"{where}: no memory left to prepare it: try fewer --data-workers", False)
        except Exception as error:
            where = ", ".join(names) or "the dataset"
            return BatchFailure(f"{where}: can't be prepared: {type(error).__name__}: {error}", False)


def main(socket_fd: int, status_fd: int, place: int) -> None:
    """Serve until the socket closes.

    One thread prepares, another listens: so a closed socket is noticed also while a row can't be read.

    Args:
        socket_fd: The file descriptor of a socket that is connected to the run.
        status_fd: The file descriptor of the run's :class:`mdl_toolkit.data.child_process.StatusLines`.
        place: The number of this process.
    """
    silence_libraries()
    connection = socket.socket(fileno=socket_fd)
    tasks: queue.SimpleQueue[tuple[int, ...]] = queue.SimpleQueue()
    try:
        first = receive(connection)
        if first is None:
            return
        datasets, audio_token_id = first[0]
        preparer = Preparer(datasets, audio_token_id, lambda text: set_status(status_fd, place, text))
        try:
            threading.Thread(target=_serve, args=(connection, preparer, tasks), daemon=True).start()
        except RuntimeError as error:
            send(connection, BatchFailure(f"data worker {place}: {shortage(error) or error}", of_data=False))
            return
        while (message := receive(connection)) is not None:
            tasks.put(message[0])
    except OSError:
        pass  # the run has gone: nothing is left to do, and nobody to tell
    finally:
        os._exit(0)


def _serve(connection: socket.socket, preparer: Preparer, tasks: queue.SimpleQueue[tuple[int, ...]]) -> None:
    with contextlib.suppress(Exception):  # the error is reported with the first batch
        preparer.open()  # while the run is still busy with other things
    try:
        while True:
            made = preparer(tasks.get())
            if isinstance(made, BatchFailure):
                send(connection, made)
            else:
                send(connection, *to_message(made))
    except OSError:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # a process that can't answer any more must be seen to end

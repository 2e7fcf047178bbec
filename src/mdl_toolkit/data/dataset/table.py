"""Arrow stream files as one table with fast access to single rows, memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.errors import DataError

#: Numpy's names of types that Arrow names otherwise.
_DTYPES = {"float": "float32", "double": "float64", "halffloat": "float16"}


class Table:
    """The rows of Arrow stream files.

    Args:
        paths: The files, in order.
        sizes: The sizes in bytes that files must have, by file name, where they are known.

    Raises:
        DataError: A file is missing, cut short or not Arrow.
    """

    def __init__(self, paths: Sequence[Path], sizes: Mapping[str, int] | None = None) -> None:
        import pyarrow as pa

        self._batches: list[Any] = []
        self.columns: tuple[str, ...] = ()
        #: Arrow's types of the columns, by name, in Arrow's words.
        self.types: dict[str, str] = {}
        for path in paths:
            try:
                if sizes and path.stat().st_size != sizes[path.name]:
                    raise DataError(
                        f"{path}: {path.stat().st_size} bytes where {sizes[path.name]} were written (cut "
                        "short or changed): convert the dataset again"
                    )
                with pa.memory_map(str(path), "r") as source:
                    reader = pa.ipc.open_stream(source)
                    types = {field.name: str(field.type) for field in reader.schema}
                    columns = tuple(reader.schema.names)
                    batches = [batch for batch in reader if batch.num_rows]
                for batch in batches:
                    # A damaged offset within a column would lead out of the file.
                    batch.validate(full=True)
                self._batches += batches
            except FileNotFoundError as error:
                raise DataError(f"{path}: missing: convert the dataset again") from error
            except (OSError, UnicodeError, pa.ArrowException) as error:
                raise DataError(f"{path}: damaged ({error}): convert the dataset again") from error
            if self.columns and (columns, types) != (self.columns, self.types):
                raise DataError(f"{path}: other columns than the files before it: convert the dataset again")
            self.columns, self.types = columns, types
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def numbers(self, name: str) -> NDArray[np.int64]:
        """A column of whole numbers, int64 [rows]."""
        parts = [_fixed(batch.column(name)) for batch in self._batches]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    def lengths(self, name: str) -> NDArray[np.int64]:
        """Lengths of a column of lists, int64 [rows]."""
        parts = [np.diff(_offsets(batch.column(name))) for batch in self._batches]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    def counts(self, which: Callable[..., NDArray[np.bool_]], *names: str) -> NDArray[np.int64]:
        """How many numbers of each list ``which`` selects, int64 [rows].

        Args:
            which: Says which numbers are counted: it gets those of all lists of each column, laid end to end.
            names: The names of columns whose lists are as long as each other's; nothing is counted where
                they aren't.
        """
        parts = []
        for batch in self._batches:
            columns = [batch.column(name) for name in names]
            places, *others = (_offsets(column).astype(np.int64) for column in columns)
            if any(not np.array_equal(np.diff(places), np.diff(other)) for other in others):
                parts.append(np.zeros(len(batch), dtype=np.int64))
                continue
            such = which(*map(_numbers_of_lists, columns))
            before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(such, dtype=np.int64)])
            parts.append(np.diff(before[places - places[0]]))
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def value(self, name: str, row: int) -> Any:
        """A value as a Python object."""
        batch, place = self._locate(row)
        return batch.column(name)[place].as_py()

    def list_values(self, name: str, row: int) -> NDArray[Any]:
        """A list of numbers, without a copy."""
        batch, place = self._locate(row)
        column = batch.column(name)
        start, stop = _offsets(column)[place : place + 2]
        return _fixed(column.values)[start:stop]

    def has_nulls(self, name: str, row: int) -> bool:
        """Whether a list of numbers, or one of its numbers, is absent: its place then holds just anything."""
        batch, place = self._locate(row)
        column = batch.column(name)
        if not column.null_count and not column.values.null_count:
            return False
        return not column[place].is_valid or bool(column[place].values.null_count)

    def binary(self, name: str, row: int) -> Any:
        """Bytes as a buffer, without a copy."""
        batch, place = self._locate(row)
        return batch.column(name)[place].as_buffer()

    def contents(self, name: str, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """What a column of lists or of bytes holds in a run of rows, laid end to end, without a copy.

        Args:
            name: The name of the column.
            start: The first row.
            stop: The row after the last one.

        Yields:
            Numbers, or bytes as uint8; how many at a time depends on how the file is written.
        """
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            batch, end = self._batches[number], int(self._ends[number])
            first, last = start - end + len(batch), min(stop, end) - end + len(batch)
            start, number = end, number + 1
            column = batch.column(name)
            places = _offsets(column)
            values = _bytes_of(column) if "binary" in str(column.type) else _fixed(column.values)
            yield values[places[first] : places[last]]

    def _locate(self, row: int) -> tuple[Any, int]:
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._batches[number], row - int(self._ends[number - 1] if number else 0)


# Numbers are viewed through their buffers: pyarrow's own ``to_numpy`` imports pandas first.


def _fixed(column: Any) -> NDArray[Any]:
    name = str(column.type)
    dtype = np.dtype(_DTYPES.get(name, name))
    data = column.buffers()[1]
    if data is None:
        return np.zeros(len(column), dtype=dtype)
    return np.frombuffer(data, dtype=dtype, count=len(column), offset=column.offset * dtype.itemsize)


def _numbers_of_lists(column: Any) -> NDArray[Any]:
    places = _offsets(column)
    return _fixed(column.values)[places[0] : places[-1]]


def _bytes_of(column: Any) -> NDArray[np.uint8]:
    data = column.buffers()[2]
    return np.zeros(0, dtype=np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)


def _offsets(column: Any) -> NDArray[Any]:
    dtype = np.dtype(np.int64 if str(column.type).startswith("large_") else np.int32)
    data = column.buffers()[1]
    if data is None or not len(column):
        return np.zeros(len(column) + 1, dtype=dtype)
    return np.frombuffer(data, dtype=dtype, count=len(column) + 1, offset=column.offset * dtype.itemsize)

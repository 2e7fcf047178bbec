"""Writes a dataset folder's files, by record batches of a few megabytes, so that memory doesn't grow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.compat.datasets_format import DATA_NAME, INFO_NAME, STATE_NAME, dataset_info, dataset_state
from mdl_toolkit.data.dataset.manifest import MANIFEST_NAME, DatasetManifest, arrow_schema
from mdl_toolkit.data.prompt.builder import Encoded
from mdl_toolkit.files import write_json

_FLUSH_BYTES = 8 << 20
_FLUSH_ROWS = 1024


class FolderWriter:
    """Fills a folder, row by row.

    Args:
        folder: The folder, which exists and is empty.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa

        self._folder, self._schema = folder, arrow_schema()
        self._file = open(folder / DATA_NAME, "wb", buffering=0)  # noqa: SIM115 -- closed in finish or abandon
        self._stream = pa.ipc.new_stream(self._file, self._schema)
        self._clear()
        self.rows = self.samples = self.tokens = self.supervised = 0

    def _clear(self) -> None:
        self._encoded: list[Encoded] = []
        self._audio: list[Any] = []
        self._plain: list[tuple[int, int, str, float | None, float | None]] = []
        self._bytes = 0

    def add(
        self,
        encoded: Encoded,
        audio: Any,
        *,
        samples: int,
        line: int,
        source: str,
        start: float | None,
        end: float | None,
    ) -> None:
        """Add a row; ``audio`` is its bytes as stored, or ``None`` for a reference."""
        self._encoded.append(encoded)
        self._audio.append(audio)
        self._plain.append((samples, line, source, start, end))
        self._bytes += len(audio) if audio is not None else 0
        self.rows += 1
        self.samples += samples
        self.tokens += len(encoded.input_ids)
        self.supervised += encoded.supervised
        if self._bytes >= _FLUSH_BYTES or len(self._audio) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._audio:
            return
        samples, lines, sources, starts, ends = zip(*self._plain, strict=True)
        columns = [
            _lists([encoded.input_ids for encoded in self._encoded]),
            _lists([encoded.labels for encoded in self._encoded]),
            _binaries(self._audio),
            _numbers(samples, np.int64),
            _numbers([encoded.supervised for encoded in self._encoded], np.int32),
            _numbers(lines, np.int64),
            _strings(sources),
            _seconds(starts),
            _seconds(ends),
        ]
        self._stream.write_batch(pa.record_batch(columns, schema=self._schema))
        self._clear()

    def abandon(self) -> None:
        """Close the file without finishing it; what goes wrong then is of no interest any more."""
        with suppress(OSError):
            self._file.close()

    def finish(self) -> dict[str, int]:
        """Write the rest of the rows; returns the size of each data file in bytes."""
        self._flush()
        self._stream.close()
        size = self._file.tell()
        self._file.close()
        return {DATA_NAME: size}

    def write_manifest(self, manifest: DatasetManifest) -> None:
        """Write the small files; the last thing to do."""
        write_json(self._folder / INFO_NAME, dataset_info(self._schema))
        write_json(self._folder / STATE_NAME, dataset_state(manifest.fingerprint))
        write_json(self._folder / MANIFEST_NAME, manifest.to_json())


# Columns are put together from their buffers: ``pyarrow.array`` imports pandas first, which takes longer than
# a small conversion.


def _offsets(parts: Sequence[Any], dtype: type) -> Any:
    import pyarrow as pa

    return pa.py_buffer(np.cumsum([0, *(len(part) for part in parts)]).astype(dtype))


def _numbers(values: Any, dtype: type) -> Any:
    import pyarrow as pa

    data: NDArray[Any] = np.asarray(values, dtype=dtype)
    return pa.Array.from_buffers(pa.from_numpy_dtype(dtype), len(data), [None, pa.py_buffer(data)])


def _lists(rows: Sequence[Any]) -> Any:
    import pyarrow as pa

    kind, offsets = pa.list_(pa.int32()), _offsets(rows, np.int32)
    return pa.Array.from_buffers(
        kind, len(rows), [None, offsets], children=[_numbers(np.concatenate(rows), np.int32)]
    )


def _strings(texts: Sequence[str]) -> Any:
    import pyarrow as pa

    parts = [text.encode() for text in texts]
    buffers = [None, _offsets(parts, np.int32), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(pa.string(), len(parts), buffers)


def _seconds(values: Sequence[float | None]) -> Any:
    import pyarrow as pa

    there = np.packbits([value is not None for value in values], bitorder="little")
    data = np.array([0.0 if value is None else value for value in values])
    return pa.Array.from_buffers(pa.float64(), len(data), [pa.py_buffer(there), pa.py_buffer(data)])


def _binaries(parts: Sequence[Any]) -> Any:
    """Bytes laid end to end in one buffer; the array takes it over without another copy."""
    import pyarrow as pa

    if parts[0] is None:
        return pa.nulls(len(parts), pa.large_binary())
    buffers = [None, _offsets(parts, np.int64), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(pa.large_binary(), len(parts), buffers)

"""Compressed tables: read as if they weren't, a piece at a time, and refused where they are damaged."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.input.kinds import table_head
from mdl_toolkit.data.input.records import read_header, read_records
from mdl_toolkit.errors import DataError
from support.data.clips import convert_settings, small_task

ROWS = [{"audio": f"clips/{n}.wav", "prediction": f"é {n}"} for n in range(3000)]
TABLES = {
    "csv": "audio,prediction\n" + "".join(f"{r['audio']},{r['prediction']}\n" for r in ROWS),
    "tsv": "audio\tprediction\n" + "".join(f"{r['audio']}\t{r['prediction']}\n" for r in ROWS),
    "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "json": json.dumps(ROWS),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("way", COMPRESS)
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_compressed_table_is_the_table(tmp_path: Path, kind: str, way: str, encoding: str):
    plain, packed = tmp_path / f"t.{kind}", tmp_path / f"t.{kind}.{way}"
    plain.write_bytes(TABLES[kind].encode(encoding))
    packed.write_bytes(COMPRESS[way](plain.read_bytes()))
    rows = list(read_records(plain, encoding))
    assert len(rows) == 3000 and list(read_records(packed, encoding)) == rows
    without_ending = packed.rename(tmp_path / "data")
    assert list(read_records(without_ending, encoding)) == rows
    assert read_header(without_ending, encoding) == ["audio", "prediction"]


def test_parts_of_gzip_laid_end_to_end_are_one_table(tmp_path: Path):
    half = len(TABLES["csv"]) // 2
    parts = [gzip.compress(part.encode()) for part in (TABLES["csv"][:half], TABLES["csv"][half:])]
    (tmp_path / "t.csv.gz").write_bytes(b"".join(parts))
    assert len(list(read_records(tmp_path / "t.csv.gz"))) == 3000


@pytest.mark.parametrize("way", COMPRESS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_one_that_is_cut_short_says_so(tmp_path: Path, way: str, kept: float):
    whole = COMPRESS[way](TABLES["jsonl"].encode())
    path = tmp_path / f"t.jsonl.{way}"
    path.write_bytes(whole[: int(len(whole) * kept)])
    told = (
        rf"/t\.jsonl\.{way}: compressed with \w+, and damaged or cut short \([^(]+\): copy or fetch it again$"
    )
    with pytest.raises(DataError, match=told):
        list(read_records(path))


@pytest.mark.parametrize("way", COMPRESS)
def test_one_with_a_changed_byte_says_so(tmp_path: Path, way: str):
    damaged = bytearray(COMPRESS[way](TABLES["jsonl"].encode()))
    damaged[-6] ^= 0xFF  # in the checksum or the length of the whole
    (tmp_path / "t.jsonl").write_bytes(damaged)
    with pytest.raises(DataError, match="damaged or cut short"):
        list(read_records(tmp_path / "t.jsonl"))


def test_a_byte_of_another_encoding_is_told_by_line(tmp_path: Path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress("audio\na.wav\né.wav\n".encode("cp1252")))
    with pytest.raises(DataError, match=r"t\.csv\.gz line 3: not utf-8 text"):
        list(read_records(tmp_path / "t.csv.gz"))


def test_parquet_within_gzip_is_refused_and_the_head_is_that_of_the_table(tmp_path: Path):
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"PAR1" + bytes(100)))
    with pytest.raises(DataError, match=r"compressed by itself.*unpack it"):
        table_head(tmp_path / "t.gz")
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfaudio"))
    assert table_head(tmp_path / "t.gz") == b"\xef\xbb\xbfaudio"


@pytest.mark.parametrize("filler", [b"a", b" ", b"\0"], ids=["letters", "blanks", "zeros"])
@pytest.mark.parametrize(
    "start", [b"audio\n", b'{"audio": "', b'[{"audio": "'], ids=["csv", "lines", "array"]
)
def test_a_bomb_takes_little_memory(tmp_path: Path, start: bytes, filler: bytes):
    """Some kilobytes of file that hold a line of 200 MB are refused long before it is in memory."""
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as stream:
        stream.write(start)
        for _ in range(200):
            stream.write(filler * (1 << 20))
    assert (tmp_path / "bomb.gz").stat().st_size < 2 << 20
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            list(read_records(tmp_path / "bomb.gz"))
        assert tracemalloc.get_traced_memory()[1] < 160 << 20
    finally:
        tracemalloc.stop()


def test_a_compressed_table_is_converted(tmp_path: Path):
    source = small_task(tmp_path)
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    for table, folder in ((source, "plain"), (packed, "packed")):
        convert_dataset(convert_settings(table, tmp_path / folder))
    plain, unpacked = (ClipDataset.open([tmp_path / folder]) for folder in ("plain", "packed"))
    assert len(plain) == len(unpacked) == 6
    assert all((plain[n].input_ids == unpacked[n].input_ids).all() for n in range(6))

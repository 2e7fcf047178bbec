"""What a file is by its first bytes, and what to do with one that is no table."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path

from mdl_toolkit.compat.datasets_format import INFO_NAME, STATE_NAME
from mdl_toolkit.data.input.compressed import DAMAGED, Compression, compression
from mdl_toolkit.errors import DataError

#: Bytes that are looked at; a tar archive says what it is at byte 257.
HEAD_BYTES = 4096
PARQUET = b"PAR1"
#: What a run writes into its folder first; its ending is a table's.
METRICS = "metrics.jsonl"

_RECORDING = "a recording, not a table: name a CSV with a line for each recording (audio,prediction)"
_UNPACK = "unpack it and name the table in it"
_OFFICE = "save the sheet as CSV UTF-8 and name that file"
#: Beginnings of files, the number of bytes before them, and what the file is.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"an Excel workbook (.xls) or another Office file: {_OFFICE}"),
    (8, b"WAVE", _RECORDING),
    (8, b"AIF", _RECORDING),
    (0, b"fLaC\0", _RECORDING),
    (0, b"OggS\0", _RECORDING),
    (0, b".snd\0", _RECORDING),
    (0, b"caff\0", _RECORDING),
    (0, b"#!AMR", _RECORDING),
    (0, b"ID3\2", _RECORDING),
    (0, b"ID3\3", _RECORDING),
    (0, b"ID3\4", _RECORDING),
    (0, b"\x1a\x45\xdf\xa3", _RECORDING),  # Matroska, WebM
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _RECORDING),  # ASF: wma
    (4, b"ftyp", _RECORDING),  # m4a, mp4
    (257, b"ustar", f"a tar archive: {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_UNPACK}"),
    (0, b"Rar!\x1a", f"a rar archive: {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"compressed with zstd: {_UNPACK}"),
    (0, b"\xff\xff\xff\xff", "a part of a saved dataset (Arrow): name the folder that it is in"),
    (0, b"ARROW1\0", "an Arrow file: write it as Parquet and name that file"),
    (0, b"SQLite format 3\0", "a database (SQLite): write the table as CSV and name that file"),
    (0, b"%PDF-", "a PDF: save the table as CSV and name that file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
)
#: MPEG frames without any header: mp3 and aac. ``FF FE`` is no such frame but the mark of UTF-16.
_FRAMES = re.compile(rb"\xff[\xfa\xfb\xf2\xf3\xf1\xf9]")
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|head)", re.IGNORECASE)
#: Endings of names that recordings have.
RECORDING_ENDINGS = (
    ".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".aif", ".aiff", ".au",
    ".amr", ".wma", ".webm", ".sph", ".caf",
)  # fmt: skip
_TABLE_ENDINGS = (
    ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz",
)  # fmt: skip


def table_head(path: Path) -> bytes:
    """The first bytes of a file that may be a table.

    Raises:
        DataError: The path is a folder, a workbook, a recording, an archive and the like; the message says
            what to do.
    """
    found: str | None
    head = b""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            found = describe_folder(path)
        elif not stat.S_ISREG(mode):
            # A table is read several times, and a pipe can be read once only.
            found = "a pipe or device, not a file: save the table and name that file"
        else:
            with open(path, "rb") as stream:
                head = stream.read(HEAD_BYTES)
            if packed := compression(head):
                head = _unpacked_head(path, packed)
                found = _foreign_packed(path, head, packed)
            else:
                found = _foreign(path, head)
    except DataError:
        raise  # a DataError is a ValueError too
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"{path}: can't be read ({reason or error})") from error
    if found:
        raise DataError(f"{path}: {found}")
    return head


def _unpacked_head(path: Path, packed: Compression) -> bytes:
    """The first bytes of a compressed file, unpacked.

    Raises:
        DataError: It is damaged or cut short.
    """
    try:
        with packed.open(path, "rb") as stream:
            return bytes(stream.read(HEAD_BYTES))
    except (*DAMAGED, OSError) as error:
        raise DataError(damaged_message(path, packed, error)) from error


def damaged_message(path: Path, packed: Compression, error: BaseException) -> str:
    """What to say of a compressed file that can't be unpacked."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{path}: can't be read ({error.strerror})"
    return (
        f"{path}: compressed with {packed.name}, and damaged or cut short ({error}): copy or fetch it again"
    )


def _foreign_packed(path: Path, head: bytes, packed: Compression) -> str | None:
    """What a compressed file holds that can't be a table, or can't be read without unpacking it."""
    if again := compression(head):
        return f"compressed with {packed.name}, and with {again.name} within that: {_UNPACK}"
    if head.startswith(PARQUET):
        return f"Parquet (which is compressed by itself) compressed with {packed.name}: {_UNPACK}"
    found = _foreign(path, head)
    return f"compressed with {packed.name}, and within that {found}" if found else None


def _foreign(path: Path, head: bytes) -> str | None:
    """What a file is that can't be a table."""
    if head.startswith(b"PK\3\4"):
        return _zipped(path)
    for place, magic, what in _MAGIC:
        if head[place : place + len(magic)] == magic and _is_it(head, magic):
            return what
    if _FRAMES.match(head):
        return _RECORDING
    if _WEB_PAGE.match(head):
        return f"a web page (a download that was refused? a workbook saved as one?): {_OFFICE}"
    return None


def _is_it(head: bytes, magic: bytes) -> bool:
    """Whether a mark that could also be the beginning of a text is really that of a file."""
    if magic in (b"WAVE", b"AIF"):
        return head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM")
    if magic in (b"ftyp", b"ustar"):
        return b"\0" in head
    return True


def _zipped(path: Path) -> str:
    """What a zip archive is, by its members: workbooks are zip archives too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    if any(name.startswith("xl/") for name in names):
        return f"an Excel workbook (.xlsx): {_OFFICE}"
    if "content.xml" in names:
        return f"a LibreOffice file (.ods): {_OFFICE}"
    if any(name.startswith("word/") for name in names):
        return "a Word document: save the table in it as CSV UTF-8 and name that file"
    return f"a zip archive: {_UNPACK}"


def describe_folder(path: Path) -> str:
    """What to do with a folder that is given as a table."""
    names = _names(path)
    if is_dataset(names):
        return "a converted dataset, not a table: train takes it as it is; here name the table it was made of"
    if tables := _tables(names):
        return f"a folder; name the table in it: {path / tables[0]}"
    if METRICS in names:
        return "a run's folder, not a table: name a CSV that lists the recordings (audio,prediction)"
    return "a folder, not a table: name a CSV that lists the recordings (audio,prediction)"


def is_dataset(names: Iterable[str]) -> bool:
    """Whether these are the files of a converted dataset, of ours or as the datasets library saves them."""
    return "mdl_dataset.json" in names or {STATE_NAME, INFO_NAME} <= set(names)


def check_dataset(path: Path) -> None:
    """Refuse what is no folder of a converted dataset.

    Raises:
        DataError: It is something else; the message says what to name instead.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such dataset folder")
    if not is_dataset(names := _names(path)):
        remedy = _instead_of_dataset(path, names)
        raise DataError(f"{path}: not a converted dataset (no mdl_dataset.json in it): {remedy}")


def _tables(names: list[str]) -> list[str]:
    return [name for name in _with_ending(names, _TABLE_ENDINGS) if name != METRICS]


def _instead_of_dataset(path: Path, names: list[str]) -> str:
    if "dataset_dict.json" in names:
        parts = [name for name in names if (path / name).is_dir()] or ["PART"]
        return f"a dataset of several parts; name one of its parts: {path / parts[0]}"
    if "config.json" in names:
        return "a model's folder; name the table to train on, or the folder that convert-dataset made of it"
    if tables := _tables(names):
        return f"name the table in it: {path / tables[0]}"
    if METRICS in names:
        return "a run's folder; name the table to train on, or the folder that convert-dataset made of it"
    if _with_ending(names, RECORDING_ENDINGS):
        return "a folder of recordings; name a CSV that lists them (audio,prediction)"
    return "run mdl-toolkit convert-dataset"


def _names(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _with_ending(names: Iterable[str], endings: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.lower().endswith(endings)]

"""Folders of the datasets library as the installed version writes them, and as it reads ours."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from mdl_toolkit.compat import datasets_format
from mdl_toolkit.data.dataset.manifest import arrow_schema

ROW = {
    "input_ids": [1, 2, 3],
    "labels": [-100, 2, 3],
    "audio": b"\0\1",
    "samples": 1,
    "supervised": 2,
    "line": 2,
    "source": "a.wav",
    "start": None,
    "end": 0.5,
}


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _ours(folder: Path) -> Path:
    """A folder with one row, written as a conversion writes it."""
    folder.mkdir()
    schema = arrow_schema()
    data = str(folder / datasets_format.DATA_NAME)
    with pa.OSFile(data, "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        stream.write_table(pa.Table.from_pylist([ROW], schema=schema))
    info, state = datasets_format.dataset_info(schema), datasets_format.dataset_state("0123456789abcdef" * 2)
    (folder / datasets_format.INFO_NAME).write_text(json.dumps(info))
    (folder / datasets_format.STATE_NAME).write_text(json.dumps(state))
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """The same row as the library itself writes it."""
    table = pa.Table.from_pylist([ROW], schema=arrow_schema().remove_metadata())
    datasets.Dataset(table).save_to_disk(str(tmp_path / "theirs"))
    return tmp_path / "theirs"


def test_the_library_opens_our_folder(tmp_path: Path) -> None:
    opened = datasets.load_from_disk(str(_ours(tmp_path / "ours")))
    assert opened[0] == ROW


def test_the_library_writes_the_same_small_files(tmp_path: Path, theirs: Path) -> None:
    """Fails when a version of the library changes its format: then look at what it writes now."""
    ours = _ours(tmp_path / "ours")
    assert sorted(path.name for path in theirs.iterdir()) == sorted(path.name for path in ours.iterdir())
    state = _json(theirs / datasets_format.STATE_NAME)
    assert state == {**_json(ours / datasets_format.STATE_NAME), "_fingerprint": state["_fingerprint"]}
    assert _json(theirs / datasets_format.INFO_NAME) == _json(ours / datasets_format.INFO_NAME)


def test_the_library_describes_columns_as_we_do(theirs: Path) -> None:
    with pa.OSFile(str(theirs / datasets_format.DATA_NAME), "rb") as source:
        schema = pa.ipc.open_stream(source).schema
    assert schema.equals(arrow_schema())
    assert json.loads(schema.metadata[b"huggingface"]) == json.loads(arrow_schema().metadata[b"huggingface"])


def test_we_find_the_data_of_the_librarys_folders(theirs: Path) -> None:
    assert datasets_format.data_files(theirs) == [datasets_format.DATA_NAME]
    (theirs / datasets_format.STATE_NAME).write_text("{}")
    with pytest.raises(ValueError, match="_data_files"):
        datasets_format.data_files(theirs)


def test_the_stream_can_be_read_without_the_small_files(tmp_path: Path) -> None:
    """What remains to a user of the library where it refuses the folder."""
    data = _ours(tmp_path / "ours") / datasets_format.DATA_NAME
    assert datasets.Dataset.from_file(str(data))[0] == ROW

"""Digests of a dataset's rows: the same for the same rows wherever they lie, and other for any change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mdl_toolkit.compat.datasets_format import DATA_NAME
from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.dataset import content
from mdl_toolkit.data.dataset.content import WHAT, block_digests, digests_of, row_digests
from mdl_toolkit.data.dataset.dataset import ClipDataset
from support.data.clips import convert_settings, small_task, tone, write_wav
from support.data.legacy import legacy_row, write_legacy


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_task(tmp_path_factory.mktemp("content") / "task")


def converted(table: Path, folder: Path, **options: Any) -> ClipDataset:
    convert_dataset(convert_settings(table, folder, **options))
    return ClipDataset.open([folder], all_shards=False)


@pytest.fixture(scope="module")
def data(task: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipDataset:
    return converted(task, tmp_path_factory.mktemp("content") / "out")


def rewritten(data: ClipDataset, folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> ClipDataset:
    """A copy whose file somebody has changed, in pieces of other sizes, with all that was said of it kept."""
    shutil.copytree(data.folders[0], folder)
    path = folder / DATA_NAME
    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
    rows = table.to_pylist()
    change(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=table.schema), max_chunksize=2)
    manifest = folder / "mdl_dataset.json"
    text = manifest.read_text().replace(
        str((data.folders[0] / DATA_NAME).stat().st_size), str(path.stat().st_size)
    )
    manifest.write_text(text)
    return ClipDataset.open([folder])


def what_differs(one: ClipDataset, other: ClipDataset) -> dict[int, list[str]]:
    """What differs, by row."""
    pairs = enumerate(zip(row_digests(one, 0), row_digests(other, 0), strict=True))
    found = {
        row: [w for w, a, b in zip(WHAT, ours, theirs, strict=True) if a != b]
        for row, (ours, theirs) in pairs
    }
    assert (digests_of(one, 0, len(one)) == digests_of(other, 0, len(other))) == (not any(found.values()))
    return {row: what for row, what in found.items() if what}


def test_copies_are_equal_however_their_files_are_cut(data: ClipDataset, task: Path, tmp_path: Path):
    assert not what_differs(data, rewritten(data, tmp_path / "copy", lambda rows: None))
    for shard in ("1/2", "2/2"):
        converted(task, tmp_path / shard[0], shard=shard)
    assert not what_differs(data, ClipDataset.open([tmp_path / "1", tmp_path / "2"]))


def other_answer(rows: list[dict[str, Any]]) -> None:
    first, last = (next(i for i, label in enumerate(rows[row]["labels"]) if label != -100) for row in (3, 2))
    rows[3]["labels"][first] = rows[3]["input_ids"][first] = rows[2]["labels"][last] + 1


def other_prompt(rows: list[dict[str, Any]]) -> None:
    rows[3]["input_ids"][0] += 1


def other_sample(rows: list[dict[str, Any]]) -> None:
    audio = bytearray(rows[3]["audio"])
    audio[len(audio) // 2] ^= 1
    rows[3]["audio"] = bytes(audio)


@pytest.mark.parametrize(
    ("change", "what"), [(other_answer, "answer"), (other_prompt, "prompt"), (other_sample, "recording")]
)
def test_a_folder_that_was_changed_by_hand_is_noticed(
    data: ClipDataset, tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], what: str
):
    """Its manifest, and with it the dataset's fingerprint, are those of the other."""
    other = rewritten(data, tmp_path / "copy", change)
    assert other.fingerprint == data.fingerprint
    assert what_differs(data, other) == {3: [what]}


def test_rows_in_another_order_are_other_rows(data: ClipDataset, tmp_path: Path):
    def swap(rows: list[dict[str, Any]]) -> None:
        rows[1], rows[4] = rows[4], rows[1]

    assert {*what_differs(data, rewritten(data, tmp_path / "copy", swap))} == {1, 4}


@pytest.mark.parametrize("storage", ["pcm16", "flac", "reference"])
def test_a_table_that_leads_to_another_recording_is_noticed(task: Path, tmp_path: Path, storage: str):
    """The table is the same, and so is the fingerprint of the conversion."""
    shutil.copytree(task.parent, tmp_path / "task")
    options = {"audio_storage": storage, "base_dir": tmp_path / "task"}
    before = converted(tmp_path / "task" / task.name, tmp_path / "before", **options)
    again = converted(tmp_path / "task" / task.name, tmp_path / "again", **options)
    assert not what_differs(before, again)
    known = row_digests(before, 0)
    clip = tmp_path / "task" / "clips" / "2.wav"
    write_wav(clip, tone(int(before.samples[2]) / 16000, hertz=1234))
    after = converted(tmp_path / "task" / task.name, tmp_path / "after", **options)
    assert before.fingerprint == after.fingerprint and np.array_equal(before.samples, after.samples)
    differ = [row for row, digests in enumerate(row_digests(after, 0)) if digests != known[row]]
    assert differ == [2]


def test_an_answer_that_only_grew_is_no_other_prompt(tmp_path: Path):
    folders = [
        ClipDataset.open([write_legacy(tmp_path / word, [legacy_row(0.2, "a"), legacy_row(0.4, answer)])])
        for word, answer in (("one", "dog"), ("two", "dog and a bird"))
    ]
    assert what_differs(*folders) == {1: ["answer"]}


def test_folders_of_0_1_0_are_compared_too(tmp_path: Path):
    rows = [legacy_row(0.2 + 0.1 * i, "dog") for i in range(4)]
    one = ClipDataset.open([write_legacy(tmp_path / "one", rows)])
    assert not what_differs(one, ClipDataset.open([write_legacy(tmp_path / "same", rows)]))
    rows[2]["input_values"][100] += 0.25
    other = ClipDataset.open([write_legacy(tmp_path / "other", rows)])
    assert other.fingerprint == one.fingerprint
    assert what_differs(one, other) == {2: ["recording"]}


def test_blocks_are_shared_out_and_cover_all_rows(data: ClipDataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(content, "_BLOCK_ROWS", 2)
    alone = block_digests(data, 0, 1)
    assert {**block_digests(data, 0, 2), **block_digests(data, 1, 2)} == alone and {*alone} == {0, 1, 2}
    assert alone[1] == digests_of(data, 2, 4)
    assert len(row_digests(data, 1)) == 2 and row_digests(data, 3) == []


def test_of_a_large_dataset_every_so_many_th_recording_is_read(
    data: ClipDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same ones wherever a block begins: what is read of a block doesn't depend on who reads it."""
    monkeypatch.setattr(content, "_SAMPLE_BYTES", int(data.samples.sum()))
    assert not what_differs(data, rewritten(data, tmp_path / "copy", other_sample))  # row 3

    def even(rows: list[dict[str, Any]]) -> None:
        rows[2]["audio"] = rows[2]["audio"][::-1]

    assert what_differs(data, rewritten(data, tmp_path / "even", even)) == {2: ["recording"]}

"""Folders of the public 0.1.0: read, corrected, checked once a machine."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.dataset.legacy import LegacyFolder
from mdl_toolkit.data.prompt.builder import IGNORED, PromptBuilder
from mdl_toolkit.errors import DataError
from support.data.clips import TINY, tone
from support.data.legacy import legacy_row, write_legacy
from support.data.problems import dataset_problem

BUILDER = PromptBuilder(TINY)
ANSWERS = ("zero", "one two", "a\nb", "assistant\n")


def test_folders_of_0_1_0_are_read_and_their_labels_corrected(tmp_path: Path, capfd):
    rows = [legacy_row(0.5 + 0.4 * i, answer, pad=i) for i, answer in enumerate(ANSWERS)]
    dataset = ClipDataset.open([write_legacy(tmp_path / "old", rows)])
    assert len(dataset) == 4 and dataset.row_name(1) == "old row 2"
    assert "warning" not in capfd.readouterr().err
    dataset.check_model(TINY)
    assert capfd.readouterr().err.count("warning: labels of folders converted by 0.1.0") == 1
    for i, answer in enumerate(ANSWERS):
        example = dataset[i]
        assert BUILDER.decode(example.labels[example.labels != IGNORED]) == f"{answer}<|im_end|>"
        np.testing.assert_allclose(example.waveform, tone(0.5 + 0.4 * i, hertz=300), atol=1e-6)
        assert (dataset.tokens[i], dataset.samples[i]) == (len(example.input_ids), len(example.waveform))
        assert dataset.supervised[i] == np.count_nonzero(example.labels != IGNORED)
    other = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(other[2].labels, dataset[2].labels)
    assert other.fingerprint == dataset.fingerprint


def test_lengths_of_0_1_0_can_be_lists_of_one(tmp_path: Path):
    import datasets

    rows = [
        {**row, "audio_length": [row["audio_length"]]} for row in (legacy_row(0.5, "x"), legacy_row(1.0, "y"))
    ]
    folder = write_legacy(tmp_path / "old", rows, audio_length=datasets.List(datasets.Value("int64")))
    assert ClipDataset.open([folder]).samples.tolist() == [8000, 16000]


def test_a_folder_of_0_1_0_for_another_model_is_refused(tmp_path: Path):
    rows = [legacy_row(0.5, "x"), legacy_row(1.0, "y")]
    end = BUILDER.end_id
    swapped = [{**row, "input_ids": [0 if i == end else i for i in row["input_ids"]]} for row in rows]
    dataset = ClipDataset.open([write_legacy(tmp_path / "old", swapped)])
    with pytest.raises(DataError, match="converted for another model"):
        dataset.check_model(TINY)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"input_ids": [1, 2, 3]}, "3 tokens"),
        ({"input_ids": [5] * 60, "labels": [5] * 60, "attention_mask": [1] * 60}, "not of the form"),
        ({"input_ids": [], "labels": [], "attention_mask": []}, "not of the form"),
        ({"audio_length": 0}, "audio_length is 0"),
        ({"input_ids": [-9, *legacy_row(1.0, "y")["input_ids"][1:]]}, "-9 is no token"),
        ({"audio_length": 900_000}, "16000 stored samples for a clip of 900000"),
        ({"audio_length": None}, "audio_length is None"),
        ({"input_values": None}, "its input_values have gaps"),
        ({"labels": None}, "its labels have gaps"),
        ({"input_values": [0.5, None] * 8000}, "its input_values have gaps"),
    ],
)
def test_rows_of_0_1_0_that_make_no_sense(tmp_path: Path, change: dict, problem: str):
    rows = [legacy_row(0.5, "x"), {**legacy_row(1.0, "y"), **change}]
    message = dataset_problem(write_legacy(tmp_path / "old", rows))
    assert problem in message and "old row 2" in message and "convert the dataset again" in message


def test_all_damaged_rows_of_0_1_0_are_told_of_when_it_is_opened(tmp_path: Path):
    rows = [legacy_row(0.5 + 0.1 * i, "x") for i in range(30)]
    rows[0]["input_values"] = rows[0]["input_values"][:100]
    rows[7]["input_values"][5] = float("nan")
    rows[8]["input_values"] += [float("inf")]  # padding, which nobody reads
    placeholder = rows[29]["input_ids"].index(BUILDER.audio_token_id)
    rows[29]["input_ids"][placeholder] = 0
    with pytest.raises(DataError) as caught:
        ClipDataset.open([write_legacy(tmp_path / "old", rows)])
    first, *named, last = str(caught.value).splitlines()
    assert first == f"3 of 30 rows of {tmp_path / 'old'} are damaged:"
    assert [line.partition(":")[0].strip() for line in named] == ["old row 1", "old row 8", "old row 30"]
    assert "100 stored samples for a clip of 8000" in named[0]
    assert "sample 6 of 19200 is not a finite number" in named[1]
    expected = BUILDER.geometry.audio_tokens(54400)
    assert f"{expected - 1} audio placeholders" in named[2] and f"makes {expected} audio" in named[2]
    assert last == "  convert the dataset again"


def test_placeholders_that_are_missing_everywhere(tmp_path: Path):
    rows = [legacy_row(3.0 + i, "x") for i in range(2)]
    for row in rows:
        ids = row["input_ids"]
        ids[:] = [i % 2 if token == BUILDER.audio_token_id else token for i, token in enumerate(ids)]
    message = dataset_problem(write_legacy(tmp_path / "old", rows))
    assert "old row 2: no one token stands" in message and "64000 samples" in message


def test_the_damaged_row_may_be_the_first_or_the_longest(tmp_path: Path):
    for place in (0, 4):
        rows = [legacy_row(0.5 + 0.3 * i, "x") for i in range(5)]
        rows[place]["input_ids"] = rows[place]["input_ids"][::-1]
        message = dataset_problem(write_legacy(tmp_path / f"old{place}", rows))
        assert f"old{place} row {place + 1}: its text is not of the form" in message


def _checked_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    looked: list[int] = []
    check_row = LegacyFolder._check_row
    monkeypatch.setattr(
        LegacyFolder, "_check_row", lambda self, row, *args: looked.append(row) or check_row(self, row, *args)
    )
    return looked


@pytest.mark.parametrize("damaged", [False, True])
def test_a_folder_of_0_1_0_is_looked_through_once(tmp_path: Path, monkeypatch, damaged: bool):
    looked = _checked_rows(monkeypatch)
    rows = [legacy_row(0.5 + 0.1 * i, "x") for i in range(3)]
    if damaged:
        rows[1]["audio_length"] = 0
    folder = write_legacy(tmp_path / "old", rows)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    before = sorted(path.name for path in folder.iterdir())

    def opened() -> str | list[int]:
        try:
            return ClipDataset.open([folder]).tokens.tolist()
        except DataError as error:
            return str(error)

    first = opened()
    assert sorted(looked) == [0, 1, 2]
    assert opened() == first and len(looked) == 3
    assert sorted(path.name for path in folder.iterdir()) == before
    os.utime(next(folder.glob("*.arrow")), (1, 1))
    assert opened() == first and len(looked) == 6
    folder.chmod(0o755)


def test_where_nothing_can_be_kept_it_is_looked_through_each_time(tmp_path: Path, monkeypatch):
    looked = _checked_rows(monkeypatch)
    folder = write_legacy(tmp_path / "old", [legacy_row(0.5, "x"), legacy_row(0.8, "y")])
    (tmp_path / "file").touch()
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    dataset = ClipDataset.open([folder])
    ClipDataset.open([folder])
    assert len(looked) == 4
    # A process that prepares batches leaves the samples to the one that started it.
    monkeypatch.setattr(LegacyFolder, "_samples", lambda *_: pytest.fail("samples were looked at"))
    assert pickle.loads(pickle.dumps(dataset)).samples.tolist() == [8000, 12800]


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x93NUMPY", None])
def test_a_damaged_finding_is_made_anew(tmp_path: Path, monkeypatch, content: bytes | None):
    looked = _checked_rows(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_legacy(tmp_path / "old", [legacy_row(0.5, "x"), legacy_row(0.8, "y")])
    ClipDataset.open([folder])
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    kept.write_bytes(kept.read_bytes()[:-60] if content is None else content)
    assert ClipDataset.open([folder]).samples.tolist() == [8000, 12800]
    assert len(looked) == 4


def test_several_processes_look_through_a_folder_once(tmp_path: Path):
    folder = write_legacy(tmp_path / "old", [legacy_row(0.5 + 0.1 * i, "x") for i in range(4)])
    code = (
        "import sys, time\n"
        "from mdl_toolkit.data.dataset.legacy import LegacyFolder as P\n"
        "check = P._check_rows\n"
        "def slow(self, *a):\n  print('looked', flush=True); time.sleep(1.5); return check(self, *a)\n"
        "P._check_rows = slow\n"
        "from mdl_toolkit.data.dataset.dataset import ClipDataset; from pathlib import Path\n"
        "print(len(ClipDataset.open([Path(sys.argv[1])])))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "LOCAL_RANK": str(rank)},
        )
        for rank in range(3)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(word for words in said for word in words) == ["4", "4", "4", "looked"]

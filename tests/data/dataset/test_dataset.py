"""Converted folders: rows by index, refusal of what is damaged or of another model."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mdl_toolkit.compat.datasets_format import DATA_NAME
from mdl_toolkit.data.audio.pcm16 import from_pcm16
from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.dataset.manifest import MANIFEST_NAME
from mdl_toolkit.data.prompt.builder import IGNORED, PromptBuilder
from mdl_toolkit.errors import DataError, ModelError
from support.data.clips import TINY, convert_settings, small_task, tone, write_csv, write_wav
from support.data.legacy import legacy_row, write_legacy
from support.data.problems import dataset_problem

BUILDER = PromptBuilder(TINY)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    convert_dataset(convert_settings(small_task(folder / "task"), folder / "out"))
    return folder / "out"


@pytest.fixture
def copied(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "copy"))


def test_rows_by_index(converted: Path):
    dataset = ClipDataset.open([converted])
    assert dataset[-1].row == dataset[5].row == "rows.csv row 7 (clips/5.wav)"
    assert dataset[-1].index == 5
    assert dataset[0].waveform.dtype == np.float32
    assert dataset[0].input_ids.dtype == dataset[0].labels.dtype == np.int64
    for index in (6, -7):
        with pytest.raises(IndexError):
            dataset[index]


def test_it_travels_to_other_processes(converted: Path):
    dataset = ClipDataset.open([converted])
    data = pickle.dumps(dataset)
    assert len(data) < 1000  # paths, not rows
    other = pickle.loads(data)
    assert other.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(other[3].waveform, dataset[3].waveform)


def test_16_bit_samples_to_floats():
    pcm = np.array([-32768, -1, 0, 1, 32767], dtype="<i2")
    floats = from_pcm16(pcm.tobytes())
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats * 32768, pcm)


def test_what_is_no_dataset(tmp_path: Path, converted: Path):
    assert "no such dataset folder" in dataset_problem(tmp_path / "none")
    assert "run mdl-toolkit convert-dataset" in dataset_problem(tmp_path)
    assert "no such dataset folder" in dataset_problem(converted / DATA_NAME)
    with pytest.raises(DataError, match="no dataset folder named"):
        ClipDataset.open([])


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_table_cut_short_is_noticed_when_it_is_opened(copied: Path, size: int):
    data = (copied / DATA_NAME).read_bytes()
    (copied / DATA_NAME).write_bytes(data[: size or -1])
    assert "cut short" in dataset_problem(copied)


def test_a_table_of_garbage_is_noticed(copied: Path):
    size = (copied / DATA_NAME).stat().st_size
    (copied / DATA_NAME).write_bytes(b"x" * size)
    assert "damaged" in dataset_problem(copied)
    (copied / DATA_NAME).unlink()
    assert "missing" in dataset_problem(copied)


def test_damaged_places_within_a_column_are_noticed(copied: Path):
    """Offsets that lead out of the file: following them would end the process."""
    data = bytearray((copied / DATA_NAME).read_bytes())
    samples = [4800 + 1600 * i for i in range(6)]
    offsets = np.cumsum([0, *(2 * n for n in samples)]).astype("<i8").tobytes()
    place = data.index(offsets)
    data[place + 8 : place + 16] = (2**40).to_bytes(8, "little")
    (copied / DATA_NAME).write_bytes(data)
    assert "damaged" in dataset_problem(copied)


def _edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 5}, {"rows": "6"}, {"format": 2}, {"format": None}, {"files": {"../../x": 3}}, {"files": 3},
        {"geometry": {"x": 1}}, {"geometry": 3}, {"prompts": {}}, {"prompts": {"seen": [1]}}, {"shard": "x"},
        {"source": 3}, {"audio_token_id": "x"}, {"tokens": None}, {"files": {}},
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_an_error_and_no_traceback(copied: Path, changes: dict):
    _edit(copied, **changes)
    dataset_problem(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\xff"])
def test_a_manifest_that_is_none(copied: Path, text: str):
    (copied / MANIFEST_NAME).write_text(text, encoding="latin-1")
    dataset_problem(copied)


def test_a_model_that_reads_otherwise_is_refused(converted: Path, tmp_path: Path):
    dataset = ClipDataset.open([converted])
    dataset.check_model(TINY)
    other = tmp_path / "model"
    shutil.copytree(TINY, other, ignore=shutil.ignore_patterns("*.safetensors"))
    dataset.check_model(other)
    template = other / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    with pytest.raises(DataError) as caught:
        dataset.check_model(other)
    assert str(converted) in str(caught.value) and str(other) in str(caught.value)
    assert "--model-name" in str(caught.value)
    with pytest.raises(ModelError):
        dataset.check_model(tmp_path)


def test_placeholders_and_clip_must_agree(converted: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = ClipDataset.open([converted])
    monkeypatch.setattr(dataset._parts[0], "waveform", lambda row: np.zeros(6400 + 3200, dtype=np.float32))
    with pytest.raises(DataError, match=r"row 3 .* 9600 samples, 6400 when"):
        dataset[1]
    dataset._parts[0].samples[1] = 9600
    with pytest.raises(DataError, match=r"row 3 .*2 audio placeholders .* 9600 samples makes 3 audio tokens"):
        dataset[1]


def _rewritten(folder: Path, column: str, change) -> Path:
    """The folder with one row's value changed, of the size that its manifest says."""
    path = folder / DATA_NAME
    with pa.ipc.open_stream(path.read_bytes()) as reader:
        table = reader.read_all()
    rows = table.to_pylist()
    rows[2][column] = change(rows[2][column])
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    _edit(folder, files={DATA_NAME: path.stat().st_size})
    return folder


@pytest.mark.parametrize(
    ("storage", "column", "change", "problem"),
    [
        ("pcm16", "audio", lambda audio: audio[:-2], "15998 bytes of audio for 8000 samples"),
        ("pcm16", "audio", lambda audio: None, "0 bytes of audio for 8000 samples"),
        ("pcm16", "samples", lambda samples: 0, "its clip has 0 samples"),
        ("pcm16", "labels", lambda labels: labels[1:], "tokens and"),
        ("pcm16", "input_ids", lambda ids: None, "0 tokens and"),
        ("pcm16", "labels", lambda labels: [IGNORED] * len(labels), "0 supervised tokens where"),
        ("pcm16", "input_ids", lambda ids: [ids[0]] * len(ids), "0 audio placeholders in the text"),
        ("pcm16", "input_ids", lambda ids: [-7, *ids[1:]], "1 of its tokens or labels are none"),
        ("pcm16", "labels", lambda labels: [*labels[:-1], 3], "1 of its tokens or labels are none"),
        ("flac", "audio", lambda audio: b"fLaC", "its stored audio has -1 samples, 8000 when"),
        ("flac", "audio", lambda audio: None, "its stored audio has -1 samples, 8000 when"),
        ("flac", "samples", lambda samples: 8001, "its stored audio has 8000 samples, 8001 when"),
        ("reference", "samples", lambda samples: 80_000, "audio placeholders in the text"),
    ],
)
def test_damaged_rows_are_told_of_when_a_folder_is_opened(tmp_path: Path, storage, column, change, problem):
    source = small_task(tmp_path / "task")
    convert_dataset(convert_settings(source, tmp_path / "out", audio_storage=storage))
    message = dataset_problem(_rewritten(tmp_path / "out", column, change))
    assert message.startswith("rows.csv row 4 (clips/2.wav): ") and problem in message
    assert message.endswith(": convert the dataset again")
    # A process that prepares batches leaves it to the one that started it.
    assert len(ClipDataset.open([tmp_path / "out"], check=False)) == 6


def test_all_missing_recordings_are_told_of_when_a_folder_is_opened(tmp_path: Path, monkeypatch):
    source = small_task(tmp_path / "task")
    convert_dataset(convert_settings(source, tmp_path / "out", audio_storage="reference"))
    for i in (1, 4):
        (tmp_path / "task" / "clips" / f"{i}.wav").unlink()
    with pytest.raises(DataError) as caught:
        ClipDataset.open([tmp_path / "out"])
    assert re.sub(r"/\S+/", "", str(caught.value)).splitlines() == [
        "2 of 6 rows of out are damaged:",
        "  rows.csv row 3 (clips/1.wav): 1.wav: no such file",
        "  rows.csv row 6 (clips/4.wav): 4.wav: no such file",
        "  put the recordings back, or convert the dataset again",
    ]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert len(ClipDataset.open([tmp_path / "out"])) == 6, "one process of a machine is enough"


def test_tokens_that_the_model_has_not(copied: Path, tmp_path: Path):
    def spoilt(ids: list[int]) -> list[int]:
        return [ids[0], 1_000_000, *ids[2:]]

    dataset = ClipDataset.open([_rewritten(copied, "input_ids", spoilt)])
    with pytest.raises(DataError, match=r"rows\.csv row 4 .*tokens beyond the 1280 of"):
        dataset.check_model(TINY)
    rows = [legacy_row(0.5, "x"), legacy_row(1.0, "y")]
    rows[1]["input_ids"][4] = 1280
    with pytest.raises(DataError, match="old row 2: it has tokens beyond the 1280 of"):
        ClipDataset.open([write_legacy(tmp_path / "old", rows)]).check_model(TINY)


def test_several_datasets_are_one(tmp_path: Path, converted: Path):
    write_wav(tmp_path / "x.wav", tone(0.4))
    source = write_csv(tmp_path / "more.csv", ["audio", "prediction"], [("x.wav", "x")])
    convert_dataset(convert_settings(source, tmp_path / "more", user_prompt="Q"))
    joined = ClipDataset.open([converted, tmp_path / "more"])
    assert len(joined) == 7 == joined.manifest.rows
    assert joined.row_name(6) == "more.csv row 2 (x.wav)"
    alone = [ClipDataset.open([path]).fingerprint for path in (converted, tmp_path / "more")]
    assert joined.fingerprint not in alone
    assert joined.fingerprint != ClipDataset.open([tmp_path / "more", converted]).fingerprint
    assert joined.manifest.tokens == joined.tokens.sum()
    uses = {(use.user_prompt, use.rows) for use in joined.manifest.prompts.seen}
    assert uses == {(None, 6), ("Q", 1)}
    copy = tmp_path / "other-model"
    shutil.copytree(tmp_path / "more", copy)
    _edit(copy, processing_fingerprint="0" * 32)
    assert "converted for another model" in dataset_problem(converted, copy)


# Folders of 0.1.0 -------------------------------------------------------------------------------------------


def test_columns_of_other_types_are_told_apart(tmp_path: Path, copied: Path):
    import datasets

    table = {name: [[[1.0]]] for name in ("input_ids", "attention_mask", "labels", "input_values")}
    datasets.Dataset.from_dict({**table, "audio_length": [1]}).save_to_disk(str(tmp_path / "nested"))
    assert "its input_ids are list<" in dataset_problem(tmp_path / "nested")
    path = copied / DATA_NAME
    with pa.ipc.open_stream(path.read_bytes()) as reader:
        rows = reader.read_all()
    rows = rows.set_column(rows.column_names.index("samples"), "samples", rows["samples"].cast(pa.float64()))
    with pa.ipc.new_stream(path, rows.schema) as writer:
        writer.write_table(rows)
    _edit(copied, files={DATA_NAME: path.stat().st_size})
    assert "its column samples is double, not int64" in dataset_problem(copied)


def test_other_folders_of_the_library_are_told_apart(tmp_path: Path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
    assert "not a dataset of clips (no column input_ids" in dataset_problem(tmp_path / "text")
    state = tmp_path / "text" / "state.json"
    state.write_text(state.read_text().replace("data-", "../data-"))
    assert "outside of its folder" in dataset_problem(tmp_path / "text")
    state.write_text("{}")
    assert "damaged" in dataset_problem(tmp_path / "text")

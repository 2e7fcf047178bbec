"""Converted folders: rows by index, refusal of what is damaged or of another model, folders of 0.1.0."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from mdl_toolkit.data.convert import convert_dataset
from mdl_toolkit.data.dataset import ClipDataset, pcm16_to_float
from mdl_toolkit.data.folder import DATA_NAME, MANIFEST_NAME
from mdl_toolkit.data.prompt import IGNORED, PromptBuilder
from mdl_toolkit.errors import DataError, ModelError
from support.clips import TINY, convert_settings, small_task, tone, write_csv, write_wav

BUILDER = PromptBuilder(TINY)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    convert_dataset(convert_settings(small_task(folder / "task"), folder / "out"))
    return folder / "out"


@pytest.fixture
def copied(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "copy"))


def _problem(*folders: Path) -> str:
    with pytest.raises(DataError) as caught:
        ClipDataset.open(folders)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    floats = pcm16_to_float(pcm.tobytes())
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats * 32768, pcm)


def test_what_is_no_dataset(tmp_path: Path, converted: Path):
    assert "no such dataset folder" in _problem(tmp_path / "none")
    assert "run mdl-toolkit convert-dataset" in _problem(tmp_path)
    assert "no such dataset folder" in _problem(converted / DATA_NAME)
    with pytest.raises(DataError, match="no dataset folder named"):
        ClipDataset.open([])


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_table_cut_short_is_noticed_when_it_is_opened(copied: Path, size: int):
    data = (copied / DATA_NAME).read_bytes()
    (copied / DATA_NAME).write_bytes(data[: size or -1])
    assert "cut short" in _problem(copied)


def test_a_table_of_garbage_is_noticed(copied: Path):
    size = (copied / DATA_NAME).stat().st_size
    (copied / DATA_NAME).write_bytes(b"x" * size)
    assert "damaged" in _problem(copied)
    (copied / DATA_NAME).unlink()
    assert "missing" in _problem(copied)


def test_damaged_places_within_a_column_are_noticed(copied: Path):
    """Offsets that lead out of the file: following them would end the process."""
    data = bytearray((copied / DATA_NAME).read_bytes())
    samples = [4800 + 1600 * i for i in range(6)]
    offsets = np.cumsum([0, *(2 * n for n in samples)]).astype("<i8").tobytes()
    place = data.index(offsets)
    data[place + 8 : place + 16] = (2**40).to_bytes(8, "little")
    (copied / DATA_NAME).write_bytes(data)
    assert "damaged" in _problem(copied)


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
    _problem(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\xff"])
def test_a_manifest_that_is_none(copied: Path, text: str):
    (copied / MANIFEST_NAME).write_text(text, encoding="latin-1")
    _problem(copied)


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


def test_several_datasets_are_one(tmp_path: Path, converted: Path):
    write_wav(tmp_path / "x.wav", tone(0.4))
    source = write_csv(tmp_path / "more.csv", ["audio", "prediction"], [("x.wav", "x")])
    convert_dataset(convert_settings(source, tmp_path / "more", user_prompt="Q"))
    joined = ClipDataset.open([converted, tmp_path / "more"])
    assert len(joined) == 7 == joined.manifest.rows
    assert joined.row_names.name(6) == "more.csv row 2 (x.wav)"
    alone = [ClipDataset.open([path]).fingerprint for path in (converted, tmp_path / "more")]
    assert joined.fingerprint not in alone
    assert joined.fingerprint != ClipDataset.open([tmp_path / "more", converted]).fingerprint
    assert joined.manifest.tokens == joined.tokens.sum()
    uses = {(use.user_prompt, use.rows) for use in joined.manifest.prompts.seen}
    assert uses == {(None, 6), ("Q", 1)} and joined.manifest.prompts.varies
    copy = tmp_path / "other-model"
    shutil.copytree(tmp_path / "more", copy)
    _edit(copy, processing_fingerprint="0" * 32)
    assert "converted for another model" in _problem(converted, copy)


# Folders of 0.1.0 -------------------------------------------------------------------------------------------


def _legacy_row(seconds: float, answer: str, pad: int = 0) -> dict:
    samples = round(seconds * 16000)
    count = BUILDER.geometry.audio_tokens(samples)
    prompt = BUILDER.encode("Listen.", "What\nis it?", count, None).input_ids.tolist()
    answered = BUILDER.encode("Listen.", "What\nis it?", count, answer).input_ids.tolist()
    newline = BUILDER.tokenizer.encode("\n").ids
    header = 2 + len(BUILDER.tokenizer.encode("assistant").ids)
    ids = [*answered, *newline]
    # Header, answer, its end, and the newline after it are all learned.
    labels = [IGNORED] * (len(prompt) - header) + ids[len(prompt) - header :]
    return {
        "input_ids": [0] * pad + ids,
        "attention_mask": [0] * pad + [1] * len(ids),
        "labels": [IGNORED] * pad + labels,
        "input_values": tone(seconds, hertz=300).tolist() + [0.0] * pad,
        "audio_length": samples,
    }


def _legacy(folder: Path, rows: list[dict], **columns: object) -> Path:
    import datasets

    table = {name: [row[name] for row in rows] for name in rows[0]}
    features = datasets.Features(
        {
            "input_ids": datasets.List(datasets.Value("int64")),
            "attention_mask": datasets.List(datasets.Value("int8")),
            "labels": datasets.List(datasets.Value("int64")),
            "input_values": datasets.List(datasets.Value("float32")),
            "audio_length": columns.get("audio_length", datasets.Value("int64")),
        }
    )
    datasets.Dataset.from_dict(table, features=features).save_to_disk(str(folder))
    return folder


ANSWERS = ("zero", "one two", "a\nb", "assistant\n")


def test_folders_of_0_1_0_are_read_and_their_labels_corrected(tmp_path: Path, capfd):
    rows = [_legacy_row(0.5 + 0.4 * i, answer, pad=i) for i, answer in enumerate(ANSWERS)]
    dataset = ClipDataset.open([_legacy(tmp_path / "old", rows)])
    assert len(dataset) == 4 and dataset.row_names.name(1) == "old row 2"
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
        {**row, "audio_length": [row["audio_length"]]}
        for row in (_legacy_row(0.5, "x"), _legacy_row(1.0, "y"))
    ]
    folder = _legacy(tmp_path / "old", rows, audio_length=datasets.List(datasets.Value("int64")))
    assert ClipDataset.open([folder]).samples.tolist() == [8000, 16000]


def test_a_folder_of_0_1_0_for_another_model_is_refused(tmp_path: Path):
    rows = [_legacy_row(0.5, "x"), _legacy_row(1.0, "y")]
    end = BUILDER.end_id
    swapped = [{**row, "input_ids": [0 if i == end else i for i in row["input_ids"]]} for row in rows]
    dataset = ClipDataset.open([_legacy(tmp_path / "old", swapped)])
    with pytest.raises(DataError, match="converted for another model"):
        dataset.check_model(TINY)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"input_ids": [1, 2, 3]}, "3 tokens"),
        ({"input_ids": [5] * 60, "labels": [5] * 60, "attention_mask": [1] * 60}, "not of the form"),
        ({"input_ids": [], "labels": [], "attention_mask": []}, "not of the form"),
        ({"audio_length": 0}, "audio_length is 0"),
        ({"audio_length": 900_000}, "no one token stands"),
    ],
)
def test_rows_of_0_1_0_that_make_no_sense(tmp_path: Path, change: dict, problem: str):
    rows = [_legacy_row(0.5, "x"), {**_legacy_row(1.0, "y"), **change}]
    message = _problem(_legacy(tmp_path / "old", rows))
    assert problem in message and "old row 2" in message and "convert the dataset again" in message


def test_samples_of_0_1_0_that_are_missing_or_no_numbers(tmp_path: Path):
    rows = [_legacy_row(0.5, "x"), _legacy_row(1.0, "y")]
    rows[0]["input_values"] = rows[0]["input_values"][:100]
    rows[1]["input_values"][5] = float("nan")
    dataset = ClipDataset.open([_legacy(tmp_path / "old", rows)])
    for i in range(2):
        with pytest.raises(DataError, match=f"old row {i + 1}"):
            dataset[i]


def test_other_folders_of_the_library_are_told_apart(tmp_path: Path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
    assert "not a dataset of clips (no column input_ids" in _problem(tmp_path / "text")
    state = tmp_path / "text" / "state.json"
    state.write_text(state.read_text().replace("data-", "../data-"))
    assert "outside of its folder" in _problem(tmp_path / "text")
    state.write_text("{}")
    assert "damaged" in _problem(tmp_path / "text")

"""What people give as a table: each kind of file is read, or named with what to do."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdl_toolkit.data.conversion.command import convert_dataset, convert_once
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.input.jsonfile import ArrayError, read_array
from mdl_toolkit.data.input.records import BadRow, Row, read_layout, read_records
from mdl_toolkit.errors import DataError, SettingsError
from support.data.clips import TINY, convert_options, convert_settings, small_task, tone, wav_bytes

ROWS = [{"audio": "a.wav", "prediction": "zero"}, {"audio": "b.wav", "prediction": "null", "n": None}]


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train.csv"), io.BytesIO(b""))
    return buffer.getvalue()


def _problem(path: Path, encoding: str = "utf-8") -> str:
    with pytest.raises(DataError) as caught:
        list(read_records(path, encoding))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


FOREIGN = {
    "workbook": (_zip("[Content_Types].xml", "xl/workbook.xml"), ["Excel workbook (.xlsx)", "as CSV UTF-8"]),
    "old workbook": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
        ["Excel workbook (.xls)", "as CSV UTF-8"],
    ),
    "libreoffice": (_zip("mimetype", "content.xml"), ["LibreOffice", "as CSV UTF-8"]),
    "word": (_zip("word/document.xml"), ["Word document"]),
    "zip": (_zip("train.csv"), ["zip archive", "unpack it"]),
    "damaged zip": (_zip("train.csv")[:30], ["zip archive", "unpack it"]),
    "tar": (_tar(), ["tar archive", "unpack it"]),
    "cut gzip": (gzip.compress(b"audio,prediction" * 9)[:20], ["gzip", "damaged or cut short", "fetch it"]),
    "tar in gzip": (gzip.compress(_tar()), ["gzip", "a tar archive", "unpack it"]),
    "gzip twice": (gzip.compress(gzip.compress(b"audio")), ["with gzip within that", "unpack it"]),
    "recording in xz": (lzma.compress(wav_bytes(tone(0.1))), ["xz", "a recording, not a table"]),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), ["zstd", "unpack it"]),
    **{
        kind: (wav_bytes(tone(0.1), format=kind), ["a recording", "a line for each recording"])
        for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "RF64")
    },
    "m4a": (b"\0\0\0\x20ftypM4A " + bytes(16), ["a recording"]),
    "webm": (b"\x1a\x45\xdf\xa3" + bytes(16), ["a recording"]),
    "web page": (b"<!DOCTYPE html><html>", ["web page", "download"]),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", ["git lfs pull"]),
    "arrow": (b"\xff\xff\xff\xff\x20\x05\0\0", ["name the folder that it is in"]),
    "pdf": (b"%PDF-1.7", ["PDF"]),
    "bytes": (bytes(range(128, 256)) + bytes(10), ["not text"]),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["train.csv", "train.xlsx", "train"])
def test_what_is_no_table_is_named_with_what_to_do(tmp_path: Path, kind: str, name: str):
    content, parts = FOREIGN[kind]
    (tmp_path / name).write_bytes(content)
    message = _problem(tmp_path / name)
    assert all(part in message for part in parts) and "gbk" not in message


@pytest.mark.parametrize("start", ["RIFF", "ID3", "OggS", "BZh9", "ftyp", "Rar!", "FORM", "ustar", "caff"])
def test_words_are_no_marks(tmp_path: Path, start: str):
    """A header may begin with the letters that a recording begins with."""
    (tmp_path / "t.csv").write_text(f"{start},audio\nx,a.wav\n")
    assert len(list(read_records(tmp_path / "t.csv"))) == 1


def test_folders_and_pipes(tmp_path: Path):
    assert _problem(tmp_path).startswith(f"{tmp_path}: a folder, not a table")
    source = small_task(tmp_path / "task")
    assert f"name the table in it: {source}" in _problem(tmp_path / "task")
    convert_dataset(convert_settings(source, tmp_path / "out"))
    assert "a converted dataset, not a table" in _problem(tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe" in _problem(tmp_path / "pipe")


def test_a_folder_that_is_no_dataset_says_what_to_name(tmp_path: Path):
    source = small_task(tmp_path / "task")
    (tmp_path / "splits" / "train").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    assert "a run's folder, not a table" in _problem(tmp_path / "run")
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    for folder, part in (
        (tmp_path / "task", f"name the table in it: {source}"),
        (tmp_path / "splits", f"name one of its parts: {tmp_path / 'splits' / 'train'}"),
        (TINY, "a model's folder"),
        (tmp_path / "task" / "clips", "a folder of recordings"),
        (tmp_path / "run", "a run's folder; name the table to train on"),
    ):
        with pytest.raises(DataError) as caught:
            ClipDataset.open([folder])
        assert part in str(caught.value) and str(folder) in str(caught.value)


def test_it_is_said_before_a_model_is_fetched(tmp_path: Path, monkeypatch):
    """A download of hours first, and then that the table is a workbook."""
    from mdl_toolkit.infer.run import inference
    from mdl_toolkit.settings import InferenceSettings, TrainSettings
    from mdl_toolkit.training.ready import make_ready

    path = tmp_path / "train.csv"
    path.write_bytes(FOREIGN["workbook"][0])
    for module in ("data.conversion.command", "infer.run", "training.ready"):
        monkeypatch.setattr(f"mdl_toolkit.{module}.resolve_model", lambda *a, **k: pytest.fail("fetched"))
    with pytest.raises(DataError, match="Excel workbook"):
        convert_dataset(convert_settings(path, tmp_path / "out"))
    with pytest.raises(DataError, match="Excel workbook"):
        inference(InferenceSettings(input=path, output=tmp_path / "out.csv", model_name="some/model"))
    (tmp_path / "folder").mkdir()
    training = TrainSettings(
        train_dataset=[str(path)], eval_dataset=[str(tmp_path / "folder")], output=tmp_path / "run"
    )
    with pytest.raises(SettingsError) as caught:
        make_ready(training)
    assert "Excel workbook" in caught.value.problems[0] and "not a converted" in caught.value.problems[1]


@pytest.mark.parametrize("convert", [convert_dataset, convert_once])
def test_it_is_said_before_the_file_is_read_through(tmp_path: Path, convert, monkeypatch):
    """A recording of hours, or an archive of a hundred gigabytes, given as a table."""
    path = tmp_path / "train.csv"
    path.write_bytes(FOREIGN["tar"][0])
    monkeypatch.setattr(
        "mdl_toolkit.data.conversion.request._sha256", lambda path: pytest.fail("read through")
    )
    arguments = {
        convert_dataset: (convert_settings(path, tmp_path / "out"),),
        convert_once: (path, convert_options(path), TINY, tmp_path / "cache"),
    }
    with pytest.raises(DataError, match="a tar archive"):
        convert(*arguments[convert])


JSON_FORMS = {
    "array": json.dumps(ROWS),
    "indented array": json.dumps(ROWS, indent=2),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "blank lines first": "\n\n" + "\n".join(map(json.dumps, ROWS)),
    "array with a mark": "\ufeff" + json.dumps(ROWS),
}


@pytest.mark.parametrize("form", JSON_FORMS)
@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.ndjson", "t.csv", "t"])
def test_json_is_read_whatever_its_form_and_name(tmp_path: Path, form: str, name: str):
    (tmp_path / name).write_text(JSON_FORMS[form], encoding="utf-8")
    first, second = read_records(tmp_path / name)
    assert isinstance(first, Row) and isinstance(second, Row)
    assert (first.audio, first.prediction, second.audio, second.prediction) == (
        "a.wav",
        "zero",
        "b.wav",
        "null",
    )
    assert read_layout(tmp_path / name).columns == ("audio", "prediction", "n")


def test_a_json_string_is_a_value(tmp_path: Path):
    texts = ["null", " hi ", " ", "zero"]
    rows = [{"audio": "a.wav", "prediction": text} for text in texts]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        assert [row.prediction for row in read_records(tmp_path / name)] == texts
    (tmp_path / "t.jsonl").write_text('{"audio": "a.wav", "prediction": null, "user_prompt": ""}')
    (row,) = read_records(tmp_path / "t.jsonl")
    assert (row.prediction, row.user_prompt) == (None, None)


def test_recordings_within_parquet_are_told_of(tmp_path: Path):
    """As the datasets library keeps them: the rows are not read to find out."""
    rows = [{"audio": {"bytes": b"RIFF", "path": "a.wav"}, "prediction": "x"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert "write each recording to a file, and its path" in _problem(tmp_path / "t.parquet")
    pq.write_table(pa.table({"audio": [b"RIFF"]}), tmp_path / "t.parquet")
    assert "its column audio holds binary" in _problem(tmp_path / "t.parquet")


def test_parquet_by_any_name(tmp_path: Path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.csv")
    assert [row.prediction for row in read_records(tmp_path / "t.csv")] == ["zero", "null"]


def _read_to_a_bad_row(path: Path) -> None:
    for record in read_records(path):
        if isinstance(record, BadRow):
            raise DataError(f"{path} line {record.number}: {record.problem}")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{\n "data": [{"audio": "a.wav"}]\n}', ["neither an array of objects nor an object on each line"]),
        ('{"data": [{"audio": "a.wav"}]}', ["no column 'audio'", "'data'"]),
        ('[{"audio": "a.wav"}', ["row 1", "the file ends"]),
        ('[{"audio": "a.wav"}, {"audio": ', ["row 2", "cut short"]),
        ('[{"audio": "a.wav"}; {"audio": "b.wav"}]', ["row 1", "';' follows it"]),
        ('[{"audio": "a.wav"}] {}', ["something follows"]),
        ('[{"audio": "a.wav"}, ]', ["row 2"]),
        ("[]", ["no JSON object"]),
        ('[{"messages": [], "audios": ["a.wav"]}]', ["chat turns ('messages')"]),
        ('{"conversations": [{"from": "human", "value": "x"}]}', ["chat turns ('conversations')"]),
        ('{"audio": {"0": "a.wav"}, "prediction": {"0": "x"}}', ["line 1", "audio is dict", "one recording"]),
    ],
)
def test_json_that_is_no_table(tmp_path: Path, text: str, parts: list[str]):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        _read_to_a_bad_row(path)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_bad_elements_of_an_array_are_bad_rows(tmp_path: Path):
    (tmp_path / "t.json").write_text('[{"audio": "a.wav"}, 3, {"audio": null}, {"audio": "b.wav"}]')
    records = list(read_records(tmp_path / "t.json"))
    assert [(type(r), r.number) for r in records] == [(Row, 1), (BadRow, 2), (BadRow, 3), (Row, 4)]
    assert "not a JSON object" in records[1].problem


class _Trickle(io.StringIO):
    """Gives less than it is asked for, as decoders do."""

    def read(self, size: int | None = -1) -> str:
        return super().read(1 + (size or 0) % 7)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(json_values, max_size=5), st.sampled_from([None, 1]), st.integers(1, 3))
def test_any_array_is_read_element_by_element(values: list, indent: int | None, cut: int):
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    assert list(read_array(_Trickle(text))) == list(enumerate(values, start=1))
    with pytest.raises(ArrayError):
        list(read_array(_Trickle(text[:-cut])))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"PK\3\4", b"RIFF", b"[{", b'{"', b"\xff\xfb", b"BZh", b"PAR1"]),
)
def test_any_bytes_by_any_name(tmp_path: Path, content: bytes, magic: bytes):
    for name in ("t.csv", "t.json", "t.jsonl", "t.xlsx", "t.parquet"):
        (tmp_path / name).write_bytes(magic + content)
        try:
            list(read_records(tmp_path / name))
        except DataError as error:
            assert "\n" not in str(error)


def test_columns_that_look_like_ours_are_told_of(tmp_path: Path, capfd):
    source = small_task(tmp_path / "task", rows=1)
    source.write_text("audio,prediction,System Prompt,End\nclips/0.wav,x,Listen,1\n")
    convert_dataset(convert_settings(source, tmp_path / "out"))
    shown = capfd.readouterr().err
    assert "column 'System Prompt' is not read: rename it to system_prompt" in shown
    assert "column 'End' is not read: rename it to end" in shown


def test_the_answer_null_can_be_given(tmp_path: Path, capfd):
    source = small_task(tmp_path / "task", rows=3)
    source.write_text(
        'audio,prediction,system_prompt\nclips/0.wav,"null",null\nclips/1.wav,eins,\nclips/2.wav,zwei,"null"\n'
    )
    dataset = convert_dataset(convert_settings(source, tmp_path / "out"))
    from mdl_toolkit.data.prompt.builder import PromptBuilder

    decode = PromptBuilder(TINY).decode
    answers = [decode(dataset[i].labels[dataset[i].labels >= 0].tolist()) for i in range(3)]
    assert answers == ["null<|im_end|>", "eins<|im_end|>", "zwei<|im_end|>"]
    assert [use.system_prompt for use in dataset.manifest.prompts.seen] == [None, "null"]
    shown = capfd.readouterr().err
    assert 'line 4: "null" in quotes is the word itself, here as the prompt of 1 rows' in shown
    source.write_text("audio,prediction\nclips/0.wav,null\n")
    with pytest.raises(DataError, match="line 2: no prediction"):
        convert_dataset(convert_settings(source, tmp_path / "out2"))


def test_quarantine_means_what_the_input_meant(tmp_path: Path):
    """Mended and given again, a cell of the list of bad rows says what it said."""
    source = small_task(tmp_path / "task", rows=2)
    source.write_text('audio;prediction;note\nmissing.wav;"null";null\nclips/1.wav;x; y\n')
    convert_dataset(convert_settings(source, tmp_path / "out", on_error="skip"))
    text = (tmp_path / "out.quarantine.csv").read_bytes().decode()
    assert text.startswith('audio;prediction;note;line;error\r\nmissing.wav;"null";null;2;')
    (row,) = read_records(tmp_path / "out.quarantine.csv")
    assert isinstance(row, Row) and row.prediction == "null"

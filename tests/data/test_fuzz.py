"""Whatever comes in: a clear error of ours or a right result, never anything else."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
from mdl_toolkit.data.audio.urls import UrlLimits, fetch, shown
from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.dataset.manifest import MANIFEST_NAME
from mdl_toolkit.data.input.records import BadRow, Row, read_header, read_records
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.errors import DataError, ModelError
from support.data.clips import TINY, convert_settings, small_task, tone, wav_bytes
from support.data.legacy import legacy_row, write_legacy
from support.data.recordings import bursts, flac_without_length, mp3_bytes, wav_with_lengths

many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
rows_of_cells = st.tuples(cells, cells, cells)
csv_like = st.text(st.sampled_from('audio,prediction\n\r"\0;\tä你\ufeff .wav0123x'), max_size=120)


def _records(path: Path, encoding: str = "utf-8") -> list[Row | BadRow] | None:
    try:
        return list(read_records(path, encoding))
    except DataError as error:
        assert "\n" not in str(error)
        return None


@many
@given(st.one_of(st.binary(max_size=200), csv_like.map(lambda text: text.encode())), st.booleans())
def test_any_bytes_as_a_csv(tmp_path: Path, content: bytes, header: bool):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"audio,prediction\n" * header + content)
    for encoding in ("utf-8", "gbk", "utf-16"):
        for record in _records(path, encoding) or []:
            assert record.number >= 2
            assert isinstance(record, BadRow) or record.audio


@many
@given(st.lists(rows_of_cells, min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]), st.booleans())
@example([("a", '"', ",")], "\r\n", True)
@example([("a", "b\r\nc", "\n")], "\n", False)
def test_what_a_spreadsheet_writes_is_read_back(tmp_path: Path, rows: list, line: str, mark: bool):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=line, quoting=csv.QUOTE_ALL)
    writer.writerows([("audio", "prediction", "note"), *rows])
    path = tmp_path / "rows.csv"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + buffer.getvalue().encode())
    records = _records(path)
    assert records is not None and len(records) == len(rows)
    text = buffer.getvalue()
    for record, cell in zip(records, rows, strict=True):
        assert record.cells == cell
        if not cell[0].strip():
            assert isinstance(record, BadRow)
        else:
            assert isinstance(record, Row)
            assert (record.audio, record.extra) == (cell[0].strip(), {"note": cell[2]})
            assert record.prediction == (cell[1] or None)
    assert [record.number for record in records] == sorted({record.number for record in records})
    assert records[-1].number <= len(text.splitlines()) + text.count("\r") + 1


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
names = st.sampled_from(["audio", "prediction", "start", "end", "note", "system_prompt"])


@many
@given(st.lists(st.dictionaries(names, json_values, max_size=4), max_size=4), st.binary(max_size=20))
def test_any_objects_as_jsonl(tmp_path: Path, rows: list, tail: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(json.dumps(row) for row in rows).encode() + b"\n" + tail)
    for record in _records(path) or []:
        assert isinstance(record, BadRow) or (isinstance(record.audio, str) and record.audio)
        assert len(record.cells) in (0, len(read_header(path)))


ORIGINALS = {
    kind: wav_bytes(tone(0.3, 22050), 22050, format=kind)
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64")
}
ORIGINALS |= {
    **{f"{kind} joined": ORIGINALS[kind] * 2 for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU")},
    "WAV piped": wav_with_lengths(ORIGINALS["WAV"], 0, 0),
    "FLAC piped": flac_without_length(ORIGINALS["FLAC"]),
    "MP3 piped": mp3_bytes(bursts(1), length=False),
}


WORDS = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"]
MAGIC = [b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff"]


@pytest.mark.parametrize("kind", ORIGINALS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_recording(tmp_path: Path, kind: str, data: st.DataObject):
    content = bytearray(ORIGINALS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers are where damage leads furthest.
        last = len(content) - 1
        place = min(last, data.draw(st.one_of(st.integers(0, 120), st.integers(0, last))))
        what = data.draw(st.sampled_from(["byte", "word", "cut", "insert"]))
        if what == "byte":
            content[place] = data.draw(st.integers(0, 255))
        elif what == "word":
            content[place : place + 4] = data.draw(st.sampled_from(WORDS))
        elif what == "cut":
            content = content[: max(1, place)]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path / "a"
    path.write_bytes(content)
    try:
        waveform = load_waveform(str(path), limits=AudioLimits(max_seconds=30))
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert 1 <= len(waveform) <= 30 * 16000 + 1 and np.isfinite(waveform).all()


@many
@given(st.binary(max_size=300), st.sampled_from(MAGIC))
def test_any_bytes_as_a_recording(tmp_path: Path, content: bytes, magic: bytes):
    path = tmp_path / "a"
    path.write_bytes(magic + content)
    try:
        waveform = load_waveform(str(path))
    except DataError:
        return
    assert np.isfinite(waveform).all() and len(waveform)


@many
@given(st.text(max_size=30), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_any_text_as_a_path(tmp_path: Path, text: str, start: float, end: float):
    with pytest.raises(DataError):
        load_waveform(text, start=abs(start), end=abs(end), limits=AudioLimits(base_dir=str(tmp_path)))


@many
@given(st.text(st.sampled_from("htps:/@[].#?%\\ \n0127.ä"), max_size=30))
def test_any_text_as_a_url(text: str):
    with pytest.raises(DataError):
        fetch("http://127.0.0.1:1/" + text, UrlLimits(timeout=1))
    with pytest.raises(DataError):
        fetch(text, UrlLimits(timeout=1))
    assert isinstance(shown(text), str)


@many
@given(st.text(st.sampled_from("{%}-<|im_start|>messages content user for in end \n'"), max_size=80))
def test_any_text_as_a_chat_template(tmp_path: Path, text: str):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((TINY / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(text)
    with pytest.raises(ModelError):
        PromptBuilder(tmp_path).encode(None, "Q", 1, "a")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A converted folder of each storage, and one of 0.1.0."""
    place = tmp_path_factory.mktemp("folders")
    source = small_task(place / "task", rows=3)
    made = {kind: place / kind for kind in ("pcm16", "flac", "0.1.0")}
    for kind in ("pcm16", "flac"):
        convert_dataset(convert_settings(source, made[kind], audio_storage=kind))
    write_legacy(made["0.1.0"], [legacy_row(0.5 + 0.1 * i, "x") for i in range(3)])
    return made


@pytest.mark.parametrize("kind", ["pcm16", "flac", "0.1.0"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_folder(folders: dict[str, Path], tmp_path: Path, kind: str, data: st.DataObject):
    """It is found when the folder is opened, or changes what a row says and nothing else.

    FLAC carries sums of its own over its samples: what they tell is told when a row is decoded.
    """
    folder = tmp_path / "damaged"
    shutil.copytree(folders[kind], folder, dirs_exist_ok=True)
    path = next(folder.glob("*.arrow"))
    content = bytearray(next(folders[kind].glob("*.arrow")).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        last = len(content) - 1
        places = st.one_of(
            st.integers(0, min(last, 4000)), st.integers(0, last), st.integers(last - 2000, last)
        )
        place = data.draw(places)
        what = data.draw(st.sampled_from([*WORDS, None]))
        if what is None:
            content[place] = data.draw(st.integers(0, 255))
        else:
            content[place : place + 4] = what[: len(content) - place]
    path.unlink()  # others may have the old one in their memory
    path.write_bytes(content)
    try:
        dataset = ClipDataset.open([folder])
        dataset.check_model(TINY)
    except DataError:
        return
    for index in range(len(dataset)):
        try:
            row = dataset[index]
        except DataError as error:
            assert kind == "flac" and "stored audio is damaged" in str(error)
            continue
        assert row.input_ids.shape == row.labels.shape and np.isfinite(row.waveform).all()
        assert len(row.waveform) == dataset.samples[index]
        assert 0 <= row.input_ids.min() <= row.input_ids.max() < 1280


@many
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=3), st.data())
def test_any_manifest(tmp_path: Path, extra: dict, data: st.DataObject):
    """No manifest can be right without its table: nothing but an error of ours comes of it."""
    known = ["format", "rows", "prompts", "geometry", "files", "shard", "source", "storage", "fingerprint"]
    drawn = {data.draw(st.sampled_from(known)): data.draw(json_values) for _ in range(3)}
    value = {"format": 1, **drawn, **extra}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(value))
    with pytest.raises(DataError):
        ClipDataset.open([tmp_path])

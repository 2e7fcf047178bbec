"""convert-dataset: what it makes, what it refuses, and that nothing is lost or replaced on the way."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mdl_toolkit.data.conversion import writer
from mdl_toolkit.data.conversion.command import convert_dataset, convert_once
from mdl_toolkit.data.conversion.request import Request
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.dataset.manifest import DatasetManifest
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.data.prompt.record import PromptRecord, PromptUse
from mdl_toolkit.errors import DataError, UserError
from support.data.clips import (
    MDL,
    SHARED_DATA,
    TINY,
    convert_options,
    convert_settings,
    small_task,
    tone,
    write_csv,
    write_wav,
)
from support.data.problems import conversion_problem


def test_rows_come_out_as_they_went_in(tmp_path: Path):
    source = small_task(tmp_path / "task")
    dataset = convert_dataset(convert_settings(source, tmp_path / "out", user_prompt="What is it?"))
    builder = PromptBuilder(TINY)
    assert len(dataset) == 6
    for i in range(6):
        example = dataset[i]
        wave = tone(0.3 + 0.1 * i, hertz=200 + 50 * i)
        np.testing.assert_allclose(example.waveform, wave, atol=1 / 32768)
        want = builder.encode(None, "What is it?", builder.geometry.audio_tokens(len(wave)), f"tone {i}")
        np.testing.assert_array_equal(example.input_ids, want.input_ids)
        np.testing.assert_array_equal(example.labels, want.labels)
        assert example.index == i
        assert example.row == dataset.row_name(i) == f"rows.csv row {i + 2} (clips/{i}.wav)"
        assert dataset.tokens[i] == len(want.input_ids)
        assert dataset.supervised[i] == want.supervised
        assert dataset.samples[i] == len(wave)


def test_the_folder_says_what_it_is(tmp_path: Path):
    source = small_task(tmp_path / "task")
    dataset = convert_dataset(
        convert_settings(source, tmp_path / "out", system_prompt="S", prompt_order="text-first")
    )
    manifest = DatasetManifest.read(tmp_path / "out")
    assert manifest == dataset.manifest
    assert manifest.source["name"] == "rows.csv" and len(manifest.source["sha256"]) == 64
    assert (manifest.rows, manifest.storage, manifest.shard) == (6, "pcm16", None)
    assert manifest.seconds == pytest.approx(sum(0.3 + 0.1 * i for i in range(6)))
    assert manifest.tokens == dataset.tokens.sum() and manifest.supervised == dataset.supervised.sum()
    assert manifest.prompts == PromptRecord("text-first", "S", None, (PromptUse("S", None, 6),))
    assert manifest.geometry["sample_rate"] == 16000
    assert {"mdl-toolkit", "soxr", "tokenizers"} <= set(manifest.versions)
    assert sorted(os.listdir(tmp_path)) == ["out", "task"]


def test_the_datasets_library_opens_it(tmp_path: Path):
    import datasets

    convert_dataset(convert_settings(small_task(tmp_path / "task"), tmp_path / "out"))
    opened = datasets.load_from_disk(str(tmp_path / "out"))
    assert len(opened) == 6
    assert opened[2]["source"] == "clips/2.wav" and opened[2]["samples"] == 8000
    samples = np.frombuffer(opened[2]["audio"], dtype="<i2") / 32768
    np.testing.assert_allclose(samples, tone(0.5, hertz=300), atol=1 / 32768)
    assert opened.features["input_ids"].feature.dtype == "int32"
    assert len(opened.filter(lambda row: row["samples"] > 8000)) == 3


def test_an_empty_prompt_is_none(tmp_path: Path):
    source = small_task(tmp_path / "task", rows=1)
    dataset = convert_dataset(convert_settings(source, tmp_path / "out", system_prompt="", user_prompt=""))
    text = PromptBuilder(TINY).decode(dataset[0].input_ids.tolist())
    assert text.startswith("<|im_start|>user\n<|audio_bos|>")
    assert dataset.manifest.prompts.complete
    assert dataset.manifest.prompts.seen == (PromptUse(None, None, 1),)


def test_a_rows_own_prompt_wins(tmp_path: Path):
    write_wav(tmp_path / "a.wav", tone(0.3))
    header = ["audio", "prediction", "system_prompt", "user_prompt"]
    rows = [("a.wav", "x", "own", ""), ("a.wav", "y", "null", "own"), ("a.wav", "z", "", "null")]
    source = write_csv(tmp_path / "rows.csv", header, rows)
    settings = convert_settings(source, tmp_path / "out", system_prompt="general", user_prompt="common")
    dataset = convert_dataset(settings)
    builder = PromptBuilder(TINY)
    texts = [builder.decode(dataset[i].input_ids.tolist()) for i in range(3)]
    assert "system\nown<" in texts[0] and "common<" in texts[0]
    assert "system\ngeneral<" in texts[1] and "own<" in texts[1]
    assert "system\ngeneral<" in texts[2] and "common<" in texts[2]
    prompts = dataset.manifest.prompts
    assert prompts.complete and len(prompts.seen) == 3
    assert prompts.system_prompt == "general"


@pytest.mark.parametrize("storage", ["pcm16", "flac", "reference"])
def test_storages_give_the_same_samples(tmp_path: Path, storage: str):
    source = small_task(tmp_path / "task", rows=3, seconds=0.5)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 30_000).astype(np.float32)
    write_wav(tmp_path / "task" / "clips" / "0.wav", noise, 44100)
    write_csv(
        tmp_path / "task" / "rows.csv",
        ["audio", "prediction", "start", "end"],
        [
            ("clips/0.wav", "noise", 0.1, 0.4),
            ("clips/1.wav", "tone", "", ""),
            ("clips/2.wav", "end", 0.2, ""),
        ],
    )
    plain = convert_dataset(convert_settings(source, tmp_path / "plain"))
    other = convert_dataset(convert_settings(source, tmp_path / "other", audio_storage=storage))
    for i in range(3):
        np.testing.assert_allclose(other[i].waveform, plain[i].waveform, atol=0.51 / 32768)
        assert other.samples[i] == plain.samples[i]


def test_sizes_on_disk(tmp_path: Path):
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", tone(2, 44100, level=0.2), 44100)
    source = write_csv(tmp_path / "rows.csv", ["audio", "prediction"], [(f"{i}.wav", "a") for i in range(4)])
    sizes = {}
    for storage in ("pcm16", "flac", "reference"):
        convert_dataset(convert_settings(source, tmp_path / storage, audio_storage=storage))
        sizes[storage] = sum(path.stat().st_size for path in (tmp_path / storage).iterdir())
    samples = 4 * 2 * 16000
    assert samples * 2 < sizes["pcm16"] < samples * 2 + 20_000
    assert sizes["flac"] < 0.8 * sizes["pcm16"]
    assert sizes["reference"] < 20_000


def test_a_referenced_file_that_has_changed_is_an_error_not_another_clip(tmp_path: Path):
    source = small_task(tmp_path / "task")
    dataset = convert_dataset(convert_settings(source, tmp_path / "out", audio_storage="reference"))
    write_wav(tmp_path / "task" / "clips" / "1.wav", tone(0.7))
    with pytest.raises(DataError, match=r"row 3 .* 11200 samples, 6400 when it was converted"):
        dataset[1]
    (tmp_path / "task" / "clips" / "2.wav").unlink()
    with pytest.raises(DataError, match=r"row 4 .*no such file"):
        dataset[2]


def test_a_table_without_answers_can_t_be_trained_on(tmp_path: Path):
    source = write_csv(tmp_path / "rows.csv", ["audio", "text"], [("a.wav", "x")])
    assert "no column 'prediction'" in conversion_problem(convert_settings(source, tmp_path / "out"))


def test_text_longer_than_the_model_has_positions_is_a_bad_row(tmp_path: Path):
    write_wav(tmp_path / "a.wav", tone(0.3))
    source = write_csv(tmp_path / "rows.csv", ["audio", "prediction"], [("a.wav", "word " * 9000)])
    message = conversion_problem(convert_settings(source, tmp_path / "out"))
    assert "line 2" in message and "the model has 8192 positions" in message


def test_control_tokens_in_an_option_are_told_at_once(tmp_path: Path):
    source = small_task(tmp_path / "task")
    message = conversion_problem(convert_settings(source, tmp_path / "out", user_prompt="<|AUDIO|>?"))
    assert message.startswith("--user-prompt") and "<|AUDIO|>" in message


def test_other_content_at_the_output_is_never_touched(tmp_path: Path):
    source = small_task(tmp_path / "task")
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    file.write_text("more work")
    for overwrite in (False, True):
        assert "other content" in conversion_problem(
            convert_settings(source, folder, overwrite=overwrite), UserError
        )
        assert "a file is there" in conversion_problem(
            convert_settings(source, file, overwrite=overwrite), UserError
        )
    assert (folder / "thesis.txt").read_text() == "years of work" and file.read_text() == "more work"
    (tmp_path / "empty").mkdir()
    assert len(convert_dataset(convert_settings(source, tmp_path / "empty"))) == 6


def test_an_earlier_dataset_needs_overwrite_and_the_same_is_recognised(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    source = small_task(tmp_path / "task")
    first = convert_dataset(convert_settings(source, tmp_path / "out"))
    made = (tmp_path / "out" / "mdl_dataset.json").stat().st_mtime_ns
    again = convert_dataset(convert_settings(source, tmp_path / "out", num_workers=2))
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / "out" / "mdl_dataset.json").stat().st_mtime_ns == made
    assert "already has this conversion" in capfd.readouterr().err
    message = conversion_problem(convert_settings(source, tmp_path / "out", user_prompt="other"), UserError)
    assert "--overwrite replaces it" in message
    other = convert_dataset(convert_settings(source, tmp_path / "out", user_prompt="other", overwrite=True))
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"system_prompt": "x"}, {"user_prompt": "x"}, {"prompt_order": "text-first"},
        {"audio_storage": "flac"}, {"max_audio_seconds": 9.0}, {"on_error": "skip"}, {"base_dir": None},
        {"shard": "1/2"},
    ],
)  # fmt: skip
def test_what_changes_the_result_changes_the_fingerprint(tmp_path: Path, change: dict, monkeypatch):
    source = small_task(tmp_path / "task", rows=2)
    monkeypatch.chdir(tmp_path)

    def fingerprint(**options) -> str:
        settings = convert_settings(source, tmp_path / "out", **options)
        shard = tuple(map(int, settings.shard.split("/"))) if settings.shard else None
        return Request.of(source, settings, TINY, shard).fingerprint  # type: ignore[arg-type]

    assert fingerprint() == fingerprint(num_workers=7, tokenizing_batch_size=3, url_timeout=1.0)
    assert fingerprint() != fingerprint(**change)


def test_shards_are_one_dataset(tmp_path: Path):
    source = small_task(tmp_path / "task", rows=7)
    whole = convert_dataset(convert_settings(source, tmp_path / "whole"))
    folders = [tmp_path / f"shard-{i}" for i in (1, 2, 3)]
    for i, folder in enumerate(folders, start=1):
        convert_dataset(convert_settings(source, folder, shard=f"{i}/3"))
    joined = ClipDataset.open([folders[2], folders[0], folders[1]])
    assert joined.fingerprint == whole.fingerprint
    assert [joined.row_name(i) for i in range(7)] == [whole.row_name(i) for i in range(7)]
    for i in range(7):
        np.testing.assert_array_equal(joined[i].waveform, whole[i].waveform)
    assert joined.manifest.rows == 7 and joined.manifest.shard is None
    with pytest.raises(DataError, match="without shard 2/3"):
        ClipDataset.open([folders[0], folders[2]])
    with pytest.raises(DataError, match="given twice: shard 1/3"):
        ClipDataset.open([*folders, folders[0]])
    assert "fewer rows than shards" in conversion_problem(
        convert_settings(source, tmp_path / "x", shard="1/9")
    )


def test_jsonl_converts_as_a_csv_does(tmp_path: Path):
    source = small_task(tmp_path / "task")
    with open(source, newline="") as stream:
        rows = list(csv.DictReader(stream))
    other = source.with_suffix(".jsonl")
    other.write_text("\n".join(json.dumps(row) for row in rows))
    one = convert_dataset(convert_settings(source, tmp_path / "one"))
    two = convert_dataset(convert_settings(other, tmp_path / "two"))
    np.testing.assert_array_equal(one[5].input_ids, two[5].input_ids)


def test_text_that_is_no_unicode_goes_to_quarantine(tmp_path: Path):
    small_task(tmp_path / "task", rows=1)
    source = tmp_path / "task" / "rows.jsonl"
    rows = [
        '{"audio": "clips/0.wav", "prediction": "\\ud800 x"}',
        '{"audio": "clips/0.wav", "prediction": "y"}',
    ]
    source.write_text("\n".join(rows))
    assert len(convert_dataset(convert_settings(source, tmp_path / "out", on_error="skip"))) == 1
    assert "\\ud800 x,1,prediction is not valid Unicode" in (tmp_path / "out.quarantine.csv").read_text()


def test_names_with_line_breaks_make_no_extra_lines(tmp_path: Path):
    source = write_csv(tmp_path / "rows.csv", ["audio", "prediction"], [("a\n  line 9: b.wav", "x")])
    message = conversion_problem(convert_settings(source, tmp_path / "out"))
    assert len(message.splitlines()) == 3 and "\\n" in message


def test_a_full_disk_is_told_in_a_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = small_task(tmp_path / "task")

    def full(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.FolderWriter, "_flush", full)
    message = conversion_problem(convert_settings(source, tmp_path / "out"), UserError)
    assert "No space left on device" in message and "free some space" in message
    assert os.listdir(tmp_path) == ["task"]


def test_the_expected_size_is_said_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    source = small_task(tmp_path / "task", rows=10, seconds=1.0)
    convert_dataset(convert_settings(source, tmp_path / "out"))
    first = capfd.readouterr().err.splitlines()[0]
    assert "10 rows, about 14 s of audio; about 0.5 MB" in first


def test_the_command(tmp_path: Path):
    source = small_task(tmp_path / "task")
    words = ["convert-dataset", str(source), "--output", str(tmp_path / "out"), "--model-name", "tiny"]
    done = subprocess.run(
        [*MDL, *words, "--base-dir", str(source.parent)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert len(ClipDataset.open([tmp_path / "out"])) == 6
    bad = subprocess.run([*MDL, *words, "--overwrite"], capture_output=True, text=True, cwd=tmp_path)
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    assert "is --base-dir missing?" in bad.stderr
    assert len(ClipDataset.open([tmp_path / "out"])) == 6  # the earlier one is still there


def test_the_command_loads_nothing_it_doesn_t_need(tmp_path: Path):
    source = small_task(tmp_path / "task", rows=2)
    words = ["convert-dataset", str(source), "--output", str(tmp_path / "out"), "--model-name", "tiny"]
    words += ["--base-dir", str(source.parent)]
    code = f"import sys; from mdl_toolkit.cli import run; assert run({words!r}) == 0; print(*sys.modules)"
    done = subprocess.run([*MDL[:1], "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "pandas", "scipy"} & set(done.stdout.split())


def test_real_recordings(tmp_path: Path):
    if not SHARED_DATA.is_dir():
        pytest.skip("no real recordings beside the repository (../shared/data)")
    lines = (SHARED_DATA / "fsdd-test.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    source = tmp_path / "digits.csv"
    source.write_text("".join(lines[:61]), encoding="utf-8")
    dataset = convert_dataset(convert_settings(source, tmp_path / "out", base_dir=SHARED_DATA))
    assert len(dataset) == 60
    builder = PromptBuilder(TINY)
    for i, line in enumerate(lines[1:61]):
        answer = line.split(",")[1]
        example = dataset[i]
        learned = example.labels[example.labels != -100]
        assert builder.decode(learned) == f"{answer}<|im_end|>"
        assert np.abs(example.waveform).max() > 0.01


@pytest.mark.parametrize("storage", ["pcm16", "flac", "reference"])
@pytest.mark.parametrize("by_train", [False, True])
def test_silent_and_clipped_clips_are_named(tmp_path: Path, capsys, storage: str, by_train: bool):
    """They are trained on, but not without a word."""
    task = small_task(tmp_path / "task", rows=12)
    silence = np.zeros(8000, dtype=np.float32)
    for place, samples in {
        1: silence,
        3: silence + 0.25,  # a constant is none the less
        5: silence + np.resize(np.array([1, -1], np.float32) / 32768, 8000),
        7: np.stack([silence, silence], axis=1),
        8: silence,
        10: silence,
        2: tone(0.5, level=1.3),
        6: silence + np.resize(np.array([2, -2], np.float32) / 32768, 8000),  # quiet is not silent
    }.items():
        write_wav(task.parent / "clips" / f"{place}.wav", samples, subtype="FLOAT")
    if by_train:
        convert_once(task, convert_options(task, audio_storage=storage), TINY, tmp_path / "cache")
    else:
        convert_dataset(convert_settings(task, tmp_path / "out", audio_storage=storage))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 2
    assert warnings[0].startswith("warning: 1 clip had samples beyond full scale, which were clipped: ")
    assert warnings[0].endswith("rows.csv row 4 (clips/2.wav)")
    names = ", ".join(f"rows.csv row {i + 2} (clips/{i}.wav)" for i in (1, 3, 5, 7, 8))
    assert warnings[1].startswith("warning: 6 clips without any sound")
    assert f": {names} and 1 more; " in warnings[1]


def test_a_file_of_someones_in_a_dataset_is_not_lost_with_it(tmp_path: Path):
    source = small_task(tmp_path / "task")
    convert_dataset(convert_settings(source, tmp_path / "out"))
    (tmp_path / "out" / "notes.txt").write_text("years of work")
    convert_dataset(convert_settings(source, tmp_path / "out"))  # nothing is replaced
    message = conversion_problem(
        convert_settings(source, tmp_path / "out", user_prompt="x", overwrite=True), UserError
    )
    assert "notes.txt in it is no part of a dataset and would be lost" in message
    assert (tmp_path / "out" / "notes.txt").read_text() == "years of work"

"""Names that look alike: found whatever form the table and the file system write them in."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from mdl_toolkit.data.audio.load import AudioLimits, clip_seconds, load_waveform
from mdl_toolkit.data.audio.path_lookup import find_existing
from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import DataError
from support.data.clips import convert_settings, tone, write_csv, write_wav

NAME = "grüße/été 한국.wav"
COMPOSED, APART = unicodedata.normalize("NFC", NAME), unicodedata.normalize("NFD", NAME)
# A composed folder with a name taken apart in it; and a name that is in neither form throughout.
MIXED = COMPOSED.partition("/")[0] + "/" + APART.partition("/")[2]
HALF = APART.replace(unicodedata.normalize("NFD", "한국"), "한국")


@pytest.mark.parametrize("there", [COMPOSED, APART, MIXED, HALF])
@pytest.mark.parametrize("written", [COMPOSED, APART, MIXED, HALF])
def test_a_name_is_found_in_any_form(tmp_path: Path, there: str, written: str):
    write_wav(tmp_path / there, tone(0.3))
    limits = AudioLimits(base_dir=str(tmp_path))
    assert len(load_waveform(written, limits=limits)) == 4800
    assert len(load_waveform(str(tmp_path / written))) == 4800


def test_what_is_written_as_it_is_comes_first(tmp_path: Path):
    for name, seconds in (("é.wav", 0.3), ("e\u0301.wav", 0.5)):
        write_wav(tmp_path / name, tone(seconds))
    limits = AudioLimits(base_dir=str(tmp_path))
    assert len(load_waveform("é.wav", limits=limits)) == 4800
    assert len(load_waveform("e\u0301.wav", limits=limits)) == 8000


def test_a_file_that_comes_later_is_found(tmp_path: Path):
    limits = AudioLimits(base_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"é\.wav: no such file"):
        load_waveform("é.wav", limits=limits)
    write_wav(tmp_path / "e\u0301.wav", tone(0.3))
    assert len(load_waveform("é.wav", limits=limits)) == 4800


def test_alike_names_lead_out_of_nowhere(tmp_path: Path):
    """The bounds of --base-dir hold for the file that is found, not for the name that was written."""
    write_wav(tmp_path / "secret.wav", tone(0.3))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "e\u0301.wav").symlink_to(tmp_path / "secret.wav")
    with pytest.raises(DataError, match="leads out of --base-dir"):
        load_waveform("é.wav", limits=AudioLimits(base_dir=str(tmp_path / "data")))


def test_names_that_can_not_be(tmp_path: Path):
    for name in ("é\0", "é" * 300, "\ud800é", "/é/../é", "é/", "", "a/b"):
        assert find_existing(name) == name


def test_paths_of_windows(tmp_path: Path):
    write_wav(tmp_path / "clips" / "e\u0301.wav", tone(0.3))
    write_wav(tmp_path / "secret.wav", tone(0.3))
    limits = AudioLimits(base_dir=str(tmp_path / "clips"))
    assert len(load_waveform("é.wav", limits=limits)) == 4800
    assert len(load_waveform(r"clips\é.wav", limits=AudioLimits(base_dir=str(tmp_path)))) == 4800
    with pytest.raises(DataError, match="leads out of --base-dir"):
        load_waveform(r"..\secret.wav", limits=limits)
    with pytest.raises(DataError, match="no such file"):
        load_waveform(r"clips\other.wav", limits=AudioLimits(base_dir=str(tmp_path)))
    write_wav(tmp_path / r"a\b.wav", tone(0.5))
    assert len(load_waveform(r"a\b.wav", limits=AudioLimits(base_dir=str(tmp_path)))) == 8000


def test_a_table_of_one_form_and_files_of_the_other(tmp_path: Path):
    write_wav(tmp_path / APART, tone(0.3))
    source = write_csv(tmp_path / "rows.csv", ["audio", "prediction"], [(COMPOSED, "x")])
    for storage in ("pcm16", "reference"):
        dataset = convert_dataset(convert_settings(source, tmp_path / storage, audio_storage=storage))
        assert len(dataset[0].waveform) == 4800 and COMPOSED in dataset[0].row


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, with a recording of a name that a URL has to write otherwise."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_wav(tmp_path / "home/my clips/é 100%.wav", tone(0.3))
    return tmp_path / "home"


@pytest.mark.parametrize(
    "written",
    [
        "~/my clips/é 100%.wav",
        "file://{home}/my%20clips/%C3%A9%20100%25.wav",
        "FILE://{home}/my%20clips/%c3%a9 100%25.wav",
        "file://localhost{home}/my%20clips/%C3%A9%20100%25.wav",
        "file://LocalHost{home}/my clips/é 100%25.wav",
        "file:{home}/my%20clips/%C3%A9%20100%25.wav",
        "file://{home}/my%20clips/e%CC%81%20100%25.wav",
    ],
)
def test_a_home_and_a_file_url_lead_to_the_file(home: Path, written: str):
    written = written.format(home=home)
    assert len(load_waveform(written)) == 4800
    limits = AudioLimits(base_dir=str(home))
    assert len(load_waveform(written, limits=limits)) == 4800
    assert clip_seconds(written, limits=limits) == 0.3
    (home / "data").mkdir()
    with pytest.raises(DataError, match="leads out of --base-dir"):
        load_waveform(written, limits=AudioLimits(base_dir=str(home / "data")))


def test_a_folder_of_that_name_comes_before_the_home(home: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "~/my clips/é 100%.wav", tone(0.5))
    assert len(load_waveform("~/my clips/é 100%.wav")) == 8000
    assert len(load_waveform("~/my clips/é 100%.wav", limits=AudioLimits(base_dir=str(home)))) == 4800


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("file://server/clips/a.wav", r"^file://server/clips/a\.wav: a file URL of host server: .+ file:///"),
        ("file://clips/a.wav", "a file URL of host clips"),
        ("file:///", "a file URL without a path"),
        ("file:clips/a.wav", r"no such file; a file URL begins with file:///"),
        ("file:///nowhere/a.wav", r"^file:///nowhere/a\.wav: no such file$"),
        ("file:///a%00b.wav", "can't be read"),
        ("file:///tmp", "a folder, not a recording"),
        ("~/nowhere.wav", r"^~/nowhere\.wav: no such file$"),
        ("~nobody-of-this-name/a.wav", "no such file; no home folder of ~nobody-of-this-name is known"),
        (r"clips\a.wav", r"no such file; written with backslashes \(Windows\); on this system: clips/a\.wav"),
        (r"C:\clips\a.wav", r"no such file; a path of Windows \(drive C:\)"),
        ("d:/clips/a.wav", r"no such file; a path of Windows \(drive d:\)"),
        (r"\\server\share\a.wav", "on this system: //server/share/a"),
    ],
)
def test_what_leads_nowhere_says_why(home: Path, written: str, told: str):
    with pytest.raises(DataError, match=told):
        load_waveform(written)
    assert clip_seconds(written) is None


def test_rows_kept_by_reference_lead_to_the_same_files(home: Path, tmp_path: Path):
    rows = [("~/my clips/é 100%.wav", "a"), (f"file://{home}/my%20clips/%C3%A9%20100%25.wav", "b")]
    source = write_csv(tmp_path / "t.csv", ["audio", "prediction"], rows)
    convert_dataset(convert_settings(source, tmp_path / "out", audio_storage="reference"))
    data = ClipDataset.open([tmp_path / "out"])
    assert [len(data[row].waveform) for row in range(2)] == [4800, 4800]
    (home / "my clips/é 100%.wav").unlink()
    with pytest.raises(DataError, match="no such file"):
        ClipDataset.open([tmp_path / "out"])

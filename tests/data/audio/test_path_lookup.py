"""Names that look alike: found whatever form the table and the file system write them in."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
from mdl_toolkit.data.audio.path_lookup import find_existing
from mdl_toolkit.data.conversion.command import convert_dataset
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

"""Recordings of a report: found, cut, converted, embedded or beside the page; and what they look like."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mdl_toolkit.errors import UserError
from mdl_toolkit.report.audio.clips import AudioFolder, ClipStore, WantedClip
from mdl_toolkit.report.audio.pictures import png, spectrogram
from support.data.clips import tone, write_wav

HERE = (AudioFolder(""),)


def wanted(path, start=None, end=None, folders=HERE):
    return WantedClip(str(path), start, end, folders)


def sound_of(address: str | None) -> tuple[np.ndarray, int]:
    assert address is not None
    head, _, content = address.partition(",")
    assert head.startswith("data:audio/")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="float32")
    return samples, rate


def test_few_are_embedded_and_nothing_is_left_beside(tmp_path):
    write_wav(tmp_path / "a.wav", tone(0.5))
    store = ClipStore(tmp_path / "report.html")
    clips = store.finish(store.add([wanted(tmp_path / "a.wav")]), 1e6)
    assert store.keep(clips) == 0
    samples, rate = sound_of(clips[0].src)
    assert (len(samples), rate, clips[0].seconds) == (8000, 16000, 0.5)
    assert clips[0].picture.startswith("data:image/png;base64,")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_many_lie_beside_the_page_and_are_the_originals(tmp_path):
    write_wav(tmp_path / "a.wav", tone(0.5, rate=44100), rate=44100)
    write_wav(tmp_path / "same.wav", tone(0.5, rate=44100), rate=44100)
    store = ClipStore(tmp_path / "my report %.html")
    clips = store.finish(store.add([wanted(tmp_path / "a.wav"), wanted(tmp_path / "same.wav")]), 0)
    assert store.keep(clips) == 2
    folder = tmp_path / "my report %-audio"
    assert clips[0].src == clips[1].src
    assert clips[0].src.startswith("my%20report%20%25-audio/")
    assert (folder / Path(clips[0].src or "").name).read_bytes() == (tmp_path / "a.wav").read_bytes()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "options", "ending"),
    [
        ("a.flac", {"format": "FLAC"}, ".flac"),
        ("a.mp3", {"format": "MP3"}, ".mp3"),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}, ".ogg"),
        ("wrong.mp3", {"format": "FLAC"}, ".flac"),
        ("a.aiff", {"format": "AIFF"}, ".wav"),
        ("a.wav", {"subtype": "ULAW"}, ".wav"),
    ],
)
def test_what_browsers_play_stays_and_the_rest_becomes_wav(tmp_path, name, options, ending):
    path = tmp_path / name
    soundfile.write(path, tone(0.5), 16000, **options)
    store = ClipStore(tmp_path / "r.html")
    (clip,) = store.finish(store.add([wanted(path)]), 0)
    assert clip.missing is None and Path(clip.src or "").suffix == ending
    there = tmp_path / clip.src
    assert (there.read_bytes() == path.read_bytes()) == (ending != ".wav")
    assert soundfile.info(there).duration == pytest.approx(0.5, abs=0.1)


def test_a_segment_is_cut(tmp_path):
    write_wav(tmp_path / "a.wav", np.concatenate([tone(1.0, hertz=500), tone(1.0, hertz=2000)]))
    store = ClipStore(tmp_path / "r.html")
    (clip,) = store.finish(store.add([wanted(tmp_path / "a.wav", 1.0, 1.5)]), 1e6)
    samples, _ = sound_of(clip.src)
    assert len(samples) == 8000
    assert np.argmax(np.abs(np.fft.rfft(samples))) * 2 == pytest.approx(2000, abs=4)


def test_paths_are_tried_from_each_folder_in_turn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "near" / "clips" / "a.wav", tone(0.5))
    folders = (AudioFolder("said", False), AudioFolder(""), AudioFolder(str(tmp_path / "near")))
    (clip,) = ClipStore(tmp_path / "r.html").add([wanted("clips/a.wav", folders=folders)])
    assert clip.missing is None
    assert clip.path == "clips/a.wav"


def test_what_can_t_be_played_says_why_and_names_no_folder_of_the_machine(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF1234")
    write_wav(tmp_path / "out.wav", tone(0.5))
    folders = (AudioFolder(str(tmp_path / "recordings"), False),)
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "broken.wav").write_bytes(b"not audio at all, but text")
    clips = ClipStore(tmp_path / "r.html").add(
        [
            wanted("gone.wav", folders=folders),
            wanted("broken.wav", folders=folders),
            wanted("../out.wav", folders=folders),
            wanted("https://example.org/a.wav", folders=folders),
        ]
    )
    reasons = [clip.missing or "" for clip in clips]
    assert reasons[0] == "no such file"
    assert "not readable as audio" in reasons[1]
    assert "leads out of --base-dir" in reasons[2]
    assert reasons[3] == "on the network; nothing was fetched"
    assert not [reason for reason in reasons if str(tmp_path) in reason]
    assert all(clip.src is None and clip.picture is None for clip in clips)


def test_an_older_page_keeps_its_recordings_until_the_new_one_is_there(tmp_path):
    write_wav(tmp_path / "old.wav", tone(0.5, hertz=300))
    write_wav(tmp_path / "new.wav", tone(0.5, hertz=900))
    first = ClipStore(tmp_path / "r.html")
    (old,) = first.finish(first.add([wanted(tmp_path / "old.wav")]), 0)
    first.keep([old])
    failed = ClipStore(tmp_path / "r.html")
    failed.add([wanted(tmp_path / "new.wav"), wanted(tmp_path / "old.wav")])
    failed.drop()
    assert old.src and (tmp_path / old.src).is_file() and len(list((tmp_path / "r-audio").iterdir())) == 2
    second = ClipStore(tmp_path / "r.html")
    (new,) = second.finish(second.add([wanted(tmp_path / "new.wav")]), 0)
    assert (tmp_path / old.src).is_file()
    second.keep([new])
    assert not (tmp_path / old.src).exists() and (tmp_path / new.src).is_file()
    # The recordings themselves, which may be links to the same files, are as they were.
    assert soundfile.info(tmp_path / "old.wav").frames == soundfile.info(tmp_path / "new.wav").frames == 8000


def test_a_recording_that_lies_there_already_is_linked_again(tmp_path):
    write_wav(tmp_path / "a.wav", tone(0.5))
    for _ in range(2):
        store = ClipStore(tmp_path / "r.html")
        (clip,) = store.finish(store.add([wanted(tmp_path / "a.wav")]), 0)
        store.keep([clip])
        names = sorted(Path(address or "").name for address in (clip.src, clip.picture))
        assert sorted(os.listdir(tmp_path / "r-audio")) == names


@pytest.mark.parametrize("is_file", [True, False])
def test_somebody_s_own_folder_is_left_alone(tmp_path, is_file):
    mine = tmp_path / "report-audio"
    if is_file:
        mine.write_text("x")
    else:
        mine.mkdir()
        (mine / "thesis.wav").write_text("x")
    with pytest.raises(UserError, match=r"report-audio: (is a file|holds something)"):
        ClipStore(tmp_path / "report.html")


def test_high_tones_are_above_low_ones_and_silence_is_white():
    low, high = (spectrogram(tone(1.0, hertz=hertz)).sum(axis=1).argmax() for hertz in (200, 6000))
    assert high < low
    assert spectrogram(np.zeros(16000, np.float32)).max() == 0
    assert spectrogram(tone(1.0)).max() == 31


@pytest.mark.parametrize(("seconds", "columns"), [(0.01, 1), (1.0, 100), (10.0, 334), (60.0, 353)])
def test_pictures_have_a_bounded_width(seconds, columns):
    assert spectrogram(tone(seconds)).shape == (64, pytest.approx(columns, abs=3))


def test_a_short_click_is_seen_in_a_long_recording():
    long = np.zeros(16000 * 120, np.float32)
    long[16000 * 61 : 16000 * 61 + 200] = 0.5
    levels = spectrogram(long)
    assert levels.max() == 31
    assert abs(int(levels.sum(axis=0).argmax()) / levels.shape[1] - 61 / 120) < 0.02


def test_png_holds_the_picture():
    levels = (np.arange(6).reshape(2, 3) % 32).astype(np.uint8)
    content = png(levels)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        name, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert struct.unpack(">I", content[place + 8 + length : place + 12 + length])[0] == zlib.crc32(
            name + body
        )
        chunks[name] = body
        place += 12 + length
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (3, 2)
    assert len(chunks[b"PLTE"]) == 3 * 32
    assert zlib.decompress(chunks[b"IDAT"]) == b"\0\x00\x01\x02\0\x03\x04\x05"

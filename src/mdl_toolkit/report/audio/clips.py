"""The recordings of a report: found by the paths in the rows, cut, drawn, put beside the page or into it."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from mdl_toolkit.data.audio.load import AudioLimits, load_waveform, locate
from mdl_toolkit.data.audio.urls import is_url
from mdl_toolkit.errors import DataError, StorageError, UserError, printable
from mdl_toolkit.files import PARTIAL_PREFIX
from mdl_toolkit.report.audio.pictures import SAMPLE_RATE, Samples, png, spectrogram
from mdl_toolkit.report.data import ReportClip

#: What a browser plays as it is, by libsndfile's name of the container: its ending, its type, and encodings.
_PLAYED = {
    "WAV": ("wav", "audio/wav", {"PCM_U8", "PCM_16", "PCM_24", "FLOAT"}),
    "FLAC": ("flac", "audio/flac", {"PCM_S8", "PCM_16", "PCM_24"}),
    "MP3": ("mp3", "audio/mpeg", {"MPEG_LAYER_III"}),
    "OGG": ("ogg", "audio/ogg", {"VORBIS", "OPUS"}),
}
_TYPES = {f".{ending}": kind for ending, kind, _ in _PLAYED.values()} | {".png": "image/png"}
#: Files in the folder beside a page; others there are somebody's own.
_OURS = re.compile(rf"({re.escape(PARTIAL_PREFIX)})?[0-9a-f]{{20}}\.(wav|flac|mp3|ogg|png)")
#: A recording that is longer isn't taken: it would fill the memory.
_MOST_SECONDS = 3600.0


def is_clip(name: str) -> bool:
    """Whether a file in the folder beside a page is one of the page's recordings or pictures, by its name."""
    return _OURS.fullmatch(name) is not None


class AudioFolder(NamedTuple):
    """Where a relative path may start from.

    Attributes:
        path: The folder; empty: the working directory.
        outside: Whether a path may lead out of it.
    """

    path: str
    outside: bool = True


@dataclass(frozen=True)
class WantedClip:
    """A recording that a row names.

    Attributes:
        path: As in the row.
        start: Where it begins, in seconds; ``None``: at the file's beginning.
        end: Where it ends; ``None``: at the file's end.
        folders: Where its path may start from, in the order in which they are tried.
    """

    path: str
    start: float | None
    end: float | None
    folders: tuple[AudioFolder, ...]


class ClipStore:
    """The recordings of one page.

    They are written to a folder beside the page, under names that their content gives them, so that the page
    that is there before stays whole. :meth:`finish` puts them into the page instead where they are few.

    Args:
        page: The page's file. The folder is named after it: ``report-audio`` for ``report.html``.

    Raises:
        UserError: The folder holds something else.
    """

    def __init__(self, page: Path) -> None:
        self.folder = page.with_name(f"{page.stem}-audio")
        self._before = self._look()
        self._written: set[str] = set()
        self._lock = Lock()

    def _look(self) -> set[str]:
        if not self.folder.exists():
            return set()
        try:
            names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else {""}
        except OSError as error:
            raise StorageError(f"{self.folder}: can't be read: {error.strerror or error}") from error
        if foreign := sorted(name for name in names if not _OURS.fullmatch(name)):
            what = f"holds something that is not of a report ({foreign[0]})" if foreign[0] else "is a file"
            raise UserError(f"{self.folder}: {what}; the clips are to go there: name another --output")
        return names

    def add(self, wanted: Sequence[WantedClip]) -> list[ReportClip]:
        """Read clips and write them to the folder, several at a time; they come back in order.

        Raises:
            StorageError: The folder can't be written to.
        """
        if not wanted:
            return []
        with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
            return list(pool.map(self._clip, wanted))

    def _clip(self, wanted: WantedClip) -> ReportClip:
        try:
            samples, source = _read(wanted)
        except DataError as error:
            return ReportClip(
                src=None, picture=None, seconds=None, path=wanted.path, missing=_reason(error, wanted)
            )
        try:
            return ReportClip(
                src=self._store_sound(samples, source, wanted),
                picture=self._store(png(spectrogram(samples)), ".png"),
                seconds=round(len(samples) / SAMPLE_RATE, 3),
                path=wanted.path,
            )
        except OSError as error:
            raise StorageError(f"{self.folder}: can't be written: {error.strerror or error}") from error

    def _store_sound(self, samples: Samples, source: str, wanted: WantedClip) -> str:
        ending = None if wanted.start or wanted.end is not None else _plays(source)
        if ending is None:
            return self._store(_wav(samples), ".wav")
        with open(source, "rb") as stream:
            digest = hashlib.sha256()
            while piece := stream.read(1 << 20):
                digest.update(piece)
        name = f"{digest.hexdigest()[:20]}{ending}"
        if self._is_new(name):
            self._place(name, lambda path: _link(source, path))
        return name

    def _store(self, content: bytes, ending: str) -> str:
        name = f"{hashlib.sha256(content).hexdigest()[:20]}{ending}"
        if self._is_new(name):
            self._place(name, lambda path: path.write_bytes(content))
        return name

    def _is_new(self, name: str) -> bool:
        """Whether this page has no such file yet. An older page's may be damaged: it is replaced."""
        with self._lock:
            new = name not in self._written
            self._written.add(name)
        return new

    def _place(self, name: str, write: Callable[[Path], object]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{PARTIAL_PREFIX}{name}"
        partial.unlink(missing_ok=True)
        write(partial)
        os.replace(partial, self.folder / name)
        partial.unlink(missing_ok=True)  # of two links to one file, renaming removes none

    def finish(self, clips: Sequence[ReportClip], most: float) -> list[ReportClip]:
        """Give the clips their addresses: within the page if all together are small enough, else beside it.

        Args:
            clips: What :meth:`add` gave.
            most: The most bytes of sounds and pictures that go into the page.
        """
        sizes = sum((self.folder / name).stat().st_size for name in self._written)
        address = self._inside if sizes <= most else self._beside
        return [
            ReportClip(
                src=address(clip.src), picture=address(clip.picture), seconds=clip.seconds, path=clip.path,
                missing=clip.missing,
            )
            for clip in clips
        ]  # fmt: skip

    def _inside(self, name: str | None) -> str | None:
        if name is None:
            return None
        content = base64.b64encode((self.folder / name).read_bytes()).decode("ascii")
        return f"data:{_TYPES[Path(name).suffix]};base64,{content}"

    def _beside(self, name: str | None) -> str | None:
        # The folder's name may hold anything that a page's name may: "%", "#", blanks.
        return None if name is None else f"{quote(self.folder.name)}/{name}"

    def keep(self, clips: Iterable[ReportClip]) -> int:
        """Remove all files but those that the page, now there, speaks of. Returns how many are left."""
        places = {
            address.rpartition("/")[2] for clip in clips for address in (clip.src, clip.picture) if address
        }
        used = self._written & places
        self._remove((self._before | self._written) - used)
        return len(used)

    def drop(self) -> None:
        """Remove what was written, where no page comes of it; what an older page uses stays."""
        self._remove(self._written - self._before)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(OSError):
                (self.folder / name).unlink()
        with suppress(OSError):
            self.folder.rmdir()  # only where it is empty


def _read(wanted: WantedClip) -> tuple[Samples, str]:
    """The samples of a clip at 16 kHz, and its file.

    Raises:
        DataError: It isn't found, or can't be read.
    """
    if is_url(wanted.path):
        raise DataError("on the network; nothing was fetched")
    failed: DataError | None = None
    for folder in wanted.folders:
        limits = AudioLimits(max_seconds=_MOST_SECONDS, base_dir=folder.path or None, outside=folder.outside)
        try:
            source = locate(wanted.path, limits)
        except DataError as error:
            failed = error if failed is None or not isinstance(error.__cause__, FileNotFoundError) else failed
            continue
        return load_waveform(wanted.path, start=wanted.start, end=wanted.end, limits=limits), source
    raise failed or DataError("no such file")


def _reason(error: DataError, wanted: WantedClip) -> str:
    """Why a clip can't be played, without the folders of this machine."""
    if isinstance(error.__cause__, FileNotFoundError):
        return "no such file"
    text = str(error).removeprefix(f"{printable(wanted.path)}: ")
    for folder in wanted.folders:
        if os.path.isabs(folder.path) and folder.path != "/":
            text = text.replace(folder.path, Path(folder.path).name)
    return text.splitlines()[0][:200]


def _plays(source: str) -> str | None:
    """The ending of a file that browsers play as it is; ``None``: it has to be converted."""
    import soundfile

    try:
        # By its descriptor: of a name, libsndfile would believe the ending.
        with (
            open(source, "rb", buffering=0) as stream,
            soundfile.SoundFile(stream.fileno(), closefd=False) as sound,
        ):
            ending, _, encodings = _PLAYED.get(sound.format, ("", "", set()))
            return f".{ending}" if sound.subtype in encodings and sound.channels <= 2 else None
    except (OSError, RuntimeError):  # soundfile's own errors are RuntimeErrors
        return None


def _wav(samples: Samples) -> bytes:
    import soundfile

    sound = io.BytesIO()
    soundfile.write(sound, np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return sound.getvalue()


def _link(source: str, target: Path) -> None:
    """The same file under another name, where the file system allows it; else a copy."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)

"""Clips and tables of rows for the tests of the data side."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import mdl_toolkit
from mdl_toolkit.settings import ConvertOptions, ConvertSettings

TINY = Path(mdl_toolkit.__file__).parent / "demo" / "tiny"
SHARED_DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
MDL = [sys.executable, "-m", "mdl_toolkit"]


def tone(seconds: float, rate: int = 16000, hertz: float = 440.0, level: float = 0.3) -> np.ndarray:
    """A sine, float32 [samples]."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000, **options: Any) -> Path:
    """Write samples to a sound file and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def wav_bytes(samples: np.ndarray, rate: int = 16000, **options: Any) -> bytes:
    """A sound file in memory."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=options.pop("format", "WAV"), **options)
    return buffer.getvalue()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a CSV and say where it is."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def small_task(folder: Path, rows: int = 6, seconds: float = 0.3) -> Path:
    """A CSV of a few tones of growing length, with their recordings beside it."""
    for i in range(rows):
        write_wav(folder / "clips" / f"{i}.wav", tone(seconds + 0.1 * i, hertz=200 + 50 * i))
    return write_csv(
        folder / "rows.csv", ["audio", "prediction"], [(f"clips/{i}.wav", f"tone {i}") for i in range(rows)]
    )


def convert_settings(source: Path, output: Path, **options: Any) -> ConvertSettings:
    """Settings of ``convert-dataset`` with the packaged base, one worker, and paths beside the CSV."""
    options = {"model_name": str(TINY), "num_workers": 1, "base_dir": source.parent, **options}
    return ConvertSettings(input=source, output=output, **options)


def convert_options(source: Path, **options: Any) -> ConvertOptions:
    """The same for ``convert_once``."""
    return ConvertOptions(**{"model_name": str(TINY), "num_workers": 1, "base_dir": source.parent, **options})

"""Folders as the public 0.1.0 converted them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdl_toolkit.data.prompt.builder import IGNORED, PromptBuilder
from support.data.clips import TINY, tone

BUILDER = PromptBuilder(TINY)


def legacy_row(seconds: float, answer: str, pad: int = 0) -> dict[str, Any]:
    """A row as 0.1.0 wrote it: its labels begin with the answer's header and end with a newline."""
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


def write_legacy(folder: Path, rows: list[dict[str, Any]], **columns: object) -> Path:
    """A folder as 0.1.0 wrote it."""
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

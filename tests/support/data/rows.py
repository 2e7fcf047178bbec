"""Rows as tests write them, and the batches that the model takes of them.

A row is ``{"ids": [...], "labels": [...], "waveform": float32 [samples]}``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Noise that swells and fades, float32 [samples]."""
    rng = np.random.default_rng((seed, samples, 1))
    swell = 0.55 + 0.45 * np.sin(np.arange(samples) / 3000 + seed)
    return (0.1 * swell * rng.standard_normal(samples)).astype(np.float32)


def padded(rows: list[dict[str, Any]], side: str = "right", labels: bool = True) -> dict[str, Any]:
    """The published inputs of some rows."""
    longest = max(len(row["ids"]) for row in rows)
    samples = max(len(row["waveform"]) for row in rows)

    def fill(values: list[int], value: int) -> list[int]:
        padding = [value] * (longest - len(values))
        return values + padding if side == "right" else padding + values

    batch = {
        "input_ids": torch.tensor([fill(row["ids"], 0) for row in rows]),
        "attention_mask": torch.tensor([fill([1] * len(row["ids"]), 0) for row in rows]),
        "input_values": torch.stack(
            [torch.from_numpy(np.pad(row["waveform"], (0, samples - len(row["waveform"])))) for row in rows]
        ),
        "audio_length": torch.tensor([len(row["waveform"]) for row in rows]),
    }
    if labels:
        batch["labels"] = torch.tensor([fill(row["labels"], -100) for row in rows])
    return batch


def packed(rows: list[dict[str, Any]], placeholder: int) -> dict[str, Any]:
    """The packed inputs of some rows."""
    ids = np.concatenate([row["ids"] for row in rows])
    lengths = [len(row["ids"]) for row in rows]
    starts = np.cumsum(lengths) - lengths
    positions = np.concatenate(
        [
            start + np.flatnonzero(np.array(row["labels"]) != -100) - 1
            for start, row in zip(starts, rows, strict=True)
        ]
    )
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]),
        "audio_positions": torch.from_numpy(np.flatnonzero(ids == placeholder)),
        "target_positions": torch.from_numpy(positions),
        "targets": torch.from_numpy(ids[positions + 1]),
        "waveform": torch.from_numpy(np.concatenate([row["waveform"] for row in rows])),
        "audio_samples": tuple(len(row["waveform"]) for row in rows),
        "sequence_lengths": tuple(lengths),
    }

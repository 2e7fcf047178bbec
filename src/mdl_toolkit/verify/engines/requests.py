"""What serving engines have in common: their versions, what they are sent of a prompt, how answers end."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

#: Samples a second of the clips, Hz.
SAMPLE_RATE = 16000


def installed_version(package: str) -> str | None:
    """The version of an engine's package; ``None`` where it isn't installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def with_stop(tokens: list[int], stop: object, ends: Sequence[int]) -> list[int]:
    """An answer with the token that ended it, which some versions say beside it instead of at its end."""
    if isinstance(stop, int) and stop in ends and (not tokens or tokens[-1] != stop):
        return [*tokens, stop]
    return tokens


def collapsed(input_ids: NDArray[np.int64], audio_token: int) -> list[int]:
    """Token ids with one placeholder a clip: engines put in as many as a clip needs themselves."""
    repeated = (input_ids[1:] == audio_token) & (input_ids[:-1] == audio_token)
    kept: list[int] = input_ids[np.concatenate([[True], ~repeated])].tolist()
    return kept

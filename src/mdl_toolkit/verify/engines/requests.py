"""What serving engines are sent of a prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Samples a second of the clips, Hz.
SAMPLE_RATE = 16000


def collapsed(input_ids: NDArray[np.int64], audio_token: int) -> list[int]:
    """Token ids with one placeholder a clip: engines put in as many as a clip needs themselves."""
    repeated = (input_ids[1:] == audio_token) & (input_ids[:-1] == audio_token)
    kept: list[int] = input_ids[np.concatenate([[True], ~repeated])].tolist()
    return kept

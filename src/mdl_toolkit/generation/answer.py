"""What a row asks of the model, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prompt:
    """What a row asks.

    Attributes:
        input_ids: int64 [tokens], with a placeholder for each audio token.
        waveform: float32 [samples], 16 kHz.
        budget: Tokens that the answer may have, its end token included.
        key: Tells the row's random numbers from others'.
    """

    input_ids: NDArray[np.int64]
    waveform: NDArray[np.float32]
    budget: int
    key: int = 0


@dataclass
class Answer:
    """What came out.

    Attributes:
        tokens: Ids, without the token that ended the answer.
        finished: False where the budget ended it.
    """

    tokens: list[int] = field(default_factory=list)
    finished: bool = False

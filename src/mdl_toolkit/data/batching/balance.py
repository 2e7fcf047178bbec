"""What a clip costs to train on, and how a step's clips are divided so that all have the same work."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.model_shape import ModelShape

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Parts are even enough when the one with the most work has at most this much more than the mean.
_EVEN = 1e-3
#: The number of lightest parts with which the heaviest one may exchange clips.
_PARTNERS = 4


@dataclass(frozen=True)
class Costs:
    """What a clip costs to train on, in units of the linear layers' work for one decoder token.

    The defaults are the 7B model's.

    Attributes:
        patch: The cost of an encoder patch.
        supervised: The cost of a supervised token in the LM head.
        token_pair: The cost of a pair of tokens in the decoder's attention (the square of the length is
            counted).
        patch_pair: The cost of a pair of patches of one chunk in the encoder's attention.
    """

    patch: float = 0.097
    supervised: float = 0.084
    token_pair: float = 1.5e-5
    patch_pair: float = 1.3e-5

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Costs:
        """Counted from the sizes in a parsed ``config.json``; the defaults where it lacks them."""
        try:
            shape = ModelShape.from_config(config)
            token = shape.layers * (shape.attention_weights + shape.mlp_weights)
            return cls(
                patch=shape.encoder_weights / token,
                supervised=shape.head_weights / token,
                token_pair=shape.token_pair / token,
                patch_pair=shape.patch_pair / token,
            )
        except (KeyError, TypeError, ZeroDivisionError):
            return cls()


def count_patches(samples: Ints, geometry: AudioGeometry) -> tuple[Ints, Ints]:
    """Encoder patches of each clip, and pairs of patches in its chunks' attention; both [rows]."""
    padded = np.maximum(samples, geometry.min_samples)
    patches = (1 + padded // geometry.hop_length) // geometry.patch_frames
    whole, rest = np.divmod(patches, geometry.chunk_patches)
    return patches, whole * geometry.chunk_patches**2 + rest**2


def clip_work(tokens: Ints, samples: Ints, supervised: Ints, geometry: AudioGeometry, costs: Costs) -> Floats:
    """Estimated work of each clip, in units of one decoder token, [rows]."""
    patches, patch_pairs = count_patches(samples, geometry)
    return np.asarray(
        tokens
        + costs.token_pair * tokens.astype(np.float64) ** 2
        + costs.patch * patches
        + costs.patch_pair * patch_pairs
        + costs.supervised * supervised
    )


def split_by_count(samples: Ints, work: Floats, parts: int) -> list[list[int]]:
    """Divide clips into parts of one size (sizes differ by 1 at most where they must) and nearly equal work.

    In rounds: the heaviest clips left go one to each part, the heaviest of them to the part with the least.
    Then parts exchange clips where that makes the heaviest part lighter.

    Args:
        samples: The clips' indices.
        work: The work of each clip.
        parts: The number of parts.
    """
    order = np.argsort(-work, kind="stable")
    load = np.zeros(parts)
    slots: list[list[int]] = [[] for _ in range(parts)]
    for start in range(0, len(order), parts):
        chosen = order[start : start + parts]
        by_load = np.argsort(load, kind="stable")[: len(chosen)]
        load[by_load] += work[chosen]
        for part, place in zip(by_load.tolist(), chosen.tolist(), strict=True):
            slots[part].append(place)
    _even_out(slots, work, np.zeros(len(work), dtype=np.int64), max_tokens=0, moves=False)
    return [samples[slot].tolist() for slot in slots]


def split_by_tokens(
    samples: Ints, work: Floats, tokens: Ints, parts: int, max_tokens: int
) -> list[list[int]] | None:
    """Divide clips into parts of at most ``max_tokens`` each and nearly equal work; ``None`` where it fails.

    The heaviest clip left goes to the part with the least work that has room for it. Then parts exchange
    clips where that makes the heaviest part lighter.
    """
    slots = fill_by_tokens(work, tokens, parts, max_tokens)
    if slots is None:
        return None
    _even_out(slots, work, tokens, max_tokens, moves=True)
    return [samples[slot].tolist() for slot in slots]


def fill_by_tokens(work: Floats, tokens: Ints, parts: int, max_tokens: int) -> list[list[int]] | None:
    """The first half of :func:`split_by_tokens`: places of the clips in ``work``, part by part."""
    slots: list[list[int]] = [[] for _ in range(parts)]
    room = [max_tokens] * parts
    heap = [(0.0, part) for part in range(parts)]
    for place in np.argsort(-work, kind="stable").tolist():
        need, passed = int(tokens[place]), []
        while heap and room[heap[0][1]] < need:
            passed.append(heapq.heappop(heap))
        if not heap:
            return None
        load, part = heap[0]
        heapq.heapreplace(heap, (load + float(work[place]), part))
        for item in passed:
            heapq.heappush(heap, item)
        slots[part].append(place)
        room[part] -= need
    return slots


def _even_out(slots: list[list[int]], work: Floats, tokens: Ints, max_tokens: int, moves: bool) -> None:
    """Let the heaviest part exchange one clip for another, or give one away (``moves``), while that helps."""
    load = np.array([work[slot].sum() for slot in slots])
    used = np.array([tokens[slot].sum() for slot in slots])
    for _ in range(8 * len(slots)):
        heavy = int(load.argmax())
        if load[heavy] <= load.mean() * (1 + _EVEN):
            return
        best: tuple[float, int, int, int] | None = None
        for light in np.argsort(load, kind="stable")[:_PARTNERS].tolist():
            found = _best_exchange(slots[heavy], slots[light], load[[heavy, light]], used[[heavy, light]],
                                   work, tokens, max_tokens, moves)  # fmt: skip
            if found is not None and (best is None or found[0] < best[0]):
                best = (found[0], light, *found[1:])
        if best is None:
            return
        _, light, given, taken = best
        ours, theirs = slots[heavy], slots[light]
        place = ours.pop(given)
        if taken < len(theirs):
            ours.append(theirs.pop(taken))
        theirs.append(place)
        for part in (heavy, light):
            load[part], used[part] = work[slots[part]].sum(), tokens[slots[part]].sum()


def _best_exchange(
    ours: list[int],
    theirs: list[int],
    load: Floats,
    used: Ints,
    work: Floats,
    tokens: Ints,
    max_tokens: int,
    moves: bool,
) -> tuple[float, int, int] | None:
    """The best exchange: the larger load after it, and the places of the two clips.

    A second place past the end of ``theirs`` means that a clip is given away for none.
    """
    none = [0.0] if moves else []
    change = work[ours][:, None] - np.append(work[theirs], none)[None]
    shift = tokens[ours][:, None] - np.append(tokens[theirs], np.array(none, dtype=np.int64))[None]
    after = np.maximum(load[0] - change, load[1] + change)
    allowed = (
        (after < load[0] * (1 - 1e-6)) & (used[1] + shift <= max_tokens) & (used[0] - shift <= max_tokens)
    )
    if not allowed.any():
        return None
    place = int(np.where(allowed, after, np.inf).argmin())
    given, taken = divmod(place, change.shape[1])
    return float(after.flat[place]), given, taken

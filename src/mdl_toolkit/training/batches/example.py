"""Describes one example as the model sees it, for a person to check before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdl_toolkit.data.dataset.dataset import Example

IGNORED = -100


def describe_example(
    example: Example, decode: Callable[[Sequence[int]], str], audio_token_id: int, limit: int = 1000
) -> str:
    """Describe a row: its text, the number of audio placeholders, and which tokens are learned.

    Args:
        example: A row of the dataset.
        decode: Turns ids into text, special tokens included.
        audio_token_id: The id of the audio placeholder.
        limit: The number of characters that are shown of a piece of text.

    Returns:
        Two lines or three, for example::

            one example, train.csv row 2 (a.wav), as the model sees it:
              given:   <|im_start|>user↵<|audio_bos|><|AUDIO|>×25<|audio_eos|>↵<|im_start|>assistant↵
              learned: seven<|im_end|> (2 of 38 tokens)
    """
    ids, labels = example.input_ids.tolist(), example.labels.tolist()
    lines = [f"one example, {example.row}, as the model sees it:"]
    learned = [label != IGNORED for label in labels]
    for is_learned, run in groupby(range(len(ids)), key=learned.__getitem__):
        stretch = [ids[position] for position in run]
        text = _shortened(_text(stretch, decode, audio_token_id), limit)
        if is_learned:
            count = f"{len(stretch)} of {len(ids)} tokens"
            lines.append(f"  learned: {text} ({count})")
        else:
            lines.append(f"  given:   {text}")
    if not any(learned):
        lines.append("  learned: nothing")
    return "\n".join(lines)


def _text(ids: Sequence[int], decode: Callable[[Sequence[int]], str], audio_token_id: int) -> str:
    pieces = []
    for is_audio, run in groupby(ids, key=lambda token: token == audio_token_id):
        tokens = list(run)
        pieces.append(f"{decode(tokens[:1])}×{len(tokens)}" if is_audio else decode(tokens))
    return "".join(pieces).replace("\r", "").replace("\n", "↵")


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-(limit // 2) :]}"

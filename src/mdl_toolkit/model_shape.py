"""Sizes of a model's layers, and how many weights they have. Pure Python, no torch.

Memory, FLOPs and the balance between ranks are counted from these numbers. A linear layer makes as many
multiply-adds for a position as it has weights, so one count serves for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mdl_toolkit.geometry import AudioGeometry


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes in a ``config.json`` that decide what its model costs.

    Attributes:
        encoder_width: Features of an encoder patch.
        encoder_blocks: Blocks of the encoder.
        encoder_mlp_width: Width of a block's MLP.
        mel_bands: Mel bands of the front end; a patch spans all of them.
        patch_frames: Mel frames of a patch.
        subsample_factor: Patches that the projector joins to one audio token.
        width: Features of a decoder token.
        layers: Layers of the decoder.
        query_width: Width of the queries of all heads together.
        key_width: Width of the keys of all heads together; the values have the same.
        mlp_width: Width of a layer's MLP.
        vocabulary: Rows of the embeddings and of the head.
    """

    encoder_width: int
    encoder_blocks: int
    encoder_mlp_width: int
    mel_bands: int
    patch_frames: int
    subsample_factor: int
    width: int
    layers: int
    query_width: int
    key_width: int
    mlp_width: int
    vocabulary: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read the sizes from a parsed ``config.json``.

        Raises:
            KeyError: A size is missing that has no default.
            TypeError: Something else stands where a number should.
            ZeroDivisionError: The decoder has no attention heads.
        """
        text, audio = config["text_config"], config["audio_encoder_config"]
        heads = text["num_attention_heads"]
        head_width = text.get("head_dim") or text["hidden_size"] // heads
        geometry = AudioGeometry.from_config(config)
        return cls(
            encoder_width=audio["embed_dim"],
            encoder_blocks=audio["depth"],
            encoder_mlp_width=int(audio["embed_dim"] * audio.get("mlp_ratio", 4)),
            mel_bands=audio.get("n_mels", 64),
            patch_frames=geometry.patch_frames,
            subsample_factor=geometry.subsample_factor,
            width=text["hidden_size"],
            layers=text["num_hidden_layers"],
            query_width=heads * head_width,
            key_width=text["num_key_value_heads"] * head_width,
            mlp_width=text["intermediate_size"],
            vocabulary=text["vocab_size"],
        )

    @property
    def patch_embedding(self) -> int:
        """Weights that make a patch of its mel bands and frames."""
        return self.mel_bands * self.patch_frames * self.encoder_width

    @property
    def encoder_weights(self) -> int:
        """Weights of the linear layers of all encoder blocks: four of the attention, two of the MLP."""
        attention = 4 * self.encoder_width**2
        return self.encoder_blocks * (attention + 2 * self.encoder_width * self.encoder_mlp_width)

    @property
    def projector_weights(self) -> int:
        """Weights of the projector's two linear layers."""
        return (self.subsample_factor * self.encoder_width + self.width) * self.width

    @property
    def attention_weights(self) -> int:
        """Weights of the linear layers of one decoder layer's attention: queries, output, keys, values."""
        return 2 * self.width * (self.query_width + self.key_width)

    @property
    def mlp_weights(self) -> int:
        """Weights of one decoder layer's MLP: gate, up and down."""
        return 3 * self.width * self.mlp_width

    @property
    def head_weights(self) -> int:
        """Weights of the LM head."""
        return self.width * self.vocabulary

    @property
    def patch_pair(self) -> int:
        """Multiply-adds of the encoder's attention for a pair of patches: a score and a weighted value."""
        return 2 * self.encoder_blocks * self.encoder_width

    @property
    def token_pair(self) -> int:
        """Multiply-adds of the decoder's attention for a pair of tokens, halved: it is causal."""
        return self.layers * self.query_width

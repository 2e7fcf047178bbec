"""MiDashengLM: audio encoder → projector → transformers' Qwen2 or Qwen3 causal language model.

Two forwards give the same numbers: the published one on padded batches, and a packed one that computes
nothing for padding and forms logits only where a target is.

Dimensions: B rows or clips, T tokens (of the longest row, or of all rows where packed), S samples, A audio
tokens, N supervised tokens, H decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from mdl_toolkit.compat.transformers_decoder import (
    CACHE_NAME,
    check_decoder,
    recompute_activations,
    use_attention,
)
from mdl_toolkit.errors import ModelError
from mdl_toolkit.model.config import MiDashengLMConfig
from mdl_toolkit.model.encoder import DashengEncoder, LayerScale
from mdl_toolkit.model.frontend import FrozenBatchNorm
from mdl_toolkit.model.inputs import (
    check_packed,
    check_placeholders,
    host_lengths,
    lengthen_clips,
    pad_in_front,
)
from mdl_toolkit.model.kernels.attention import PACKED_ATTENTION, Packing
from mdl_toolkit.model.kernels.last_layer import keeps_rows, make_last
from mdl_toolkit.model.kernels.linear import use_fast_products
from mdl_toolkit.model.kernels.loss import loss_sum
from mdl_toolkit.model.kernels.norm import use_own_norms
from mdl_toolkit.model.layout import ClipLayout
from mdl_toolkit.model.projector import AudioProjector

#: Tensors that some published checkpoints carry and that are recomputed: window and mel filters.
RECOMPUTED_TENSORS = r"^audio_encoder\.front_end\."


@dataclass
class MiDashengLMOutput(CausalLMOutputWithPast):  # type: ignore[misc]
    """What a forward returns.

    Attributes:
        loss: Mean cross-entropy over supervised tokens (padded forward with labels).
        logits: [B, T, V] (padded forward).
        loss_sum: Float32 sum of the cross-entropies over the N targets (packed forward).
    """

    loss_sum: Tensor | None = None


class MiDashengLMModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """An audio-language model that loads the published checkpoints without their code.

    Its forward takes one of two kinds of batches. Padded, as the published model has it:

        input_ids: [B, T] padded at either end.
        attention_mask: [B, T], 1 where there is a token.
        input_values: [clips, S] waveforms in the order of their placeholders, padded at the end.
        audio_length: [clips] samples of each.
        labels: [B, T], -100 where nothing is supervised; position t is predicted from t - 1.
        position_ids: [B, T], counting from 0 in each row.
        inputs_embeds: [B, T, H] in place of ``input_ids`` and audio.
        past_key_values: Transformers' cache (``cache`` is its newer name).
        use_cache: Whether to return the cache.
        logits_to_keep: Last positions to form logits of; 0 means all.

    Packed, as the training has it, with all rows end to end:

        input_ids: [T].
        position_ids: [T], counting from 0 in each row.
        sequence_lengths: Tokens of each row, on the host.
        waveform: [S] the clips end to end.
        audio_samples: Samples of each clip, on the host.
        audio_positions: [A] placeholders in ``input_ids``.
        target_positions: [N] positions whose next token is supervised.
        targets: [N] those next tokens.
    """

    config_class = MiDashengLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["EncoderBlock", "Qwen2DecoderLayer", "Qwen3DecoderLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = [CACHE_NAME]
    _supports_sdpa = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["init_bn"]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [RECOMPUTED_TENSORS]

    def __init__(self, config: MiDashengLMConfig) -> None:
        super().__init__(config)
        text: Any = config.text_config
        decoder_class = Qwen3ForCausalLM if isinstance(text, Qwen3Config) else Qwen2ForCausalLM
        self.geometry = config.geometry
        self.audio_encoder = DashengEncoder(config.audio_encoder_config)
        self.audio_projector = AudioProjector(
            config.audio_encoder_config.embed_dim, config.subsample_factor, text.hidden_size
        )
        self.decoder = decoder_class(text)
        check_decoder(self.decoder)
        use_attention(self.decoder, PACKED_ATTENTION)
        make_last(self.decoder.model.layers[-1])
        #: Positions (decoder tokens and encoder patches) that forwards computed, and the real ones of them.
        self.counted = {"computed": 0, "real": 0}
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FrozenBatchNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            nn.init.zeros_(module.running_mean)
            nn.init.ones_(module.running_var)
        elif isinstance(module, DashengEncoder):
            nn.init.normal_(module.time_pos_embed, std=0.02)
            nn.init.normal_(module.freq_pos_embed, std=0.02)
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, module.start)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a folder or Hub id through transformers.

        Raises:
            ModelError: Naming any tensor that is missing, unexpected, or of another shape than the model's.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        resizes = kwargs.pop("ignore_mismatched_sizes", False)
        model, info = super().from_pretrained(
            *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
        kinds = {"missing_keys": "missing tensors", "unexpected_keys": "unexpected tensors"}
        if not resizes:
            kinds["mismatched_keys"] = "tensors of another shape"
        problems = [
            f"{what}: {', '.join(sorted(map(str, info[key]))[:8])}"
            for key, what in kinds.items()
            if info.get(key)
        ]
        if problems:
            raise ModelError(f"{args[0] if args else 'model'}: " + "; ".join(problems))
        return (model, info) if wants_info else model

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's token embeddings."""
        return self.decoder.get_input_embeddings()  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the decoder's token embeddings."""
        self.decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The decoder's language-model head."""
        return self.decoder.get_output_embeddings()  # type: ignore[no-any-return]

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the decoder's language-model head."""
        self.decoder.set_output_embeddings(value)

    def use_own_layers(self) -> None:
        """Let linear layers and norms take this package's products and backward passes.

        Results are the same to rounding, first and higher derivatives too. It is for our own commands: other
        libraries recognise layers by their classes (``type(layer) is torch.nn.Linear``), and a model that
        ``from_pretrained`` gives has the classes that they know.
        """
        use_fast_products(self)
        use_own_norms(self.decoder)

    def recompute_blocks(self, enable: bool = True) -> None:
        """Compute encoder blocks and decoder layers again in the backward pass, and keep no activations."""
        recompute_activations(self, enable)

    def blocks(self) -> list[nn.Module]:
        """The repeated blocks: those of the encoder, then the layers of the decoder."""
        return [*self.audio_encoder.blocks, *self.decoder.model.layers]

    def within_pass(self, work: Callable[[], Tensor]) -> Tensor:
        """Do work that uses the model's parts directly; a sharded model gathers its weights for it."""
        return work()

    def compile_blocks(self, **options: Any) -> None:
        """Compile each repeated block in place: ``torch.compile`` by region, once for all equal blocks."""
        options.setdefault("dynamic", True)
        for block in self.blocks():
            block.compile(**options)

    def recompute_constants(self) -> None:
        """Fill the rotary tables, which no checkpoint holds, after the model got storage by ``to_empty``."""
        rotary = self.decoder.model.rotary_emb
        fresh = type(rotary)(self.config.text_config)
        for name, buffer in rotary.named_buffers():
            setattr(rotary, name, getattr(fresh, name).to(device=buffer.device))

    def encode_audio(self, waveform: Tensor, audio_samples: Sequence[int]) -> Tensor:
        """Audio features, as the decoder takes them.

        Args:
            waveform: [S] the clips end to end, 16 kHz, in [-1, 1].
            audio_samples: Samples of each clip, on the host.

        Returns:
            [A, H] features, clip after clip; ``geometry.audio_tokens`` of each.

        Raises:
            ModelError: Where the lengths don't add up to the waveform's.
        """
        if sum(audio_samples) != waveform.shape[0]:
            raise ModelError(
                f"the waveform has {waveform.shape[0]} samples, but audio_samples add up to "
                f"{sum(audio_samples)}"
            )
        config = self.config.audio_encoder_config
        layout = ClipLayout.build(audio_samples, self.geometry, config.n_fft, waveform.device)
        waveform = waveform.float()
        if layout.samples != tuple(audio_samples):
            waveform = lengthen_clips(waveform, audio_samples, layout.samples)
        features = self.audio_encoder(waveform, layout)
        self._count(features.shape[0], features.shape[0])
        return self.audio_projector(features, layout.token_patches)  # type: ignore[no-any-return]

    def embed_padded(self, input_ids: Tensor, input_values: Tensor | None, audio_length: Any) -> Tensor:
        """Embeddings of padded rows with the clips' features at their placeholders.

        Args:
            input_ids: [B, T].
            input_values: [clips, S] waveforms, padded at the end; ``None`` where there is no audio.
            audio_length: [clips] samples of each.

        Returns:
            [B, T, H].

        Raises:
            ModelError: Where placeholders and features don't agree in number, with the row and both numbers.
        """
        embeds = self.get_input_embeddings()(input_ids)
        placeholders = input_ids == self.config.audio_token_id
        counts = placeholders.sum(1).tolist()
        if input_values is None:
            if sum(counts):
                raise ModelError(f"the text has {sum(counts)} audio placeholders, but there is no audio")
            return embeds  # type: ignore[no-any-return]
        lengths = host_lengths(audio_length, input_values)
        check_placeholders(counts, [self.geometry.audio_tokens(length) for length in lengths])
        waveform = torch.cat([row[:length] for row, length in zip(input_values, lengths, strict=True)])
        features = self.encode_audio(waveform, lengths)
        rows = placeholders.flatten().nonzero().flatten()
        flat = embeds.flatten(0, 1).index_copy(0, rows, features.to(embeds.dtype))
        return flat.view_as(embeds)  # type: ignore[no-any-return]

    def forward(  # noqa: PLR0913, PLR0917 -- the published signature and the packed one
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        audio_length: Tensor | Sequence[int] | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        waveform: Tensor | None = None,
        audio_samples: Sequence[int] | None = None,
        sequence_lengths: Sequence[int] | None = None,
        audio_positions: Tensor | None = None,
        target_positions: Tensor | None = None,
        targets: Tensor | None = None,
        **kwargs: Any,
    ) -> MiDashengLMOutput:
        """The padded forward, or the packed one where ``sequence_lengths`` is given; see the class.

        Returns:
            ``loss``, ``logits`` and the cache; packed: ``loss_sum``.

        Raises:
            ModelError: Where placeholders and audio features don't agree in number.
        """
        if sequence_lengths is not None:
            assert input_ids is not None and target_positions is not None and targets is not None
            audio = (waveform, audio_samples or (), sequence_lengths, audio_positions)
            hidden = self.packed_hidden(input_ids, position_ids, *audio, keep_rows=target_positions)
            return MiDashengLMOutput(loss_sum=loss_sum(hidden, self.decoder.lm_head, targets))
        past = cache if cache is not None else past_key_values
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids, input_values, audio_length, past)
        self._count_padded(inputs_embeds, attention_mask)
        if position_ids is None and isinstance(attention_mask, Tensor) and past is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp_(min=0)
        output = self.decoder(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
            use_cache=use_cache, logits_to_keep=logits_to_keep, labels=labels,
            **{CACHE_NAME: past}, **{**kwargs, "return_dict": True},
        )  # fmt: skip
        return MiDashengLMOutput(**output)

    def _embed(
        self, input_ids: Tensor | None, input_values: Tensor | None, audio_length: Any, past: Any
    ) -> Tensor:
        """Embeddings of the next tokens of padded rows, [B, T, H]; ``past`` is the cache of those before."""
        assert input_ids is not None
        if input_values is None and past is not None and past.get_seq_length():
            # A generated token is always text, even if its id is that of the audio placeholder.
            return self.get_input_embeddings()(input_ids)  # type: ignore[no-any-return]
        return self.embed_padded(input_ids, input_values, audio_length)

    def packed_hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        waveform: Tensor | None,
        audio_samples: Sequence[int],
        sequence_lengths: Sequence[int],
        audio_positions: Tensor | None,
        keep_rows: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Final states of packed rows; arguments as in :meth:`forward`, ``kwargs`` for transformers' decoder.

        ``keep_rows`` [N] names the positions whose states are wanted; ``None`` all of them.

        Returns:
            [N, H] after the decoder's last norm.
        """
        embeds = self.get_input_embeddings()(input_ids)
        if audio_samples:
            assert waveform is not None and audio_positions is not None
            features = [self.geometry.audio_tokens(length) for length in audio_samples]
            check_packed(input_ids, audio_positions, features, sequence_lengths)
            encoded = self.encode_audio(waveform, audio_samples)
            embeds = embeds.index_copy(0, audio_positions, encoded.to(embeds.dtype))
        elif torch.is_grad_enabled():
            # Every process must run every module in every step, or others wait for it: a silent clip is used.
            silence = torch.zeros(self.geometry.min_samples, device=embeds.device)
            embeds = embeds + 0.0 * self.encode_audio(silence, (silence.shape[0],)).sum().to(embeds.dtype)
        packing = Packing.build(sequence_lengths, embeds.device, causal=True)
        packing.keep_rows = keep_rows
        self._count(embeds.shape[0], embeds.shape[0])
        output = self.decoder.model(
            inputs_embeds=embeds[None],
            position_ids=None if position_ids is None else position_ids[None],
            # A dictionary is taken as it is: transformers builds no masks.
            attention_mask={"full_attention": None, "sliding_attention": None},
            packing=packing,
            **{"use_cache": False, **kwargs},
        )
        states: Tensor = output.last_hidden_state[0]
        if keep_rows is None or keeps_rows(self.decoder.model.layers[-1]):
            return states
        return states.index_select(0, keep_rows)

    def _count(self, computed: int, real: int) -> None:
        self.counted["computed"] += computed
        self.counted["real"] += real

    def _count_padded(self, inputs_embeds: Tensor, attention_mask: Any) -> None:
        """Count the tokens of a padded forward; steps of generation, with their longer masks, don't count."""
        computed = inputs_embeds.shape[0] * inputs_embeds.shape[1]
        if attention_mask is None:
            self._count(computed, computed)
        elif isinstance(attention_mask, Tensor) and attention_mask.shape == inputs_embeds.shape[:2]:
            self._count(computed, int(attention_mask.count_nonzero()))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        audio_length: Tensor | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate answers for a batch of prompts with clips of any lengths.

        The audio encoder runs once for each clip, whatever the number of beams or samples. Prompts may be
        padded at either end; what is returned has them padded at the front, followed by the new tokens.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 where there is a token.
            input_values: [clips, S] waveforms, padded at the end.
            audio_length: [clips] samples of each.
            kwargs: Further arguments of ``GenerationMixin.generate``.

        Returns:
            [B, T + new tokens] ids, or transformers' output object.
        """
        if input_ids is None:
            input_ids = kwargs.pop("inputs", None)
        if input_ids is not None and attention_mask is not None:
            input_ids, attention_mask = pad_in_front(input_ids, attention_mask)
        if input_values is not None:
            assert input_ids is not None
            kwargs["inputs_embeds"] = self.embed_padded(input_ids, input_values, audio_length)
        return super().generate(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

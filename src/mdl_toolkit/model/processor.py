"""Text and recordings to the model's padded inputs, with the checkpoint's own tokenizer and chat template."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import BatchFeature, ProcessorMixin

from mdl_toolkit.errors import DataError, ModelError
from mdl_toolkit.geometry import AudioGeometry
from mdl_toolkit.model.config import MiDashengLMConfig

Waveform = NDArray[np.float32]


class MiDashengLMProcessor(ProcessorMixin):  # type: ignore[misc]
    """Makes ``input_ids``, ``attention_mask``, ``input_values`` and ``audio_length`` of text and recordings.

    Args:
        feature_extractor: The checkpoint's; only its sampling rate is used, the front end is the model's.
        tokenizer: The checkpoint's.
        model_subsampling: Patches of an audio token, where no ``config.json`` lies beside.
        chat_template: The checkpoint's.
        audio_token: The placeholder of audio features.
        audio_bos_token: What stands before a clip.
        audio_eos_token: What stands after it.
    """

    def __init__(
        self,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        model_subsampling: int = 5,
        chat_template: Any = None,
        audio_token: str | None = None,
        audio_bos_token: str | None = None,
        audio_eos_token: str | None = None,
    ) -> None:
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        self.model_subsampling = model_subsampling
        self.audio_token = audio_token or getattr(tokenizer, "audio_token", None) or "<|AUDIO|>"
        self.audio_bos_token = (
            audio_bos_token or getattr(tokenizer, "audio_bos_token", None) or "<|audio_bos|>"
        )
        self.audio_eos_token = (
            audio_eos_token or getattr(tokenizer, "audio_eos_token", None) or "<|audio_eos|>"
        )
        #: How many audio tokens a clip becomes.
        self.geometry = AudioGeometry(subsample_factor=model_subsampling)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load the processor of a folder or Hub id, and the clip arithmetic of its ``config.json``."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub = ("cache_dir", "force_download", "token", "local_files_only", "revision", "subfolder")
        try:
            config = MiDashengLMConfig.from_pretrained(
                pretrained_model_name_or_path, **{key: kwargs[key] for key in hub if key in kwargs}
            )
        except OSError:
            # Only the processor's own files are there: the published arithmetic holds.
            return processor
        processor.geometry = config.geometry
        return processor

    def to_dict(self) -> dict[str, Any]:
        """What is written to ``processor_config.json``."""
        fields: dict[str, Any] = super().to_dict()
        fields.pop("geometry", None)
        return fields

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call makes."""
        return ["input_ids", "attention_mask", "input_values", "audio_length"]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        images: None = None,
        videos: None = None,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        padding_side: str = "left",
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenize texts, with each clip's placeholders put in, and pad the recordings.

        Args:
            text: One or more texts; each clip is one ``<|AUDIO|>`` in them, in order.
            audio: One or more waveforms (numpy, torch or lists), mono, at the model's rate, in [-1, 1].
            images: Must be ``None``.
            videos: Must be ``None``.
            sampling_rate: The rate of ``audio`` in Hz, checked where it is given.
            padding: How the tokenizer pads the texts.
            padding_side: The side that it pads: ``left`` to generate, ``right`` to train.
            return_tensors: ``pt`` or ``np``; ``None`` gives lists.
            kwargs: Further arguments of the tokenizer.

        Returns:
            ``input_ids`` [B, T], ``attention_mask`` [B, T]; with audio also ``input_values`` [clips, S]
            float32 and ``audio_length`` [clips] samples.

        Raises:
            DataError: Where the rate is wrong, or clips and placeholders don't agree.
        """
        if images is not None or videos is not None:
            raise ModelError("MiDashengLM hears and reads; it takes no images and no videos")
        self._check_rate(sampling_rate)
        clips = [] if audio is None else _waveforms(audio)
        fields: dict[str, Any] = {}
        if text is not None:
            texts = self._with_placeholders([text] if isinstance(text, str) else list(text), clips)
            fields.update(
                self.tokenizer(
                    texts, padding=padding, padding_side=padding_side, return_tensors=return_tensors, **kwargs
                )
            )
            fields.pop("token_type_ids", None)
        if clips:
            fields.update(_padded(clips))
        return BatchFeature(fields, tensor_type=return_tensors)

    def _check_rate(self, sampling_rate: int | None) -> None:
        rate = self.geometry.sample_rate
        if sampling_rate is not None and sampling_rate != rate:
            raise DataError(
                f"the audio is at {sampling_rate} Hz, but the model takes {rate} Hz: resample it first"
            )

    def _with_placeholders(self, texts: list[str], clips: Sequence[Waveform]) -> list[str]:
        """Put as many placeholders for each clip as it makes features."""
        runs = re.compile(f"(?:{re.escape(self.audio_token)})+")
        expected = iter([self.geometry.audio_tokens(len(clip)) for clip in clips])
        found = sum(len(runs.findall(text)) for text in texts)
        if found != len(clips):
            raise DataError(f"the text has places for {found} clips, but {len(clips)} were given")
        expanded = []
        for row, text in enumerate(texts):

            def expand(match: re.Match[str], row: int = row) -> str:
                wanted, there = next(expected), len(match[0]) // len(self.audio_token)
                if there not in (1, wanted):
                    raise DataError(
                        f"row {row}: the text has {there} audio placeholders, but the clip makes {wanted} "
                        "audio features"
                    )
                return self.audio_token * wanted

            expanded.append(runs.sub(expand, text))
        return expanded

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tokenize: bool = False,
        return_tensors: str | None = "pt",
        return_dict: bool = True,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render conversations and, with ``tokenize``, make the model's inputs of them.

        Args:
            conversation: Messages, or a list of conversations. A clip is ``{"type": "audio", "audio": …}``
                with a waveform or the path of a recording.
            chat_template: In place of the checkpoint's.
            tokenize: Whether to go on to inputs.
            return_tensors: The same as in a call.
            return_dict: Whether to return all inputs rather than ``input_ids`` alone.
            processor_kwargs: Further arguments of the call.
            kwargs: Arguments of the template (``add_generation_prompt``).

        Returns:
            The text or texts, or the inputs.
        """
        template = kwargs | ({} if chat_template is None else {"chat_template": chat_template})
        if not tokenize:
            return super().apply_chat_template(conversation, tokenize=False, **template)
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        conversations = conversation if batched else [conversation]
        clips: list[Waveform] = []
        for messages in conversations:
            for message in messages:
                content = message.get("content")
                parts = [] if content is None or isinstance(content, str) else content
                clips += [
                    _load(part, self.geometry.sample_rate) for part in parts if part.get("type") == "audio"
                ]
        texts = super().apply_chat_template(conversations, tokenize=False, **template)
        inputs = self(
            text=texts, audio=clips or None, return_tensors=return_tensors, **dict(processor_kwargs or {})
        )
        return inputs if return_dict else inputs["input_ids"]


def _padded(clips: Sequence[Waveform]) -> dict[str, NDArray[Any]]:
    """Clips as rows of one array, padded with zeros at the end, and their lengths."""
    values = np.zeros((len(clips), max(len(clip) for clip in clips)), dtype=np.float32)
    for row, clip in zip(values, clips, strict=True):
        row[: len(clip)] = clip
    return {"input_values": values, "audio_length": np.array([len(clip) for clip in clips], dtype=np.int64)}


def _waveforms(audio: Any) -> list[Waveform]:
    """One or more waveforms as float32 arrays of one dimension."""
    if isinstance(audio, (list, tuple)) and audio and not isinstance(audio[0], (int, float)):
        return [_waveform(one) for one in audio]
    array = np.asarray(audio, dtype=np.float32)
    return [_waveform(one) for one in array] if array.ndim == 2 else [_waveform(array)]


def _waveform(audio: Any) -> Waveform:
    array = np.asarray(audio, dtype=np.float32)
    if array.ndim != 1 or not array.size:
        raise DataError(
            f"a clip must be mono and not empty, one row of samples; this one has shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise DataError("a clip has samples that are not finite numbers")
    return array


def _load(part: Mapping[str, Any], sample_rate: int) -> Waveform:
    """The waveform of a message's audio part."""
    source = next((part[key] for key in ("audio", "path", "url") if part.get(key) is not None), None)
    if source is None:
        raise DataError('a message\'s audio part needs "audio": a waveform or the path of a recording')
    if not isinstance(source, (str, os.PathLike)):
        return _waveform(source)
    if "://" in str(source):
        raise DataError(
            f"{source}: give the path of a recording or its samples; addresses are not fetched here"
        )
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"{source}: can't be read: {error}") from error
    mono = samples.mean(axis=1)
    return _waveform(mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate))

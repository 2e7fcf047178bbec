"""What a row is asked, how long its answer may be, and its clip: from a row to a prompt for the model."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdl_toolkit.checkpoint.manifest import PromptRecord
from mdl_toolkit.console import warn
from mdl_toolkit.data.audio import AudioLimits, load_waveform, to_pcm16
from mdl_toolkit.data.prompt import PromptBuilder
from mdl_toolkit.data.records import Row
from mdl_toolkit.data.urls import UrlLimits
from mdl_toolkit.errors import DataError
from mdl_toolkit.infer.generate import Prompt
from mdl_toolkit.settings import InferenceSettings

#: Length in all where neither limit is given, as the public 0.1.0 had it.
DEFAULT_LENGTH = 128
_WARNINGS = 3


class PromptChoice:
    """The prompts of a row: its own, else the options', else those that the model was trained with.

    A prompt that differs between training and use is the commonest silent failure, so it is warned of.

    Args:
        settings: With the options that a person gave.
        record: How the model was asked in training; ``None`` for a base.
    """

    def __init__(self, settings: InferenceSettings, record: PromptRecord | None) -> None:
        self._record = record
        self.system, self.user = settings.system_prompt, settings.user_prompt
        if record is not None:
            self.system = record.default_for("system_prompt") if self.system is None else self.system
            self.user = record.default_for("user_prompt") if self.user is None else self.user
        trained = record.order if record else "audio-first"
        self.order = settings.prompt_order or trained
        self._known = self._known_pairs()
        self._strange: dict[tuple[str | None, str | None], int] = {}
        self._lock = threading.Lock()
        if record is not None and self.order != trained:
            warn(
                f"--prompt-order {self.order}, but the model was trained with {trained}: expect worse answers"
            )

    def _known_pairs(self) -> set[tuple[str | None, str | None]] | None:
        """Pairs of prompts that training had; ``None`` where that isn't known in full."""
        if self._record is None or not self._record.complete or not self._record.seen:
            return None
        return {(use.system_prompt, use.user_prompt) for use in self._record.seen}

    def pair(self, row: Row) -> tuple[str | None, str | None]:
        """System and user prompt of a row."""
        system = self.system if row.system_prompt is None else row.system_prompt
        user = self.user if row.user_prompt is None else row.user_prompt
        return system, user

    def of(self, row: Row) -> tuple[str | None, str | None]:
        """System and user prompt of a row that is to be answered; strange ones are counted and warned of."""
        system, user = self.pair(row)
        if self._known is not None and (system, user) not in self._known:
            self._warn(row, system, user)
        return system, user

    def _warn(self, row: Row, system: str | None, user: str | None) -> None:
        with self._lock:
            count = self._strange[system, user] = self._strange.get((system, user), 0) + 1
            if count > 1 or len(self._strange) > _WARNINGS:
                return
        assert self._record is not None
        first = self._record.seen[0]
        warn(
            f"line {row.number}: the prompts differ from those of training: here system {_shown(system)}, "
            f"user {_shown(user)}; trained with system {_shown(first.system_prompt)}, "
            f"user {_shown(first.user_prompt)}"
            + (f" and {len(self._record.seen) - 1} more" if len(self._record.seen) > 1 else "")
        )

    @property
    def strange_rows(self) -> int:
        """Rows so far whose prompts training never had."""
        return sum(self._strange.values())


def _shown(text: str | None) -> str:
    return "none" if text is None else repr(text if len(text) <= 60 else text[:57] + "...")


@dataclass(frozen=True)
class AnswerLimits:
    """How long an answer may be.

    Attributes:
        max_new_tokens: Of the answer.
        max_length: Of prompt and answer together.
        context: Of the model.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    context: int | None = None

    def budget(self, prompt: int) -> int:
        """Tokens for the answer to a prompt of so many tokens.

        Raises:
            DataError: Where there is no room, with both numbers.
        """
        if self.max_new_tokens is not None:
            budget = self.max_new_tokens
        elif self.max_length is not None:
            budget = self.max_length - prompt
            if budget < 1:
                raise DataError(
                    f"the prompt has {prompt} tokens, so --max-length {self.max_length} leaves no room for "
                    "an answer; use --max-new-tokens"
                )
        else:
            budget = DEFAULT_LENGTH - prompt if prompt < DEFAULT_LENGTH else DEFAULT_LENGTH
        if self.context is not None:
            if prompt >= self.context:
                raise DataError(f"the prompt has {prompt} tokens; the model reads {self.context} at most")
            budget = min(budget, self.context - prompt)
        return budget


@dataclass(frozen=True)
class RowReader:
    """Turns rows into prompts for the model; used by several threads at once.

    Attributes:
        builder: Of the model's tokenizer and template.
        choice: Of prompts.
        limits: Of answers.
        audio: Bounds of what a row may name.
    """

    builder: PromptBuilder
    choice: PromptChoice
    limits: AnswerLimits
    audio: AudioLimits

    def read(self, row: Row, key: int) -> Prompt:
        """Load a row's clip and build its prompt.

        Args:
            row: Of the input.
            key: Tells its random numbers from other rows'.

        Raises:
            DataError: Saying what is wrong with the row.
        """
        geometry = self.builder.geometry
        waveform = load_waveform(
            row.audio, start=row.start, end=row.end, limits=self.audio, sample_rate=geometry.sample_rate
        )
        # Converted datasets hold 16-bit samples: the model hears here what it heard in training.
        waveform = to_pcm16(waveform)[0].astype(np.float32) / np.float32(32768)
        system, user = self.choice.of(row)
        tokens = self.builder.prepare(system, user, None, self.choice.order)
        encoded = tokens.with_audio(geometry.audio_tokens(len(waveform)))
        return Prompt(encoded.input_ids, waveform, self.limits.budget(len(encoded.input_ids)), key)


def audio_limits(settings: InferenceSettings) -> AudioLimits:
    """The bounds that the options set."""
    return AudioLimits(
        max_seconds=settings.max_audio_seconds,
        urls=UrlLimits(
            timeout=settings.url_timeout,
            max_bytes=int(settings.url_max_mib * 2**20),
            allow_private=settings.allow_private_urls,
        ),
        base_dir=None if settings.base_dir is None else str(settings.base_dir),
        outside=settings.allow_outside_base_dir,
    )


def end_tokens(generation_config: Mapping[str, Any], end_id: int) -> list[int]:
    """Tokens that end an answer: the template's own, and those of the model's generation settings."""
    said = generation_config.get("eos_token_id")
    listed = said if isinstance(said, list) else [said]
    return sorted({end_id, *(token for token in listed if type(token) is int and token >= 0)})

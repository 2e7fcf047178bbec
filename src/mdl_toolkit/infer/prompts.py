"""What a row is asked, how long its answer may be, and its clip: from a row to a prompt for the model."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from mdl_toolkit.data.audio.load import AudioLimits, load_waveform
from mdl_toolkit.data.audio.pcm16 import from_pcm16, is_silent, to_pcm16
from mdl_toolkit.data.input.noticed import NoticedRows
from mdl_toolkit.data.input.records import Row
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.data.prompt.record import PromptRecord
from mdl_toolkit.errors import DataError, printable
from mdl_toolkit.generation.answer import Prompt, default_budget
from mdl_toolkit.infer.confidence.choices import RowChoices
from mdl_toolkit.settings import InferenceSettings
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

_WARNINGS = 3


class PromptChoice:
    """The prompts of a row: its own, else the options', else those that the model was trained with.

    A prompt that differs between training and use is the commonest silent failure, so it is warned of.

    Args:
        settings: The options of the command.
        record: The prompts that training had; ``None`` for a base model.
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
        self._unseen: dict[tuple[str | None, str | None], int] = {}
        self._lock = threading.Lock()
        if record is not None and self.order != trained:
            logger.warning(
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

    def checked_pair(self, row: Row) -> tuple[str | None, str | None]:
        """System and user prompt of a row; pairs that training didn't have are counted, and warned of."""
        system, user = self.pair(row)
        if self._known is not None and (system, user) not in self._known:
            self._warn(row, system, user)
        return system, user

    def _warn(self, row: Row, system: str | None, user: str | None) -> None:
        with self._lock:
            count = self._unseen[system, user] = self._unseen.get((system, user), 0) + 1
            if count > 1 or len(self._unseen) > _WARNINGS:
                return
        assert self._record is not None
        first = self._record.seen[0]
        logger.warning(
            f"line {row.number}: the prompts differ from those of training: here system {shown(system)}, "
            f"user {shown(user)}; trained with system {shown(first.system_prompt)}, "
            f"user {shown(first.user_prompt)}"
            + (f" and {len(self._record.seen) - 1} more" if len(self._record.seen) > 1 else "")
        )

    @property
    def unseen_rows(self) -> int:
        """Rows so far with prompts that training didn't have."""
        return sum(self._unseen.values())


def shown(text: str | None) -> str:
    """A prompt for a message, cut where it is long."""
    return "none" if text is None else repr(text if len(text) <= 60 else text[:57] + "...")


@dataclass(frozen=True)
class AnswerLimits:
    """How long an answer may be: as the options say, else the model's settings, else by what training had.

    A model's settings are usually its base's, from before it was trained. Where training had longer answers
    than they allow, they would cut what the model was taught, and don't count.

    Attributes:
        max_new_tokens: The limit of the answer in the options.
        max_length: The limit of prompt and answer together in the options.
        model_new_tokens: The limit of the answer in the model's ``generation_config.json``.
        model_length: The limit of prompt and answer together in that file.
        longest: Tokens of the longest answer in training, its end token included; 0 where that isn't known.
        context: Tokens that the model reads at most; ``None`` where that isn't known.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    model_new_tokens: int | None = None
    model_length: int | None = None
    longest: int = 0
    context: int | None = None

    @property
    def default(self) -> int:
        """Tokens of an answer where nothing sets a limit: 1.5 times the longest answer of training."""
        return default_budget(self.longest)

    def budget(self, prompt: int) -> int:
        """Tokens for the answer to a prompt of so many tokens.

        Raises:
            DataError: Where there is no room, with both numbers.
        """
        if self.max_new_tokens is not None:
            budget = self.max_new_tokens
        elif self.max_length is not None:
            budget = self._room("--max-length", self.max_length, prompt)
        elif self.model_new_tokens is not None:
            budget = self.model_new_tokens if self.model_new_tokens >= self.longest else self.default
        elif self.model_length is not None and self.model_length - prompt >= self.longest:
            budget = self._room(
                "max_length of the model's generation_config.json,", self.model_length, prompt
            )
        else:
            budget = self.default
        if self.context is not None:
            if prompt >= self.context:
                raise DataError(f"the prompt has {prompt} tokens; the model reads {self.context} at most")
            budget = min(budget, self.context - prompt)
        return budget

    @staticmethod
    def _room(name: str, length: int, prompt: int) -> int:
        if prompt >= length:
            raise DataError(
                f"the prompt has {prompt} tokens, so {name} {length} leaves no room for an answer; use "
                "--max-new-tokens"
            )
        return length - prompt

    def describe(self) -> str:
        """For people: what limits answers, and why."""
        if self.max_new_tokens is not None:
            return f"answers of at most {self.max_new_tokens} tokens (--max-new-tokens)"
        if self.max_length is not None:
            return f"prompt and answer of at most {self.max_length} tokens (--max-length)"
        trained = f"; the longest in training had {self.longest}" if self.longest else ""
        if self.model_new_tokens is not None and self.model_new_tokens >= self.longest:
            return f"answers of at most {self.model_new_tokens} tokens (by the model's settings{trained})"
        if self.model_new_tokens is None and self.model_length is not None:
            return (
                f"prompt and answer of at most {self.model_length} tokens (by the model's settings{trained})"
            )
        return f"answers of at most {self.default} tokens ({trained[2:] or 'by default'})"


@dataclass(frozen=True)
class RowReader:
    """Turns rows into prompts for the model; used by several threads at once.

    Attributes:
        builder: Builds prompts with the model's tokenizer and template.
        choice: Chooses the prompts of a row.
        limits: How long an answer may be.
        audio: Bounds of what a row may name.
        choices: Where answers are chosen among given ones: these.
        silent: The rows so far whose clips are silent.
    """

    builder: PromptBuilder
    choice: PromptChoice
    limits: AnswerLimits
    audio: AudioLimits
    choices: RowChoices | None = None
    silent: NoticedRows = field(default_factory=NoticedRows)

    def read(self, row: Row, key: int) -> Prompt:
        """Load a row's clip and build its prompt.

        Args:
            row: A row of the input.
            key: Makes its random numbers differ from other rows'.

        Raises:
            DataError: Saying what is wrong with the row.
        """
        geometry = self.builder.geometry
        waveform = load_waveform(
            row.audio, start=row.start, end=row.end, limits=self.audio, sample_rate=geometry.sample_rate
        )
        # Converted datasets hold 16-bit samples: the model hears here what it heard in training.
        pcm = to_pcm16(waveform)[0]
        if is_silent(pcm):
            self.silent.add(f"line {row.number} ({printable(row.audio[:200])})")
        waveform = from_pcm16(pcm)
        system, user = self.choice.checked_pair(row)
        audio_tokens = geometry.audio_tokens(len(waveform))
        if self.choices is None:
            ids = self.builder.encode(system, user, audio_tokens, None, self.choice.order).input_ids
            return Prompt(ids, waveform, self.limits.budget(len(ids)), key)
        choices = self.choices.of(row)
        # The row as training has it, up to the answer.
        row_tokens = self.builder.prepare(system, user, choices.texts[0], self.choice.order)
        ids = row_tokens.with_audio(audio_tokens).input_ids[: -len(row_tokens.answer)]
        self.choices.check_room(choices, len(ids))
        return Prompt(ids, waveform, max(map(len, choices.tokens)), key, choices)

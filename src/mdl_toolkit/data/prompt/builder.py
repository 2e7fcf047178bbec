"""From prompts, a clip's length and an answer to token ids and labels, by the checkpoint's own template.

The text of a row is cut where the template says its parts begin and end, and the parts are tokenised by
themselves: the answer's tokens are known by position, not by searching, and are those that the model is asked
to produce after the same prompt at inference.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdl_toolkit.data.prompt.record import ORDERS
from mdl_toolkit.data.prompt.template import compile_template, find_template, read_json
from mdl_toolkit.errors import DataError, ModelError
from mdl_toolkit.geometry import AudioGeometry

IGNORED = -100
AUDIO_TOKEN = "<|AUDIO|>"  # noqa: S105 -- a token of a text

_PROBE = "\ue000probe\ue001"  # private-use characters, so that no template or cell contains it
_CLIP = {"type": "audio", "audio": "clip"}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")


@dataclass(frozen=True)
class Encoded:
    """A row as the model sees it.

    Attributes:
        input_ids: int64 [T]; with an answer it ends with the end-of-turn token, without one with the
            template's generation prompt.
        labels: int64 [T]; −100 but on the answer and the end-of-turn token that ends it.
    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return int(np.count_nonzero(self.labels != IGNORED))


@dataclass(frozen=True)
class RowTokens:
    """The tokens of a row but for the clip's placeholders, which wait for the clip's length.

    Attributes:
        before: The token ids before the placeholders.
        after: The token ids between the placeholders and the answer.
        answer: The token ids of the answer and of the token that ends it; empty without an answer.
        audio_token_id: The id of an audio placeholder.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    answer: tuple[int, ...]
    audio_token_id: int

    def length(self, audio_tokens: int) -> int:
        """Tokens of the row with so many placeholders."""
        return len(self.before) + audio_tokens + len(self.after) + len(self.answer)

    def with_audio(self, audio_tokens: int) -> Encoded:
        """The row with its placeholders, now that the clip's number of audio tokens is known."""
        if audio_tokens < 1:
            raise DataError(f"{audio_tokens} audio tokens: a clip has at least 1")
        prompt = [*self.before, *[self.audio_token_id] * audio_tokens, *self.after]
        ids = np.array([*prompt, *self.answer], dtype=np.int64)
        labels = np.full(len(ids), IGNORED, dtype=np.int64)
        labels[len(prompt) :] = self.answer
        found = int(np.count_nonzero(ids == self.audio_token_id))
        if found != audio_tokens:
            raise DataError(f"{found} audio placeholders in the text for {audio_tokens} audio tokens")
        return Encoded(ids, labels)


class PromptBuilder:
    """Builds the text of rows with the tokenizer and the chat template of a model folder.

    Args:
        model_folder: Folder with ``config.json``, ``tokenizer.json`` (or the older tokenizer files, which
            need transformers) and a chat template.

    Raises:
        ModelError: The folder has no tokenizer or template, or a template with no place for a clip.
    """

    def __init__(self, model_folder: Path) -> None:
        self.folder = Path(model_folder)
        self.config = _config(self.folder)
        self.geometry = AudioGeometry.from_config(self.config)
        self._render = compile_template(self.folder)
        self.tokenizer = _load_tokenizer(self.folder)
        self.audio_token_id = self._audio_token_id()
        added = self.tokenizer.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        #: Longest text that the decoder has positions for; ``None`` where the config doesn't say.
        self.max_tokens: int | None = (self.config.get("text_config") or {}).get("max_position_embeddings")
        self._text_as_list = {role: self._wants_list(role) for role in ("system", "assistant")}
        self._prompt = lru_cache(maxsize=256)(self._build_prompt)
        self._header, closing = self._answer_frame()
        end = self._ids(closing)[:1]
        if not end or end[0] not in self._special:
            raise ModelError(f"{self.folder}: its chat template doesn't end an answer with a special token")
        #: Id of the token that ends a turn (``<|im_end|>``).
        self.end_id = end[0]

    def encode(
        self,
        system: str | None,
        user: str | None,
        audio_tokens: int,
        answer: str | None,
        order: str = "audio-first",
    ) -> Encoded:
        """Tokens and labels of a row.

        Args:
            system: System prompt, or none.
            user: User's text, or none.
            audio_tokens: ``geometry.audio_tokens(samples)`` of the clip.
            answer: The wanted answer; ``None`` for inference: the text ends with the generation prompt.
            order: ``audio-first`` or ``text-first``.

        Raises:
            DataError: Where a text contains a special token of the tokenizer, which would act as one.
        """
        return self.prepare(system, user, answer, order).with_audio(audio_tokens)

    def prepare(
        self, system: str | None, user: str | None, answer: str | None, order: str = "audio-first"
    ) -> RowTokens:
        """The part of :meth:`encode` that doesn't need the clip's length."""
        if order not in ORDERS:
            raise DataError(f"prompt order {order!r}; {' or '.join(ORDERS)} expected")
        before, after = self._prompt(system, user, order)
        if answer is None:
            return RowTokens(before, after, (), self.audio_token_id)
        return RowTokens(before, (*after, *self._header), self.answer_tokens(answer), self.audio_token_id)

    def answer_tokens(self, answer: str, what: str = "prediction") -> tuple[int, ...]:
        """Token ids of an answer and of the token that ends it: the supervised ones of a row.

        Args:
            answer: The text.
            what: What messages call it.

        Raises:
            DataError: It has no tokens, or a special token of the tokenizer, which would act as one.
        """
        text = answer.strip() if self._trims else answer
        if answer and not text:
            raise DataError(f"{what} {answer[:40]!r} has no tokens: the model's template leaves it out")
        return (*self.check_text(what, text), self.end_id)

    def check_text(self, what: str, text: str) -> list[int]:
        """Token ids of a text, which must be text alone.

        Raises:
            DataError: The tokenizer reads a special token out of the text, or nothing at all.
        """
        ids = self._ids(text)
        if text and not ids:
            raise DataError(f"{what} {text[:40]!r} has no tokens: the model's tokenizer leaves all of it out")
        for number in ids:
            if number in self._special:
                token = self.tokenizer.id_to_token(number)
                raise DataError(f"{what} contains {token}, which the model would not take as text: remove it")
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of token ids."""
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _audio_token_id(self) -> int:
        said = self.config.get("audio_token_id")
        config = read_json(self.folder / "tokenizer_config.json")
        name = config.get("audio_token", AUDIO_TOKEN)
        found = self.tokenizer.token_to_id(name if isinstance(name, str) else AUDIO_TOKEN)
        if found is None:
            raise ModelError(f"{self.folder}: its tokenizer has no {name} token: not a MiDashengLM tokenizer")
        if said is not None and said != found:
            raise ModelError(
                f"{self.folder}: config.json has audio_token_id {said}, the tokenizer has {found} for {name}"
            )
        return int(found)

    def _message(self, role: str, text: str) -> dict[str, Any]:
        listed = self._text_as_list[role]
        return {"role": role, "content": [{"type": "text", "text": text}] if listed else text}

    def _wants_list(self, role: str) -> bool:
        """Whether the template takes this role's text as a list of parts only. Most take both."""
        for listed in (False, True):
            content: Any = [{"type": "text", "text": _PROBE}] if listed else _PROBE
            user = {"role": "user", "content": [_CLIP]}
            message = {"role": role, "content": content}
            messages = [message, user] if role == "system" else [user, message]
            try:
                rendered = self._render(messages, False)
            except ModelError:
                continue
            # A list printed as Python shows it, [{'type': …}], is a template that wanted a string.
            if rendered.count(_PROBE) == 1 and "'text'" not in rendered:
                return listed
        raise ModelError(f"{self.folder}: its chat template shows no text of the {role}'s turn")

    def _messages(self, system: str | None, user: str | None, order: str) -> list[dict[str, Any]]:
        text = [{"type": "text", "text": user}] if user else []
        content = [_CLIP, *text] if order == "audio-first" else [*text, _CLIP]
        turn = {"role": "user", "content": content}
        return [turn] if system is None else [self._message("system", system), turn]

    def _build_prompt(
        self, system: str | None, user: str | None, order: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        for what, text in (("system_prompt", system), ("user_prompt", user)):
            if text:
                self.check_text(what, text)
        rendered = self._render(self._messages(system, user, order), True)
        ids = self._ids(rendered)
        places = [i for i, token in enumerate(ids) if token == self.audio_token_id]
        if len(places) != 1:
            raise ModelError(
                f"{self.folder}: its chat template makes {len(places)} audio placeholders of 1 clip; it must "
                "be the template of a MiDashengLM, which writes one"
            )
        for what, text in (("system_prompt", system), ("user_prompt", user)):
            if text and text.strip() not in rendered:
                raise ModelError(f"{self.folder}: its chat template leaves out the prompt {text[:40]!r}")
            if text and not text.strip():
                is_system = what == "system_prompt"
                without = self._messages("" if is_system else system, user if is_system else None, order)
                if self._render(without, True) == rendered:
                    raise DataError(f"{what} {text[:40]!r} has no tokens: the model's template leaves it out")
        return tuple(ids[: places[0]]), tuple(ids[places[0] + 1 :])

    def _answer_frame(self) -> tuple[tuple[int, ...], str]:
        """What the template puts between the generation prompt and an answer, and what it puts after it."""
        messages = self._messages(None, None, "audio-first")
        prompt = self._render(messages, True)
        whole = self._render([*messages, self._message("assistant", _PROBE)], False)
        if not whole.startswith(prompt):
            ends = whole[max(0, len(prompt) - 40) : len(prompt)]
            raise ModelError(
                f"{self.folder}: its chat template asks for an answer with {prompt[-40:]!r}, but begins one "
                f"with {ends!r}"
            )
        padded = self._render([*messages, self._message("assistant", f" {_PROBE} ")], False)
        self._trims = f" {_PROBE} " not in padded
        header, _, closing = whole[len(prompt) :].partition(_PROBE)
        return tuple(self._ids(header)) if header else (), closing


def default_order(model_folder: Path) -> str:
    """The prompt order that a model says it was trained with; ``audio-first`` where it says none."""
    prompts = read_json(Path(model_folder) / "mdl_toolkit.json").get("prompts")
    order = prompts.get("order") if isinstance(prompts, dict) else None
    return order if order in ORDERS else "audio-first"


def processing_fingerprint(model_folder: Path) -> str:
    """A digest of everything in a model folder that decides what a row is converted to.

    Tokenizer, chat template, and the numbers that lead from samples to audio tokens. Two folders of one
    fingerprint make the same examples of the same rows.
    """
    folder = Path(model_folder)
    config = _config(folder)
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelError(f"{folder / name}: can't be read ({error.strerror})") from error
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
        if name == "tokenizer.json":
            break  # it holds all that the older files hold
    digest.update(find_template(folder).encode())
    digest.update(json.dumps(_front_end(config), sort_keys=True).encode())
    return digest.hexdigest()[:32]


def vocabulary(model_folder: Path) -> int | None:
    """Tokens that a model has rows for; ``None`` where its configuration doesn't say."""
    size = (_config(Path(model_folder)).get("text_config") or {}).get("vocab_size")
    return size if isinstance(size, int) else None


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: no config.json in it; adapters and checkpoints have none: name the model that they "
            "are for"
        )
    return read_json(folder / "config.json")


def _front_end(config: Mapping[str, Any]) -> dict[str, Any]:
    geometry = AudioGeometry.from_config(config)
    return {**vars(geometry), "audio_token_id": config.get("audio_token_id")}


def _load_tokenizer(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if path.is_file():
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"{path}: not a tokenizer ({error}); fetch the model again") from error
    else:
        tokenizer = _tokenizer_of_transformers(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokenizer_of_transformers(folder: Path) -> Any:
    """Older folders (vocab.json and merges.txt): transformers builds the same kind of tokenizer of them."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"{folder}: no tokenizer (tokenizer.json, or vocab.json and merges.txt) in this folder"
        )
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: its tokenizer can't be loaded: {error}") from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder}: its tokenizer has no fast form; save one as tokenizer.json beside it")
    return backend

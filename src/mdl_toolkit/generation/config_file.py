"""What a model's ``generation_config.json`` says about how it is to answer.

It goes through transformers' own ``GenerationConfig`` and the processors that its ``generate`` makes of it
(``processors.py``). What isn't known to act here as it does there is left out, and warned of by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from mdl_toolkit.compat.transformers_generation import default_parameters
from mdl_toolkit.errors import ModelError
from mdl_toolkit.generation.decoding import BEAMS, LENGTHS, SAMPLING, Decoding, shown_value
from mdl_toolkit.generation.processors import make_processors, no_library_warnings
from mdl_toolkit.model_folders.folder import ModelFolder
from mdl_toolkit.model_folders.load import load_config
from mdl_toolkit.model_folders.tensorfiles.headers import read_json
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

GENERATION_FILE = "generation_config.json"
#: Settings that act here as in transformers' ``generate``.
_HONOURED = frozenset({
    "do_sample", "num_beams", *SAMPLING, *BEAMS, *LENGTHS, "min_length", "min_new_tokens", "stop_strings",
    "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "suppress_tokens",
    "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "renormalize_logits", "watermarking_config",
})  # fmt: skip
#: Settings that decide how an answer is computed, or what is returned beside it, but not the answer. The
#: tokens that end one are read by :func:`end_tokens`.
_WITHOUT_EFFECT = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache",
    "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache", "prefill_chunk_size",
    "compile_config", "disable_compile", "output_attentions", "output_hidden_states", "output_scores",
    "output_logits", "return_dict_in_generate", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
    "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size", "use_mtp",
    "transformers_version", "_from_model_config", "_commit_hash",
})  # fmt: skip


@dataclass(frozen=True)
class GenerationFile:
    """What a model's ``generation_config.json`` says.

    Attributes:
        path: Where it is; ``None`` where there is none.
        honoured: What acts here, by name.
        ends: Tokens that end an answer.
    """

    path: Path | None = None
    honoured: Mapping[str, Any] = field(default_factory=dict)
    ends: tuple[int, ...] = ()

    def limit(self, name: str) -> int | None:
        """One of the limits of length; ``None`` where the file has none."""
        value: int | None = self.honoured.get(name)
        return value


def read_generation_file(place: ModelFolder, choice: str = "model") -> GenerationFile:
    """Read the generation settings of a model; those that can't be honoured are named in a warning.

    Args:
        place: The model's folder; an adapter's or checkpoint's own file comes before its base's.
        choice: ``model``, ``none``, or a file to read instead; without end tokens there, the model's hold.

    Raises:
        ModelError: Where the file can't be understood.
    """
    files = [folder / GENERATION_FILE for folder in (place.folder, place.base)]
    path = next((file for file in files if file.is_file()), None)
    fields = _read(path) if path is not None else {}
    tokens = _ends(path, fields)
    if choice == "none":
        return GenerationFile(None, {}, tokens)
    if choice != "model":
        path = Path(choice)
        fields = _read(path)
        tokens = _ends(path, fields) or tokens
    honoured = {name: value for name, value in fields.items() if name in _HONOURED and value is not None}
    if path is not None:
        _warn_of_others(path, fields)
    return GenerationFile(path, honoured, tokens)


def _ends(path: Path | None, fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens that end an answer; some folders have -1 for none."""
    ends = fields.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if any(type(token) is not int for token in listed):
        raise ModelError(
            f"{path}: eos_token_id is {shown_value(ends)}; a token's number, or a list of them, expected"
        )
    return tuple(token for token in listed if token >= 0)


def _read(path: Path) -> dict[str, Any]:
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise ModelError(f"{path}: a mapping expected")
    return fields


def _warn_of_others(path: Path, fields: Mapping[str, Any]) -> None:
    with no_library_warnings():
        known = set(vars(GenerationConfig()))
    neutral = {**default_parameters(), "guidance_scale": 1}
    others = [
        name
        for name, value in fields.items()
        if name not in _HONOURED | _WITHOUT_EFFECT and value not in (None, False, neutral.get(name))
    ]
    names = []
    for name in others:
        near = difflib.get_close_matches(name, _HONOURED, n=1) if name not in known else []
        names.append(f"{name} (did you mean {near[0]}?)" if near else name)
    if names:
        logger.warning(
            f"{path}: not honoured: {', '.join(names)}; transformers' generate may answer otherwise with it"
        )


def decoding_of(file: GenerationFile, options: Mapping[str, Any], seed: int, place: ModelFolder) -> Decoding:
    """Options before what the model's file says; tried once, so that mistakes show before the work begins.

    Args:
        file: What the model's file says.
        options: Settings that come before it, by transformers' names.
        seed: Seed of sampling.
        place: The model's folder.

    Raises:
        ModelError: Where the model's file holds values that transformers can't take.
    """
    from_file = {name: value for name, value in file.honoured.items() if name not in LENGTHS}
    decoding = Decoding({**from_file, **options}, seed)
    _try(file, place, decoding)
    stops = from_file.get("stop_strings")
    return decoding if not stops else Decoding(decoding.options, decoding.seed, _stop(place, stops))


def _try(file: GenerationFile, place: ModelFolder, decoding: Decoding) -> None:
    """Refuse values that transformers can't take, and name those that are to blame."""
    config = load_config(place.base)
    if (problem := _problem(config, decoding.options)) is None and not _wrong_types(file.honoured):
        return
    modes = {name: decoding.options[name] for name in ("do_sample", "num_beams") if name in decoding.options}
    culprits = [name for name, value in file.honoured.items() if _problem(config, {**modes, name: value})]
    named = ", ".join(
        f"{name} is {shown_value(file.honoured[name])}"
        for name in dict.fromkeys([*_wrong_types(file.honoured), *culprits])
    )
    raise ModelError(
        f"{file.path}: {named or 'it'} can't be used{f' ({problem})' if problem else ''}; mend it, or go "
        "without it: --generation-config none"
    )


def _wrong_types(fields: Mapping[str, Any]) -> list[str]:
    """Settings that transformers would take as they are and stumble over later."""
    whole = lambda value: type(value) is int and value >= 1  # noqa: E731 -- one check for several fields
    tests: dict[str, Callable[[Any], bool]] = {
        "do_sample": lambda value: type(value) is bool,
        "num_beams": whole,
        "max_new_tokens": whole,
        "max_length": whole,
        "length_penalty": lambda value: type(value) in (int, float),
        "stop_strings": lambda value: all(
            isinstance(text, str) and text for text in (value if isinstance(value, list) else [value])
        ),
    }
    return [name for name, test in tests.items() if name in fields and not test(fields[name])]


def _problem(config: Any, options: Mapping[str, Any]) -> str | None:
    """What transformers has against settings; ``None`` where it has nothing."""
    vocabulary = config.text_config.vocab_size
    try:
        settings = Decoding(options).generation_config()
        ids, logits = torch.zeros((1, 8), dtype=torch.long), torch.zeros((1, vocabulary))
        with no_library_warnings():
            for processor in make_processors(settings, config, [0], 8, 8, logits.device):
                logits = processor(ids, logits)
    except Exception as error:  # whatever the file holds, it is the file's mistake
        return " ".join(str(error).split())[:300] or type(error).__name__
    return None


def _stop(place: ModelFolder, texts: Any) -> Any:
    from transformers import AutoTokenizer, StopStringCriteria

    tokenizer = AutoTokenizer.from_pretrained(place.base, local_files_only=True)
    return StopStringCriteria(tokenizer, texts)


def end_tokens(file: GenerationFile, end_id: int) -> list[int]:
    """Tokens that end an answer: the template's own, and those of the model's generation settings."""
    return sorted({end_id, *file.ends})

"""Refuse unsupported models by their ``config.json``, before weights are downloaded or read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import ModelError

MODEL_TYPE = "midashenglm"
_SUPPORTED = (
    "MiDashengLM with one audio encoder and a Qwen2, Qwen2.5 or Qwen3 decoder is supported "
    "(mispeech/midashenglm-7b, midashenglm-7b-1021-bf16, midashenglm-0.6b-fp32 and their like)"
)
#: Related models that are published, by their model type without separators.
_RELATIVES = {
    "midashenglmspatial": "MiDashengLM-Spatial, which has two audio encoders and hears in stereo",
    "midashenglmgen": "MiDashengLM-Gen, which makes sound from text",
}


def check_family(config: Mapping[str, Any], where: str | Path) -> None:
    """Refuse a model that is not a supported MiDashengLM.

    Args:
        config: A parsed ``config.json``. One without a model type is accepted; building the model checks it.
        where: The folder or Hub id, for the message.

    Raises:
        ModelError: The model is not supported. The message says what it is, and what is supported.
    """
    kind = config.get("model_type")
    encoders = [
        name
        for name, value in config.items()
        if name.endswith("encoder_config") and isinstance(value, Mapping)
    ]
    if isinstance(kind, str) and kind != MODEL_TYPE:
        relative = _RELATIVES.get("".join(letter for letter in kind.lower() if letter.isalnum()))
        what = f"this is {relative}" if relative else "this is another model"
        raise ModelError(f"{where}: {what} (model_type is {kind[:40]!r}); {_SUPPORTED}")
    if set(encoders) - {"audio_encoder_config"}:
        names = ", ".join(sorted(encoders))[:120]
        raise ModelError(f"{where}: this model has more than one encoder ({names}); {_SUPPORTED}")
    quantized = config.get("quantization_config")
    method = str(quantized.get("quant_method"))[:40] if isinstance(quantized, Mapping) else None
    # bitsandbytes' entry may only record how a model was loaded once; the weights may be plain.
    if method not in (None, "None", "bitsandbytes"):
        raise ModelError(
            f"{where}: its weights are quantised already ({method}); take the release with bf16 or fp32 "
            "weights: --quantization 8bit or 4bit makes them smaller while they are loaded"
        )


def check_folder(folder: Path, where: str | Path | None = None) -> Path:
    """Refuse the folder of an unsupported model, and return the folder of any other.

    A missing or damaged ``config.json`` is accepted here; loading the model reports it.

    Raises:
        ModelError: As :func:`check_family`.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return folder
    if isinstance(config, dict):
        check_family(config, folder if where is None else where)
    return folder

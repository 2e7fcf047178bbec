"""The publisher's own code in transformers, which lies in the model's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from mdl_toolkit.model_folders.tensorfiles.headers import read_json


def unavailable(folder: Path, trusted: bool) -> str:
    """Why it can't be asked; empty where it can.

    Args:
        folder: The stand-alone folder.
        trusted: Whether the person allows its code to be run.
    """
    config: Any = read_json(folder / "config.json")
    code = config.get("auto_map") if isinstance(config, dict) else None
    if not code or not any(folder.glob("*.py")):
        return "the folder has no code of its publisher"
    return "" if trusted else "it runs code of the folder: allow it with --trust-remote-code"


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The model by the classes that the folder's code has.

    transformers' automatic classes would take ours, which are registered for this type of model.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config: Any = read_json(folder / "config.json")
    classes = config["auto_map"]
    described = get_class_from_dynamic_module(classes["AutoConfig"], str(folder))
    kind = get_class_from_dynamic_module(
        classes.get("AutoModelForCausalLM") or classes["AutoModel"], str(folder)
    )
    with no_progress_bars():
        model: Any = kind.from_pretrained(
            str(folder), config=described.from_pretrained(str(folder)), dtype=dtype
        )
    return model.to(device).eval().requires_grad_(False)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own while it loads weights."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

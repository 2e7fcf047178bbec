"""PEFT's ``adapter_config.json``: read and checked, and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from mdl_toolkit.compat.bitsandbytes_layers import import_bitsandbytes
from mdl_toolkit.errors import ModelError
from mdl_toolkit.files import write_json
from mdl_toolkit.model_folders.tensorfiles.headers import read_json

#: The fields that are read; the others don't change what an adapter computes.
FIELDS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")


def read_config(path: Path) -> dict[str, Any]:
    """Read the fields of an ``adapter_config.json`` that decide what the adapter computes, checked.

    Raises:
        ModelError: It can't be read, or is of a kind of adapter that isn't supported.
    """
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ModelError(
            f"{path}: an adapter of kind {str(kind)[:40]!r}; LoRA and its relatives are supported"
        )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in ("gaussian", "eva", "orthogonal"):
        raise ModelError(
            f"{path}: started by {start[:40]!r}, which changes the base; convert it to plain LoRA first"
        )
    for name in ("fan_in_fan_out", "lora_bias"):
        if config.get(name):
            raise ModelError(f"{path}: {name} is not supported")
    if config.get("bias", "none") != "none":
        raise ModelError(f"{path}: bias is {str(config['bias'])[:40]!r}; none is supported")
    kept = {name: config[name] for name in FIELDS if config.get(name) is not None}
    kinds: dict[str, Any] = {
        "r": (int,), "lora_alpha": (int, float), "lora_dropout": (int, float), "use_rslora": (bool,),
        "use_dora": (bool,), "rank_pattern": (dict,), "alpha_pattern": (dict,),
    }  # fmt: skip
    for name, value in kept.items():
        number: Any = value
        if not isinstance(value, kinds[name]) or (name in ("r", "lora_alpha") and not 0 < number < 2**20):
            raise ModelError(f"{path}: {name} is {str(value)[:40]!r}")
    for name in ("rank_pattern", "alpha_pattern"):
        values: dict[str, Any] = kept.get(name, {})
        if not all(isinstance(v, (int, float)) and 0 < v < 2**20 for v in values.values()):
            raise ModelError(f"{path}: {name}: positive numbers expected")
        for pattern in values:
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError):
                raise ModelError(f"{path}: {name}: {pattern[:40]!r} is no pattern of names") from None
    if "r" not in kept:
        raise ModelError(f"{path}: r (the rank) is missing")
    return kept


def write_config(
    path: Path, fields: Mapping[str, Any], adapted: Iterable[str], in_full: Iterable[str], base_name: str
) -> None:
    """Write the configuration of an adapter, with all fields that the installed PEFT has.

    Args:
        path: The file to write.
        fields: Values of some of :data:`FIELDS`.
        adapted: Names of the modules with LoRA layers.
        in_full: Short names (``lm_head``) of the modules that were trained in full.
        base_name: The name or path that PEFT loads the base from.
    """
    import_bitsandbytes()
    from peft import LoraConfig

    config = LoraConfig(
        **fields,
        target_modules=sorted(adapted),
        modules_to_save=sorted(in_full) or None,
        inference_mode=True,
        base_model_name_or_path=base_name,
    ).to_dict()
    config["task_type"] = None
    write_json(path, {key: _plain(value) for key, value in sorted(config.items())})


def value_for(patterns: Any, module: str, default: Any) -> Any:
    """What a ``rank_pattern`` or ``alpha_pattern`` says of a module; else ``default``.

    Its keys are regular expressions of the end of a module's name, from a dot on; the first that fits counts.
    """
    patterns = patterns or {}
    fitting = (key for key in patterns if re.match(rf"(.*\.)?({key})$", module))
    return patterns.get(next(fitting, module), default)


def _plain(value: Any) -> Any:
    """A value as JSON has it: sets become sorted lists, enumerations their values."""
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value)
    return value.value if isinstance(value, Enum) else value

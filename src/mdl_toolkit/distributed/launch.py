"""How this process was launched: its rank, and what the config of ``accelerate launch`` asks for.

Standard library only: all of it is known before torch is imported and any process group exists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl_toolkit.distributed.environment import ProcessRank, process_rank
from mdl_toolkit.errors import SettingsError

_FSDP1_STRATEGIES = {
    "1": "full", "FULL_SHARD": "full",
    "2": "optimizer", "SHARD_GRAD_OP": "optimizer",
    "3": "none", "NO_SHARD": "none",
    "4": "hybrid", "HYBRID_SHARD": "hybrid",
    "5": "hybrid", "HYBRID_SHARD_ZERO2": "hybrid",
}  # fmt: skip


@dataclass(frozen=True)
class Launch(ProcessRank):
    """The rank of this process in the run, and what an accelerate config asks for.

    Attributes:
        use_cpu: Whether the config asks to compute on the CPU even where there are GPUs.
        sharding: ``none``, ``optimizer``, ``full`` or ``hybrid`` where the config decides it.
        bf16: Whether the config asks for mixed precision in bfloat16.
        checkpointing: Whether the config asks for activation checkpointing.
        accumulation: The gradient accumulation steps of the config, if it has any.
        clipping: The gradient clipping of the config, if it has any.
        remarks: Messages about what the config asks for and does not get.
    """

    use_cpu: bool = False
    sharding: str | None = None
    bf16: bool = False
    checkpointing: bool = False
    accumulation: int | None = None
    clipping: float | None = None
    remarks: tuple[str, ...] = ()


def read_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Read the launcher's environment.

    Raises:
        SettingsError: Where the config asks for a kind of parallelism that isn't offered, or the numbers
            contradict each other.
    """
    process = process_rank(environ)
    sharding, remarks = _sharding(environ)
    precision = environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if _true(environ, "ACCELERATE_USE_CPU") and process.world_size == 1 and environ.get("MASTER_ADDR"):
        # Only a config of several processes gives an address to accelerate's launcher for one.
        remarks.append(
            "without GPUs or mpirun, accelerate starts a single process, whatever num_processes says; "
            "torchrun --nproc-per-node starts several"
        )
    if precision in ("fp16", "fp8"):
        remarks.append(f"mixed_precision: {precision} is not offered; bfloat16 is used where it is supported")
    return Launch(
        **vars(process),
        use_cpu=_true(environ, "ACCELERATE_USE_CPU"),
        sharding=sharding,
        bf16=precision == "bf16",
        checkpointing=_true(environ, "ACCELERATE_USE_FSDP")
        and _true(environ, "FSDP_ACTIVATION_CHECKPOINTING"),
        accumulation=_optional(environ, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", int),
        clipping=_optional(environ, "ACCELERATE_GRADIENT_CLIPPING", float),
        remarks=tuple(remarks),
    )


def _sharding(environ: Mapping[str, str]) -> tuple[str | None, list[str]]:
    if _true(environ, "ACCELERATE_USE_MEGATRON_LM"):
        raise SettingsError(["accelerate config: MEGATRON_LM is not offered; use MULTI_GPU or FSDP"])
    if _true(environ, "ACCELERATE_USE_DEEPSPEED"):
        return _deepspeed(environ)
    if _true(environ, "ACCELERATE_USE_FSDP"):
        return _fsdp(environ)
    return None, []


def _fsdp(environ: Mapping[str, str]) -> tuple[str, list[str]]:
    remarks = []
    if _true(environ, "FSDP_OFFLOAD_PARAMS"):
        remarks.append("fsdp_offload_params is not offered: weights stay on the device, sharded")
    for size in ("TP_SIZE", "CP_SIZE", "SP_SIZE"):
        if _number(environ, f"PARALLELISM_CONFIG_{size}", 1) > 1:
            name = f"parallelism_config_{size.lower()}"
            raise SettingsError([f"accelerate config: {name} above 1 is not offered; use dp_shard_size"])
    if environ.get("FSDP_VERSION", "1") == "2":
        if _number(environ, "PARALLELISM_CONFIG_DP_REPLICATE_SIZE", 1) > 1:
            return "hybrid", remarks
        return "full" if _true(environ, "FSDP_RESHARD_AFTER_FORWARD", "true") else "optimizer", remarks
    strategy = environ.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD").upper()
    return _FSDP1_STRATEGIES.get(strategy, "full"), remarks


def _deepspeed(environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """ZeRO's stages as sharding of ours: 3 is ``full``, 1 and 2 are ``optimizer``."""
    remarks = []
    stage = _optional(environ, "ACCELERATE_DEEPSPEED_ZERO_STAGE", int)
    offload = [
        environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE", "none") for what in ("OPTIMIZER", "PARAM")
    ]
    path = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path.lower() != "none":
        zero = _deepspeed_file(Path(path)).get("zero_optimization") or {}
        stage = int(zero.get("stage", 0))
        offload = [
            (zero.get(f"offload_{what}") or {}).get("device", "none") for what in ("optimizer", "param")
        ]
    if any(device not in ("none", "None", None) for device in offload):
        remarks.append("DeepSpeed's offloading is not offered: state stays on the devices, sharded")
    return {0: "none", 1: "optimizer", 2: "optimizer"}.get(2 if stage is None else stage, "full"), remarks


def _deepspeed_file(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError([f"deepspeed_config_file {path}: {error}"]) from None
    if not isinstance(config, dict):
        raise SettingsError([f"deepspeed_config_file {path}: a JSON object expected"])
    return config


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    try:
        return int(text) if text else default
    except ValueError:
        raise SettingsError([f"environment variable {name}={text}: a whole number expected"]) from None


def _optional(environ: Mapping[str, str], name: str, kind: Any) -> Any:
    """A number of the config; ``None`` where there is none (accelerate also writes ``none`` and ``auto``)."""
    try:
        return kind(environ[name])
    except (KeyError, ValueError):
        return None


def _true(environ: Mapping[str, str], name: str, default: str = "false") -> bool:
    return environ.get(name, default).lower() in ("1", "true", "yes")

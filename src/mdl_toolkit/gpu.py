"""Refuse to work on the CPU silently where the machine has a GPU that this torch can't use.

A torch that is built for CPUs, or a driver that is too old, only reports "no GPU", and a run of an hour takes
a week. So the operating system is asked for its GPUs too: that tells such a case from a machine without one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mdl_toolkit.errors import SettingsError
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

#: An AMD GPU with less memory of its own is part of a processor, which ROCm doesn't support.
_SMALLEST_AMD_GPU = 4 << 30
_USE_CPU = "to work on the CPU, say so by CUDA_VISIBLE_DEVICES= (empty)"
_BUILDS = "https://pytorch.org/get-started/locally"
#: Variables that choose the GPUs that a process may use.
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def require_usable_gpu(
    use_cpu: bool = False, environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> None:
    """Raise an error where there is a GPU that torch can't use, unless the CPU was asked for.

    ``CUDA_VISIBLE_DEVICES=`` (or ``HIP_…``, ``ROCR_…``; ``-1`` too) and accelerate's ``use_cpu`` ask for it.

    Args:
        use_cpu: Whether the CPU was asked for in another way.
        environ: The environment variables of the process.
        root: The root folder of the file system.

    Raises:
        SettingsError: torch can't use the GPU. The message names the GPU, the reason and the remedy.
    """
    if use_cpu or environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return
    asked = {name: environ[name].strip() for name in _VISIBLE if name in environ}
    if any(_hides(value) for value in asked.values()):
        return
    nvidia, amd = _nvidia(root), _amd(root)
    withheld = any((root / "proc/driver/nvidia/gpus").glob("*"))
    if not (nvidia or amd or withheld or asked):
        return  # no GPU: torch, which takes seconds to import, needn't be asked
    import torch

    if torch.cuda.is_available():
        return
    if nvidia or amd:
        reason, remedy = _nvidia_fault(root) if nvidia else _amd_fault()
        limits = "".join(f", {name}={value}" for name, value in asked.items())
        raise SettingsError([f"{nvidia or amd} is here{limits}, but {reason}; {remedy}, or, {_USE_CPU}"])
    if asked:
        name, value = next(iter(asked.items()))
        raise SettingsError(
            [f"{name}={value} asks for a GPU, but none is found here; unset it, or, {_USE_CPU}"]
        )
    if withheld:
        _warn_once(
            "the machine has NVIDIA GPUs, but this container was given none (docker run --gpus all gives "
            "them): working on the CPU"
        )


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _hides(value: str) -> bool:
    """Whether a variable's value hides all GPUs: CUDA ignores a list from its first invalid entry on."""
    first = value.split(",")[0].strip()
    return not re.fullmatch(r"\d+|(GPU|MIG)-.+", first)


def _nvidia(root: Path) -> str | None:
    nodes = sorted(path for path in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    if nodes:
        return f"an NVIDIA GPU (/dev/{nodes[0].name})"
    if (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        return "an NVIDIA GPU (of Windows)"
    return None


def _amd(root: Path) -> str | None:
    if not (root / "dev/kfd").exists():
        return None
    for node in (root / "sys/class/kfd/kfd/topology/nodes").glob("*"):
        if _number(node / "properties", "simd_count") == 0:
            continue  # a processor
        # Heaps 1 and 2 are the GPU's own memory: the part that the host can address, and the rest.
        banks = [bank / "properties" for bank in node.glob("mem_banks/*")]
        own = sum(_number(bank, "size_in_bytes") for bank in banks if _number(bank, "heap_type") in (1, 2))
        if own >= _SMALLEST_AMD_GPU:
            return f"an AMD GPU with {own >> 30} GiB (/dev/kfd)"
    return None


def _number(path: Path, field: str) -> int:
    try:
        found = re.search(rf"^{field}\s+(\d+)", path.read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return 0
    return int(found.group(1)) if found else 0


def _nvidia_fault(root: Path) -> tuple[str, str]:
    """Why torch can't use an NVIDIA GPU, and what to do about it."""
    import torch

    version = torch.__version__
    if torch.version.cuda is None:
        for_what = "ROCm" if torch.version.hip else "CPUs alone"
        return f"torch {version} is built for {for_what}", f"install a build for CUDA ({_BUILDS})"
    driver = _driver(root)
    reason = (
        f"torch {version}, built for CUDA {torch.version.cuda}, can't use it"
        f"{f' with driver {driver}' if driver else ''} ({_torchs_reason()})"
    )
    return (
        reason,
        f"update the driver or install a torch for its version of CUDA ({_BUILDS}; nvidia-smi shows it)",
    )


def _amd_fault() -> tuple[str, str]:
    import torch

    version = torch.__version__
    if torch.version.hip is None:
        for_what = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs alone"
        return f"torch {version} is built for {for_what}", f"install a build for ROCm ({_BUILDS})"
    return (
        f"torch {version}, built for ROCm {torch.version.hip}, can't use it ({_torchs_reason()})",
        "see that rocminfo lists it and that you may open /dev/kfd (group render)",
    )


def _driver(root: Path) -> str | None:
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
    return found.group(1) if found else None


def _torchs_reason() -> str:
    """The first sentence of the error that torch raises when it has to use the GPU."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:
        text = " ".join(str(error).split())
        return re.split(r"\.\s|\.$", text)[0][:200] or type(error).__name__
    return "it finds no GPU"

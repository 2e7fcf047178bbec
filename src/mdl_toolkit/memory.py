"""Memory of a GPU, or of the host where there is none: its peak, what is free, and whether it ran out."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# torch has an error class for CUDA's allocator only. The CPU's allocator, cuBLAS and the driver say it in the
# text. oneDNN, which allocates memory for its kernels, only says that it could not create or execute one.
_OUT_OF_MEMORY_TEXTS = (
    "defaultcpuallocator: can't allocate",
    "defaultcpuallocator: not enough memory",
    "cuda error: out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "could not create a primitive",
    "could not create a memory object",
    "could not execute a primitive",
)


def reset_peak(device: torch.device) -> None:
    """Start measuring the peak anew. Where a process can't do that, the peak is that of its whole life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Peak memory in bytes since :func:`reset_peak`: allocated on the GPU, or resident on the host.

    The host doesn't wait for the GPU.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = _STATUS.read_text()
        return int(status.split("VmHWM:", 1)[1].split(None, 1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gib(count: int) -> str:
    """A number of bytes as text: ``1.50 GiB``."""
    return f"{count / 2**30:.2f} GiB"


def available_bytes(device: torch.device, processes: int = 1) -> int:
    """Free memory in bytes: of a GPU, or this process's share of the host's, within its container's limit.

    Args:
        device: The device.
        processes: The number of processes that share the host.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    free = _proc_available()
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return free // max(1, processes)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the device or of the host, has run out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError) or "primitive descriptor" in str(error):
        return False
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY_TEXTS)


def free_memory() -> None:
    """Free what a failed pass has left behind.

    Call it after the ``except`` block has ended: within it, the traceback still refers to the tensors.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _proc_available() -> int:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(text.split("MemAvailable:", 1)[1].split(None, 1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 2**63 - 1


def _cgroup(name: str) -> int | None:
    try:
        return int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # no limit, or not this kind of system

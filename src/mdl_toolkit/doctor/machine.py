"""The doctor on a host itself: cores, memory, shared memory, open files, disks, the model hub."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.doctor.findings import OK, PROBLEM, WARNING, Finding
from mdl_toolkit.errors import printable
from mdl_toolkit.files import free_bytes
from mdl_toolkit.hub import offline_reason

_GIB = 2**30
SHARED_MEMORY = "/dev/shm"  # noqa: S108 -- looked at, not written to
#: Below this a small model doesn't load; a disk with less fills up with the first checkpoint.
_LEAST_MEMORY, _LEAST_DISK = 2 * _GIB, 5 * _GIB
#: NCCL's transport within a machine takes some ten MiB for each pair of GPUs.
_LEAST_SHARED = 256 << 20
#: What is written to a disk to measure it, and how slow it may be, in bytes a second.
_SAMPLE, _SLOWEST = 8 << 20, 20 << 20


def usable_cores() -> int:
    """The CPU cores that this process may use, within its container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def cores(launch: Launch, on_cpu: bool) -> Iterator[Finding]:
    """Cores, and the threads that the processes of this host use of them."""
    count = usable_cores()
    text = os.environ.get("OMP_NUM_THREADS", "")
    yield Finding(OK, "cores", f"{count}, OMP_NUM_THREADS={text or '(unset)'}")
    if not on_cpu or not text.isdecimal():
        return
    threads = int(text) * launch.local_world_size
    shares = (
        f"{launch.local_world_size} × {text} threads" if launch.local_world_size > 1 else f"{text} threads"
    )
    fitting = max(1, count // launch.local_world_size)
    if threads > count:
        yield Finding(
            WARNING, "cores", f"{shares} on {count} cores: they slow each other down",
            f"OMP_NUM_THREADS={fitting}",
        )  # fmt: skip
    elif threads <= count // 2:
        yield Finding(
            WARNING, "cores", f"{shares} on {count} cores: {count - threads} idle",
            f"OMP_NUM_THREADS={fitting}",
        )  # fmt: skip


def memory() -> Iterator[Finding]:
    """Free memory of the host, within the container's limit."""
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        free, total = min(free, max(0, limit - used)), min(total, limit)
    text = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < _LEAST_MEMORY:
        yield Finding(WARNING, "memory", text, "end other programs, or raise the container's limit")
    else:
        yield Finding(OK, "memory", text)


def shared_memory(gpus: int) -> Iterator[Finding]:
    """``/dev/shm``, which NCCL needs between the GPUs of a machine; nothing here needs it on the CPU."""
    folder = Path(SHARED_MEMORY)
    free = free_bytes(folder) if folder.is_dir() else None
    text = "there is none" if free is None else f"{free / 2**20:,.0f} MiB free"
    if gpus > 1 and (free or 0) < _LEAST_SHARED:
        yield Finding(
            PROBLEM, SHARED_MEMORY, f"{text}: NCCL needs it between {gpus} GPUs",
            "docker run --shm-size 8g, or --ipc=host; in Kubernetes an emptyDir with medium: Memory",
        )  # fmt: skip
    else:
        yield Finding(OK, SHARED_MEMORY, text)


def open_files(launch: Launch) -> Iterator[Finding]:
    """The limit of open files: each process is connected to each other one, in a group or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 256 + 4 * launch.world_size
    if soft != resource.RLIM_INFINITY and soft < needed:
        yield Finding(
            PROBLEM, "open files", f"at most {soft}; {launch.world_size} process(es) need {needed}",
            f"ulimit -n {needed if hard == resource.RLIM_INFINITY else min(hard, 65536)}",
        )  # fmt: skip
    else:
        yield Finding(OK, "open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def disk(path: Path, topic: str, measured: bool = True) -> Iterator[Finding]:
    """Free space of a folder or of the nearest one above that exists, and the speed of a small safe write.

    Args:
        path: The folder.
        topic: What it is for.
        measured: Whether its speed counts.
    """
    shown = printable(path)
    folder = next((place for place in (path, *path.parents) if place.exists()), Path("/"))
    if not folder.is_dir():
        yield Finding(PROBLEM, topic, f"{printable(folder)} is a file", "name a folder")
        return
    free = free_bytes(folder)
    space = "" if free is None else f", {free / _GIB:.1f} GiB free"
    try:
        seconds = _safe_write(folder)
    except OSError as error:
        yield Finding(
            PROBLEM, topic, f"{shown}: nothing can be written there ({error.strerror or error})",
            "free some space, or name another folder",
        )  # fmt: skip
        return
    speed = _SAMPLE / max(seconds, 1e-6)
    text = f"{shown}{space}" + (f", {speed / 2**20:,.0f} MiB/s written to disk" if measured else "")
    if free is not None and free < _LEAST_DISK:
        yield Finding(WARNING, topic, text, "a checkpoint of a large model needs more")
    elif measured and speed < _SLOWEST:
        yield Finding(WARNING, topic, f"{text}: slow", "save less often (--save-steps), or use a faster disk")
    else:
        yield Finding(OK, topic, text)


def _safe_write(folder: Path) -> float:
    """Write a few MiB to a file without a name, as safely as a checkpoint, and say how long it took."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        start = time.monotonic()
        stream.write(os.urandom(_SAMPLE))
        stream.flush()
        os.fsync(stream.fileno())
        return time.monotonic() - start


def hub(online: bool, seconds: float = 5.0) -> Iterator[Finding]:
    """Whether the model hub is used and can be reached; it is tried only if asked for."""
    if (offline := offline_reason()) is not None:
        yield Finding(OK, "hub", f"offline ({offline}): models come from folders and the cache")
        return
    if not online:
        yield Finding(OK, "hub", "not tried (--online tries it)")
        return
    place = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    shown = place.rpartition("@")[2]
    if not place.startswith(("http://", "https://")):
        yield Finding(PROBLEM, "hub", f"HF_ENDPOINT={printable(shown)} is no http(s) address", "unset it")
        return
    request = urllib.request.Request(place, method="HEAD")  # noqa: S310 -- http(s), looked at above
    try:
        urllib.request.urlopen(request, timeout=seconds).close()  # noqa: S310 -- as above
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        yield Finding(
            WARNING, "hub", f"{shown} can't be reached ({reason})",
            "give the model as a folder; HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy",
        )  # fmt: skip
        return
    yield Finding(OK, "hub", f"{shown} answers")

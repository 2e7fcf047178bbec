"""The doctor on software and devices: versions, whether torch can be loaded, GPUs that work, bfloat16."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from mdl_toolkit.data.dataset.manifest import versions_of
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.doctor.findings import OK, PROBLEM, WARNING, Finding
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.gpu import require_usable_gpu

#: Packages whose versions are told, and have to be the same on all hosts.
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "pyarrow",
    "soundfile",
    "soxr",
    "tokenizers",
)


def versions() -> dict[str, str]:
    """The versions of this package, of Python and of the libraries that decide a run's results."""
    return versions_of(PACKAGES)


def packages() -> Iterator[Finding]:
    """Whether all that this package asks for is installed, and new enough."""
    try:
        asked = metadata.requires("mdl-toolkit") or []
    except metadata.PackageNotFoundError:
        asked = []  # run from its source
    wrong = [problem for text in asked if (problem := _shortfall(text)) is not None]
    yield Finding(OK, "versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
    if wrong:
        yield Finding(PROBLEM, "versions", "; ".join(wrong), "pip install --upgrade mdl-toolkit")


def _shortfall(requirement: str) -> str | None:
    """What is wrong with one requirement of the package's metadata; extras are not looked at."""
    match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)\s*$", requirement)
    if match is None:
        return None
    name, least = match.groups()
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} isn't installed"
    if _numbers(installed) < _numbers(least):
        return f"{name} {installed} is older than {least}"
    return None


def _numbers(version: str) -> list[int]:
    """The release's numbers: ``2.13.0+cpu`` is [2, 13], without zeros at the end."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found.group().split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def device(launch: Launch) -> Iterator[Finding]:
    """Whether this process has a device to work on, and the device computes.

    Importing torch is part of it: a broken installation fails here, with the loader's own words.
    """
    import torch

    try:
        require_usable_gpu(launch.use_cpu)
    except SettingsError as error:
        yield Finding(PROBLEM, "device", str(error))
        return
    if launch.use_cpu or not torch.cuda.is_available():
        count = torch.get_num_threads()
        threads = f"{count} thread{'s' if count != 1 else ''}"
        where = f"CPU ({torch.backends.cpu.get_cpu_capability()}), {threads}"
        yield Finding(OK, "device", where)
        if launch.world_size == 1:
            yield Finding(OK, "bfloat16", "not used on the CPU unless --bf16 asks for it")
        return
    from mdl_toolkit.distributed.group import choose_device

    try:
        mine = choose_device(launch)
    except SettingsError as error:
        yield Finding(PROBLEM, "device", str(error))
        return
    chosen = [mine.index] if launch.world_size > 1 else range(torch.cuda.device_count())
    for number in chosen:
        yield from _gpu(number)


def _gpu(number: int) -> Iterator[Finding]:
    import torch

    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    name = f"GPU {number}, {properties.name}"
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    try:
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        right = float((ones @ ones).sum()) == 64.0**3
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        yield Finding(
            PROBLEM,
            "device",
            f"{name}: a product of matrices fails ({reason}) with torch {torch.__version__}, {build}",
            "install a torch that is built for this GPU, or restart the machine if nvidia-smi fails too",
        )
        return
    if not right:
        yield Finding(PROBLEM, "device", f"{name}: computes wrongly", "the card is faulty: leave it out")
        return
    memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    yield Finding(OK, "device", f"{name}, {memory}, torch built for {build}")
    if free < total / 2:
        yield Finding(
            WARNING, "device", f"{name}: half of its memory is taken by other processes", "see nvidia-smi"
        )
    if torch.cuda.is_bf16_supported(including_emulation=False):
        yield Finding(OK, "bfloat16", f"{name} has it")
    else:
        yield Finding(WARNING, "bfloat16", f"{name} has none: runs use float32, twice the memory")

"""Whether what several processes hold copies of is still the same on all of them, bit for bit.

All replicas start from the same weights and take the same updates, so they stay the same. A bit that a faulty
card or memory has changed stays in one of them, for as long as the run lasts, and nothing else would show it:
losses are sums over all processes.

A tensor's digest is a sum of all its bits as numbers of 64 bits, weighted by odd numbers, modulo 2^64. One
changed bit changes a number by a power of two below 2^64, and an odd multiple of that is not 0 modulo 2^64:
whichever bit it is, the digest changes. Sums of integers don't depend on their order, so every device and
every number of threads gets the same, without a copy of the tensor, and one read brings the digests of all
tensors to the host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from mdl_toolkit.distributed.sharding import local_part
from mdl_toolkit.errors import ReplicasDifferError

if TYPE_CHECKING:
    from mdl_toolkit.distributed.group import Ranks

#: Numbers that are summed before they are weighted.
_ROW = 256
#: Instructions that torch's CPU kernels can be limited to, the least first.
_CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")
#: An odd number whose multiples are spread over all 64 bits: 2^64 divided by the golden ratio.
_SPREAD = 0x9E3779B97F4A7C15 - 2**64


@dataclass(frozen=True)
class Drift:
    """Processes that hold other numbers than the rest.

    Attributes:
        odd: The ranks of the smaller groups. Where two groups are equally large nobody can tell which is
            right; these are then the ranks of the one without the lowest rank.
        others: The ranks of the largest group.
        majority: Whether that group is larger than any other.
        first: The name of the first tensor that differs.
        differing: The number of tensors that differ.
        compared: The number of tensors that were compared.
    """

    odd: tuple[int, ...]
    others: tuple[int, ...]
    majority: bool
    first: str
    differing: int
    compared: int


def find_drift(tensors: Mapping[str, Tensor], ranks: Ranks) -> Drift | None:
    """Compare what processes hold copies of; every process makes this call with the same names.

    Whole tensors are compared among all processes, and of those split over processes each part among the
    processes that hold the same part: none of ``--sharding full``, replicas on other machines of ``hybrid``.

    Args:
        tensors: Tensors by name.
        ranks: The processes of the run.
    """
    if ranks.world_size == 1:
        return None
    own = _by_part(tensors)
    roots = {part: _root(found.values()) for part, found in own.items()}
    everyones = ranks.gather_objects(roots)
    wrong = [part for part in dict.fromkeys(part for found in everyones for part in found)
             if len({found[part] for found in everyones if part in found}) > 1]  # fmt: skip
    if not wrong:
        return None
    part = wrong[0]
    details = ranks.gather_objects(own.get(part, {}))
    groups: dict[str, list[int]] = {}
    for rank, found in enumerate(everyones):
        if part in found:
            groups.setdefault(found[part], []).append(rank)
    largest, *smaller = sorted(groups.values(), key=lambda group: (-len(group), group[0]))
    expected = details[largest[0]]
    odd = sorted(rank for group in smaller for rank in group)
    names = [name for name in expected if any(details[rank][name] != expected[name] for rank in odd)]
    return Drift(
        tuple(odd), tuple(largest), len(largest) > len(smaller[0]), names[0], len(names), len(expected)
    )


def shown_drift(drift: Drift, ranks: Ranks) -> str:
    """The processes of a drift and the tensors, for the middle of a message."""
    odd = _shown(drift.odd, ranks)
    if drift.majority:
        words = f"{odd} differ{'s' if len(drift.odd) == 1 else ''} from the {len(drift.others)} others"
    else:
        words = f"{odd} differs from {_shown(drift.others, ranks)}, and which of them is right can't be told"
    return f"{words}, from {_tensor_words(drift.first)} on ({drift.differing} of {drift.compared} tensors)"


def refuse_drift(tensors: Mapping[str, Tensor], ranks: Ranks, when: str, intact: str) -> None:
    """Refuse to go on with replicas that differ; every process makes this call.

    Args:
        tensors: What is trained and the optimizer's state, by name.
        ranks: The processes of the run.
        when: When it is, for the beginning of the message.
        intact: What is left to resume from.

    Raises:
        ReplicasDifferError: On every process: which differs, in what, and what to do.
    """
    drift = find_drift(tensors, ranks)
    if drift is None:
        return
    suspects = drift.odd if drift.majority else (*drift.odd, *drift.others)
    hosts = list(dict.fromkeys(ranks.hosts[rank] for rank in suspects))
    listed = ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")
    test = (
        f"test memory and cards of host{'s' if len(hosts) > 1 else ''} {listed} (dmesg, nvidia-smi -q -d ECC)"
    )
    processors = _different_processors(ranks)
    advice = f"{processors}. If it isn't that, {test}" if processors else f"First {test}"
    raise ReplicasDifferError(
        f"{when}: the replicas of what is trained have drifted apart: {shown_drift(drift, ranks)}. Nothing "
        f"was saved from them; {intact}. {advice}"
    )


def _different_processors(ranks: Ranks) -> str:
    """That processors round differently, where they differ, and what to do; every process makes this call."""
    kinds = ranks.gather_objects(_processor(ranks.device))
    found = {kind: ranks.hosts[rank] for rank, kind in reversed([*enumerate(kinds)])}
    if len(found) == 1:
        return ""
    listed = ", ".join(f"{kind} on host {host}" for kind, host in sorted(found.items())[:4])
    known = [kind for kind in _CAPABILITIES if kind in found]
    remedy = "machines of one kind compute alike"
    if known and ranks.device.type == "cpu":
        remedy = f"with ATEN_CPU_CAPABILITY={known[0].lower()} on all hosts they compute alike"
    return f"Their processors round differently ({listed}): {remedy}"


def _processor(device: torch.device) -> str:
    """What decides how a process rounds: the kind of its GPU, or the instructions that its CPU runs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.backends.cpu.get_cpu_capability())


def digests(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Digests of what this process holds of some tensors, by name; they are read from the device at once."""
    if not tensors:
        return {}
    found = [digest(tensor) for tensor in tensors.values()]
    places = [number.device for number in found]
    if len(set(places)) > 1:
        found = [number.cpu() for number in found]
    return dict(zip(tensors, torch.stack(found).tolist(), strict=True))


@torch.no_grad()
def digest(tensor: Tensor) -> Tensor:
    """The digest of a tensor, or of this process's part of it: int64 [], on its device."""
    flat = local_part(tensor).detach().as_subclass(Tensor).reshape(-1)
    if not flat.is_contiguous() or flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # a part may begin where no number of 64 bits does
    raw = flat.view(torch.uint8)
    count = raw.numel() // 8
    numbers, rest = raw[: 8 * count].view(torch.int64), raw[8 * count :]
    rows = count // _ROW
    sums = [numbers[: rows * _ROW].view(rows, _ROW).sum(1), numbers[rows * _ROW :].sum().view(1)]
    places = torch.arange(rest.numel(), device=raw.device)
    sums.append((rest.long() << 8 * places).sum().view(1))
    total = torch.cat(sums)
    weights = (torch.arange(rows + 2, device=raw.device) * 2 + 1) * _SPREAD
    return (total * weights).sum()


def _by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """Digests by name, apart for whole tensors and for those of which this process holds one part."""
    found: dict[str, dict[str, int]] = {}
    for name, number in digests(tensors).items():
        found.setdefault(_part_of(tensors[name]), {})[name] = number
    return found


def _part_of(tensor: Tensor) -> str:
    """Which part of a split tensor this process holds; empty where it holds all of it."""
    if not isinstance(tensor, DTensor):
        return ""
    mesh = tensor.device_mesh
    places = [
        f"{mesh.get_local_rank(dimension)}/{mesh.size(dimension)}"
        for dimension, placement in enumerate(tensor.placements)
        if isinstance(placement, Shard)
    ]
    return " ".join(places)


def _root(numbers: Iterable[int]) -> str:
    return hashlib.blake2b(repr(list(numbers)).encode(), digest_size=8).hexdigest()


def _shown(group: Sequence[int], ranks: Ranks) -> str:
    words = [ranks.name(rank) for rank in group[:4]]
    return ", ".join(words) + (f" and {len(group) - 4} more" if len(group) > 4 else "")


def _tensor_words(name: str) -> str:
    moment, slash, parameter = name.partition("/")
    return f"the optimizer's {moment} of {parameter}" if slash else name

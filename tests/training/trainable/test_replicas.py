"""Replicas are compared bit for bit: every flipped bit is seen, and the process that has it is named."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mdl_toolkit.distributed.hosts import rank_on_host
from mdl_toolkit.errors import ReplicasDifferError
from mdl_toolkit.training.trainable import replicas
from mdl_toolkit.training.trainable.replicas import Drift, digest, digests, find_drift, refuse_drift

#: From nothing to several rows of numbers with a rest, and a rest of single bytes.
SIZES = (0, 1, 2, 3, 7, 8, 2 * replicas._ROW, 2 * replicas._ROW + 1, 5 * replicas._ROW + 13)


def bits_of(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_every_flipped_bit_is_seen(size: int, dtype: torch.dtype) -> None:
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    expected, raw = int(digest(tensor)), bits_of(tensor)
    places = range(raw.numel()) if raw.numel() < 100 else {*range(0, raw.numel(), 97), raw.numel() - 1}
    for place in places:
        for bit in range(8):
            changed = raw.clone()
            changed[place] ^= 1 << bit
            assert int(digest(changed.view(dtype))) != expected


def test_numbers_that_compare_equal_or_to_nothing_are_compared_by_their_bits() -> None:
    assert int(digest(torch.tensor([0.0]))) != int(digest(torch.tensor([-0.0])))
    assert int(digest(torch.full((9,), torch.nan))) == int(digest(torch.full((9,), torch.nan)))


def test_exchanged_numbers_are_seen() -> None:
    tensor = torch.arange(3000.0)
    swapped = tensor.clone()
    swapped[[5, 2900]] = swapped[[2900, 5]]
    assert int(digest(tensor)) != int(digest(swapped))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_is_the_same_for_any_threads_and_layout(threads: int) -> None:
    tensor = torch.randn(1000, 1001, generator=torch.Generator().manual_seed(0))
    expected, before = int(digest(tensor)), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert int(digest(tensor)) == int(digest(torch.nn.Parameter(tensor))) == expected
        assert int(digest(tensor.T.contiguous().T)) == expected
        # A part of something larger, which begins between two numbers of 64 bits.
        whole = torch.cat([torch.zeros(1), tensor.flatten()])
        assert int(digest(whole[1:])) == expected
    finally:
        torch.set_num_threads(before)


def test_the_step_count_and_nothing_at_all() -> None:
    assert digests({}) == {}
    assert digests({"step": torch.tensor(3.0)}) != digests({"step": torch.tensor(4.0)})


class Ranks:
    """Processes of which this is one; the others have said what they hold."""

    def __init__(self, held: Sequence[dict[str, Tensor]], rank: int = 0, kinds: Sequence[str] = ()) -> None:
        self.world_size, self.rank, self.device = len(held), rank, torch.device("cpu")
        self.hosts = tuple(f"node-{'abcdefgh'[number // 2]}" for number in range(len(held)))
        found = [digests(tensors) for tensors in held]
        parts = [replicas._by_part(tensors) for tensors in held]
        roots = [{part: replicas._root(own.values()) for part, own in each.items()} for each in parts]
        answers: list[list[Any]] = [roots, found, list(kinds) or ["AVX2"] * len(held)]
        self._answers = iter(answers)

    def name(self, rank: int) -> str:
        return rank_on_host(rank, self.hosts[rank])

    def gather_objects(self, value: Any) -> list[Any]:
        answer = next(self._answers)
        assert answer[self.rank] == value
        return list(answer)


def held(*changed: int, count: int = 4) -> list[dict[str, Tensor]]:
    """What processes hold, some of them with one bit flipped in the second of three tensors."""
    found = []
    for rank in range(count):
        tensors = {
            "encoder.a": torch.arange(5.0),
            "decoder.b": torch.ones(40, 40),
            "exp_avg/decoder.b": torch.ones(3),
        }
        if rank in changed:
            tensors["decoder.b"].view(torch.int32)[7, 9] ^= 1
            tensors["exp_avg/decoder.b"][0] = rank + 2
        found.append(tensors)
    return found


def find(found: list[dict[str, Tensor]]) -> Drift | None:
    drifts = {find_drift(tensors, Ranks(found, rank)) for rank, tensors in enumerate(found)}  # type: ignore[arg-type]
    assert len(drifts) == 1
    return drifts.pop()


def test_the_one_that_differs_is_named() -> None:
    assert find(held()) is None
    assert find(held(2)) == Drift((2,), (0, 1, 3), True, "decoder.b", 2, 3)
    assert find(held(0)) == Drift((0,), (1, 2, 3), True, "decoder.b", 2, 3)
    assert find(held(1, 3, count=6)) == Drift((1, 3), (0, 2, 4, 5), True, "decoder.b", 2, 3)
    assert find(held(1, count=2)) == Drift((1,), (0,), False, "decoder.b", 2, 3)


@pytest.fixture(autouse=True)
def one_kind_of_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_processor", lambda device: "AVX2")


def message(found: list[dict[str, Tensor]], kinds: Sequence[str] = ()) -> str:
    with pytest.raises(ReplicasDifferError) as caught:
        refuse_drift(found[0], Ranks(found, kinds=kinds), "step 40", "run/checkpoint-20 is intact")  # type: ignore[arg-type]
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_what_is_said() -> None:
    assert message(held(2)) == (
        "step 40: the replicas of what is trained have drifted apart: rank 2 (host node-b) differs from the "
        "3 others, from decoder.b on (2 of 3 tensors). Nothing was saved from them; run/checkpoint-20 is "
        "intact. First test memory and cards of host node-b (dmesg, nvidia-smi -q -d ECC)"
    )
    two = message([tensors | {"decoder.b": torch.ones(40, 40)} for tensors in held(1, count=2)])
    assert (
        "rank 1 (host node-a) differs from rank 0 (host node-a), and which of them is right can't be told"
        in two
    )
    assert "from the optimizer's exp_avg of decoder.b on (1 of 3 tensors)" in two
    mixed = message(held(1, count=2), ["AVX2", "AVX512"])
    assert mixed.endswith(
        "run/checkpoint-20 is intact. Their processors round differently (AVX2 on host node-a, AVX512 on "
        "host node-a): with ATEN_CPU_CAPABILITY=avx2 on all hosts they compute alike. If it isn't that, test "
        "memory and cards of host node-a (dmesg, nvidia-smi -q -d ECC)"
    )


def test_one_process_has_no_replica() -> None:
    alone: Any = SimpleNamespace(world_size=1)
    assert find_drift({"a": torch.ones(2)}, alone) is None

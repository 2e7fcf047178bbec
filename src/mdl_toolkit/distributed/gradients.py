"""Summing gradients over processes, in buckets that travel while the backward pass still runs.

Why not ``DistributedDataParallel``: a backward pass that runs out of memory leaves its reducer in the middle
of a step that the other processes have begun, with no way to finish. Here every process makes one all-reduce
for each bucket and step, whatever its own passes were: it may split a micro-batch as often as it has to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: Bytes of a bucket: large enough for the network, small enough to start early.
BUCKET_BYTES = 25 * 2**20


class GradientReducer:
    """Sums the gradients of a step over the processes, each as soon as it is complete in the last pass.

    Args:
        parameters: The trained parameters, in the same order on every process.
        group: The group of all processes; ``None`` if this is the only one.
        bucket_bytes: The size of a bucket.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        group: dist.ProcessGroup | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._group = group
        # The last layers' gradients are complete first.
        ordered = list(parameters)[::-1]
        self._buckets = _buckets(ordered, bucket_bytes)
        self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._complete: set[nn.Parameter] = set()
        self._waiting: list[int] = []
        self._in_flight: list[tuple[Tensor, Any]] = []
        self._overlap = False
        for parameter in ordered:
            parameter.register_post_accumulate_grad_hook(self._on_complete)  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Begin the last micro-batch of a step."""
        self._waiting = [len(bucket) for bucket in self._buckets]
        self._in_flight = []

    def start_pass(self, overlap: bool) -> None:
        """Begin a forward and backward pass.

        Args:
            overlap: Whether this is the last pass of the step, so that complete gradients may be sent while
                it runs. If this pass fails, others follow after all: see :meth:`retry`.
        """
        self._complete.clear()
        self._overlap = overlap and self._group is not None

    @contextmanager
    def retry(self) -> Iterator[None]:
        """Within the block, repeat the pass that has just failed, in parts of its micro-batch.

        The failed pass has either completed a gradient or not touched it, since autograd adds to a gradient
        once, at the end. Complete gradients, which may have been sent already, are kept as they are.
        """
        kept = {parameter: parameter.grad for parameter in self._complete}
        for parameter in kept:
            parameter.grad = None
        yield
        for parameter, gradient in kept.items():
            parameter.grad = gradient

    def finish(self) -> None:
        """After the last pass of a step, wait until every gradient is the sum over all processes."""
        if self._group is None:
            return
        while len(self._in_flight) < len(self._buckets):
            self._start_all_reduce()
        for bucket, (flat, work) in zip(self._buckets, self._in_flight, strict=True):
            work.wait()
            start = 0
            for parameter in bucket:
                parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
                start += parameter.numel()
        self._in_flight = []

    def release(self) -> None:
        """Drop the parameters: their hooks refer to this object, and no collector sees such a circle."""
        self._buckets.clear()
        self._bucket_of.clear()
        self._complete.clear()

    def _on_complete(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        self._complete.add(parameter)
        if not self._overlap:
            return
        self._waiting[self._bucket_of[parameter]] -= 1
        # In the same order on every process.
        while len(self._in_flight) < len(self._buckets) and self._waiting[len(self._in_flight)] == 0:
            self._start_all_reduce()

    def _start_all_reduce(self) -> None:
        bucket = self._buckets[len(self._in_flight)]
        pieces = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in bucket]
        flat = torch.cat(pieces) if len(pieces) > 1 else pieces[0].clone()
        for parameter in bucket:
            parameter.grad = None
        self._in_flight.append((flat, dist.all_reduce(flat, group=self._group, async_op=True)))


def as_on_rank_0(number: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """A number that every process has computed, as rank 0 has rounded it.

    All replicas have the same gradients, but another kind of GPU or processor may round their norm otherwise,
    and scaled by it the replicas would part.

    Args:
        number: A scalar; it is overwritten.
        group: The group of all processes; ``None`` if this is the only one.
    """
    if group is not None:
        dist.broadcast(number, src=0, group=group)
    return number


def _buckets(parameters: list[nn.Parameter], limit: int) -> list[list[nn.Parameter]]:
    found: list[list[nn.Parameter]] = []
    size = limit
    for parameter in parameters:
        if size >= limit:
            found.append([])
            size = 0
        found[-1].append(parameter)
        size += parameter.numel() * parameter.element_size()
    return found

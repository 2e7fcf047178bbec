"""Estimates the memory that training needs, and tries the largest micro-batch before the first step."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mdl_toolkit.data.batching.balance import count_patches
from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.sharding import local_bytes
from mdl_toolkit.memory import available_bytes, gib
from mdl_toolkit.model_shape import ModelShape
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.terminal.logs import get_logger

if TYPE_CHECKING:
    from mdl_toolkit.data.batching.collate import PackedBatch
    from mdl_toolkit.data.batching.plan import Plan
    from mdl_toolkit.geometry import AudioGeometry
    from mdl_toolkit.training.trainable.wrap import Wrapped

logger = get_logger(__name__)

#: The estimate is good to this factor: kernels' workspaces and the allocator's cuttings come on top.
MARGIN = 1.15
#: Logits, their softmax and one more copy, of the chunk of positions that the loss works on at a time.
_LOSS_BYTES = 3 * 4 * 2**25


@dataclass(frozen=True)
class Activations:
    """Bytes that a forward pass keeps for the backward pass.

    Attributes:
        token: Bytes for each decoder token.
        target: Additional bytes for each supervised token, in the last layer's MLP.
        patch: Bytes for each encoder patch.
        token_once: With recomputation, bytes for each token while one decoder layer is recomputed.
        patch_once: With recomputation, bytes for each patch while one encoder block is recomputed.
        token_kept: With recomputation, bytes for each token of the inputs of all layers.
        patch_kept: With recomputation, bytes for each patch of the inputs of all blocks.
    """

    token: float
    target: float
    patch: float
    token_once: float
    patch_once: float
    token_kept: float
    patch_kept: float

    @classmethod
    def of(cls, config: Any, settings: TrainSettings, itemsize: int) -> Activations:
        """Count from the shapes what autograd keeps of each layer.

        A frozen linear layer keeps nothing; one with an adapter or a trained weight keeps its input.

        Args:
            config: The configuration of the model.
            settings: The settings of the run, which say what is trained.
            itemsize: The bytes of a number in forward and backward passes.
        """
        shape: ModelShape = config.shape
        width, inner, encoder = shape.width, shape.mlp_width, shape.encoder_width
        full, targets = settings.method == "full", settings.train_target
        in_decoder, in_encoder = "decoder" in targets, "encoder" in targets
        # Autocast's norms and residuals are float32.
        wide = 8 if full and itemsize == 2 else 0
        # RMSNorms keep their input.
        attention = (itemsize + wide / 2) * width + itemsize * (2 * shape.query_width + 2 * shape.key_width)
        # Gate, up, activation, product.
        mlp = (itemsize + wide / 2) * width + itemsize * 3 * inner
        if in_decoder:
            mlp += itemsize * (width + inner)
            if full or settings.lora_attention:
                attention += 2.5 * itemsize * width
            if settings.dora:
                mlp += itemsize * (2 * inner + width)
        patch: float = itemsize * (8 * encoder + shape.encoder_mlp_width) + wide * encoder
        if full:
            patch += itemsize * shape.encoder_mlp_width
        elif settings.dora:
            patch += itemsize * 4 * encoder
        if not in_encoder:
            patch = 0.0  # nothing before the projector needs a gradient
        return cls(
            token=attention * shape.layers + mlp * (shape.layers - 1),
            target=mlp,
            patch=patch * shape.encoder_blocks,
            token_once=attention + mlp,
            patch_once=patch,
            token_kept=1.5 * itemsize * width * shape.layers,
            patch_kept=1.5 * itemsize * encoder * shape.encoder_blocks if in_encoder else 0.0,
        )

    def bytes(self, tokens: int, targets: int, patches: int, recompute: bool) -> int:
        """The bytes of a micro-batch of this size, with or without recomputation."""
        if recompute:
            kept = tokens * self.token_kept + patches * self.patch_kept
            return int(kept + max(tokens * self.token_once, patches * self.patch_once)) + _LOSS_BYTES
        return int(tokens * self.token + targets * self.target + patches * self.patch) + _LOSS_BYTES


@dataclass(frozen=True)
class MemoryPlan:
    """What training needs of memory beyond the loaded model, on the process that has the least.

    Attributes:
        weights: The bytes of the loaded model, or of this process's share of it.
        state: The bytes of gradients, optimizer state and gathered weights to come.
        activations: The bytes of the activations of the largest micro-batch.
        available: The bytes that are free after loading.
        gradient_checkpointing: Whether activations are recomputed.
        fits: Whether all of it fits, by this estimate.
        worst: The rows of the largest micro-batch.
        tokens: The decoder tokens of these rows.
        patches: The encoder patches of these rows.
    """

    weights: int
    state: int
    activations: int
    available: int
    gradient_checkpointing: bool
    fits: bool
    worst: tuple[int, ...]
    tokens: int
    patches: int

    def line(self) -> str:
        """A message that says the plan."""
        parts = (
            f"memory: {gib(self.weights)} model, {gib(self.state)} gradients and optimizer, "
            f"{gib(self.activations)} activations of the largest micro-batch ({len(self.worst)} clips, "
            f"{self.tokens} tokens); {gib(self.available)} free after loading"
        )
        decided = f"gradient checkpointing {'on' if self.gradient_checkpointing else 'off'}"
        if self.fits:
            return f"{parts}: {decided}"
        return (
            f"{parts}: {decided}, and still it may not fit; save memory by a smaller --batch-size or "
            "--max-tokens, --quantization 4bit, or --sharding full"
        )


def plan_memory(wrapped: Wrapped, plan: Plan, settings: TrainSettings, ranks: Ranks) -> MemoryPlan:
    """Estimate memory, and decide on ``--gradient-checkpointing auto``; the decision is applied and printed.

    Checkpointing costs up to a third of the speed, so it is on only where the largest micro-batch would not
    fit without. On a CPU that is where the host's free memory is short.

    Args:
        wrapped: The loaded model, before any optimizer state exists.
        plan: The steps of each epoch.
        settings: The settings of the run.
        ranks: The processes of the run; all come to the same decision.
    """
    geometry = wrapped.model.geometry
    worst = worst_micro_batch(plan, geometry)
    tokens, targets = int(plan.tokens[worst].sum()), int(plan.supervised[worst].sum())
    patches = int(count_patches(plan.samples[worst], geometry)[0].sum())
    activations = Activations.of(wrapped.model.config, settings, wrapped.itemsize)
    weights = sum(local_bytes(tensor) for tensor in wrapped.model.parameters())
    state, available = wrapped.state_bytes(), available_bytes(ranks.device, ranks.local_world_size)
    free = available / MARGIN - state

    def short(recompute: bool) -> bool:
        return ranks.any(activations.bytes(tokens, targets, patches, recompute) > free)

    asked = settings.gradient_checkpointing
    too_much = short(recompute=False)
    recompute = too_much if asked == "auto" else asked
    decided = MemoryPlan(
        weights=weights,
        state=state,
        activations=activations.bytes(tokens, targets, patches, recompute),
        available=available,
        gradient_checkpointing=recompute,
        fits=not (short(recompute=True) if recompute else too_much),
        worst=tuple(worst),
        tokens=tokens,
        patches=patches,
    )
    if recompute:
        wrapped.model.recompute_blocks()
        if settings.compile:
            # PyTorch turns its compiler off within a checkpointed region.
            logger.warning(
                "--compile does nothing for blocks that are recomputed: choose one of it and checkpointing"
            )
    logger.info(decided.line())
    return decided


def worst_micro_batch(plan: Plan, geometry: AudioGeometry, epoch: int = 0) -> list[int]:
    """The rows of the micro-batch that needs most memory, of all micro-batches of an epoch.

    Steps are looked at in the order of what they could hold at most, so few have to be cut into
    micro-batches.
    """
    size = _sizes(plan, geometry)
    steps = plan.epoch(epoch)
    # Balanced micro-batches exceed the mean by one clip at most.
    bounds = [
        (-(size[step.samples].sum() / plan.micro_batches + size[step.samples].max()), number)
        for number, step in enumerate(steps)
    ]
    heapq.heapify(bounds)
    best: list[int] = []
    found = -1.0
    for _ in range(min(len(bounds), 64)):
        bound, number = heapq.heappop(bounds)
        if -bound <= found:
            break
        for rows in steps[number].micro:
            if rows and (total := float(size[rows].sum())) > found:
                best, found = list(rows), total
    return best


def try_worst(wrapped: Wrapped, batch: PackedBatch, ranks: Ranks) -> None:
    """Run the largest micro-batch forward and backward, before hours are spent on a run that it breaks.

    Gradients are dropped and random states restored, so that training is not affected. Meanwhile, as much
    memory is taken as the optimizer's state will need.

    Raises:
        OutOfMemoryError: Even a single clip does not fit.
    """
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    counted = dict(wrapped.model.counted)
    was_training = wrapped.model.training
    wrapped.model.train()
    with torch.random.fork_rng(devices=devices), _optimizer_memory_taken(wrapped, ranks.device):
        wrapped.micro_batch(batch, 1.0 / max(1, len(batch.targets)), last=True)
    wrapped.zero_grad()
    wrapped.model.train(was_training)
    wrapped.model.counted.update(counted)


def _sizes(plan: Plan, geometry: AudioGeometry) -> NDArray[np.float64]:
    """What each clip keeps in memory, in decoder tokens; a 7B model's patch keeps a sixth of a token's."""
    patches, _ = count_patches(plan.samples, geometry)
    return plan.tokens + patches / 6


@contextlib.contextmanager
def _optimizer_memory_taken(wrapped: Wrapped, device: torch.device) -> Iterator[None]:
    """On a GPU, take the memory of the optimizer's moments meanwhile; a host gives memory when written to."""
    if device.type != "cuda":
        yield
        return
    moments = 2 * sum(map(local_bytes, wrapped.trainable.values()))
    place = torch.empty(moments, dtype=torch.uint8, device=device)
    yield
    del place

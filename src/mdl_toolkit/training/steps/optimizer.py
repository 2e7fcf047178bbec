"""AdamW over the trained parameters; a flag on the device can hold an update back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from mdl_toolkit.compat.torch_optimizer import step_unless
from mdl_toolkit.distributed.sharding import full_tensor, load_full
from mdl_toolkit.errors import ModelError

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """Fused AdamW. Weight decay reaches matrices alone: no biases, norms or scales.

    Args:
        trainable: The trained parameters by name.
        weight_decay: The weight decay of AdamW.
    """

    def __init__(self, trainable: Mapping[str, Parameter], weight_decay: float = 0.0) -> None:
        self.trainable = dict(trainable)
        decayed = [p for p in self.trainable.values() if p.ndim >= 2]
        others = [p for p in self.trainable.values() if p.ndim < 2]
        groups = [
            {"params": params, "weight_decay": decay}
            for params, decay in ((decayed, weight_decay), (others, 0.0))
            if params
        ]
        self._adamw = torch.optim.AdamW(groups, lr=0.0, fused=True)

    def step(self, learning_rate: float, hold_back: Tensor) -> None:
        """Update the parameters.

        Args:
            learning_rate: The learning rate of this step.
            hold_back: A scalar on the parameters' device. Where it is not 0, neither weights nor moments nor
                step counts change. It is read on the device, so the host doesn't wait for it.
        """
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        step_unless(hold_back, self._adamw)

    def release(self) -> None:
        """Free the memory of parameters and moments; the optimizer can't be used afterwards."""
        self.trainable.clear()
        self._adamw.state.clear()
        self._adamw.param_groups.clear()

    def layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and full shape of each tensor of :meth:`tensors`."""
        return {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in self._state()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The state, by parameter name, whole and on the CPU, one tensor at a time, on rank 0 alone.

        Under sharding this is a collective: every process must run it to its end.
        """
        for key, tensor in self._state():
            whole = full_tensor(tensor)
            if whole is not None:
                yield key, whole

    def held(self) -> dict[str, Tensor]:
        """What this process holds of the parameters and their state, by name; nothing is copied."""
        return {**self.trainable, **dict(self._state())}

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.trainable.items():
            state = self._adamw.state.get(parameter)
            if state:
                for moment in _MOMENTS:
                    yield f"{moment}/{name}", state[moment]
                yield f"step/{name}", state["step"]

    def load(self, saved_tensors: Mapping[str, Tensor]) -> None:
        """Load a saved state; each process takes its own shard of it.

        Args:
            saved_tensors: The whole tensors that :meth:`tensors` gave.

        Raises:
            ModelError: The state is of other parameters.
        """
        saved = {name.split("/", 1)[1] for name in saved_tensors}
        if strange := sorted(saved - set(self.trainable)):
            raise ModelError(
                f"the checkpoint's optimizer has {strange[0]}, which this run doesn't train; "
                "resume with the options of the run that saved it"
            )
        for name, parameter in self.trainable.items():
            if name not in saved:
                continue
            state = {moment: torch.zeros_like(parameter) for moment in _MOMENTS}
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for key, tensor in state.items():
                load_full(tensor, saved_tensors[f"{key}/{name}"])
            self._adamw.state[parameter] = state

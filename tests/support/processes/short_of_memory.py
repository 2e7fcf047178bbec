"""Train on a batch twice, the second time in too little memory: ``python short_of_memory.py MODEL``.

Prints how often the batch was split, both losses, and the largest difference between gradients.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
from pathlib import Path

import torch

from mdl_toolkit.distributed.group import Ranks
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.trainable.prepare import prepare
from support.models.batches import random_batch


def address_space(field: str) -> int:
    """Bytes of this process: ``VmSize`` now or ``VmPeak``."""
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) * 1024 for line in stream if line.startswith(field))


def main(model: Path) -> None:
    torch.set_num_threads(1)
    settings = TrainSettings(train_dataset="data", output=Path("run"), sharding="none", lora_rank=4)
    wrapped = prepare(model, settings, Ranks(Launch(), torch.device("cpu")))
    wrapped.model.train()
    batch = random_batch(range(64), seconds=8.0)
    whole_loss = float(wrapped.micro_batch(batch, 1e-3, last=True))
    whole = {name: p.grad.clone() for name, p in wrapped.trainable.items() if p.grad is not None}
    wrapped.zero_grad()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    size = address_space("VmSize")
    limit = size + (address_space("VmPeak") - size) // 3
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    loss = float(wrapped.micro_batch(batch, 1e-3, last=True))
    differences = [float((wrapped.trainable[n].grad - g).abs().max()) for n, g in whole.items()]  # type: ignore[operator]
    print(
        json.dumps({"splits": wrapped.splits, "losses": [whole_loss, loss], "difference": max(differences)})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

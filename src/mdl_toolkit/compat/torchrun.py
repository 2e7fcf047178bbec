"""What torchrun's agent does for the processes that it starts."""

from __future__ import annotations

import functools
import os
import socket


@functools.cache
def agent_serves_store() -> bool:
    """Whether torchrun's agent serves the key-value store at ``MASTER_ADDR``; else rank 0 is to do it.

    The agent says so in ``TORCHELASTIC_USE_AGENT_STORE``, which torch's documents don't name. Public ways
    that were tried: ``torch.distributed.is_torchelastic_launched`` tells of torchrun, and not where its store
    is; ``torch.distributed.rendezvous("env://")`` decides by itself, and its server waits for the others
    where no signal is heard. Fall-back: to look whether something listens at the address already. Ask for it
    before this process listens there itself.
    """
    told = os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
    if told is not None:
        return told == "True"
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection(address, timeout=5.0).close()
    except (KeyError, ValueError, OSError):
        return False
    return True

"""What torchrun's agent does for the processes that it starts, and how it is told from other agents.

An agent is torchrun's own process on a host: it starts the host's processes, and starts them again when one
has failed or a host has come or gone.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from pathlib import Path

#: Where the agent keeps what a process reports: ``FOLDER/attempt_2/0/error.json`` for its local rank 0 after
#: two restarts. The agent makes FOLDER under a random name.
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_ATTEMPT = re.compile(r"attempt_(\d+)")


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


def agent_id() -> str | None:
    """What tells the agent that started this process from all others, also of later launches on this host.

    It is the host's name and the folder that the agent has made for its processes' reports, which keeps its
    random name as long as the agent lives. ``--rdzv-id`` is no such thing: ``none`` is its default, and
    people reuse it. Fall-back where the agent keeps no reports (``--log-dir /dev/null``): ``None``, and the
    agent's store tells the launch (``distributed/rendezvous.py``).
    """
    attempt = _attempt_folder()
    return None if attempt is None else f"{socket.gethostname()}:{attempt.parent}"


def job_id() -> str | None:
    """``--rdzv-id`` of the launch; ``None`` for a process that torchrun did not start."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def reports_of_failed_attempt() -> list[Path]:
    """Where this host's processes of the attempt that failed before this one have reported why.

    An attempt that was ended because a host came or went has not failed, and is not counted.
    """
    attempt = _attempt_folder()
    number = int(_ATTEMPT.fullmatch(attempt.name)[1]) if attempt is not None else 0  # type: ignore[index]
    return sorted(attempt.parent.glob(f"attempt_{number - 1}/*/error.json")) if attempt and number else []


def _attempt_folder() -> Path | None:
    """The agent's folder for this attempt; ``None`` where it keeps none, and without torchrun."""
    named = os.environ.get(_ERROR_FILE)
    folders = Path(named).parents if named else ()
    if len(folders) < 3 or not _ATTEMPT.fullmatch(folders[1].name):
        return None
    return folders[1]

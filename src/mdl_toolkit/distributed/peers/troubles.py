"""What errors of Gloo, NCCL and the store say: that a process is gone, or can't be reached, or neither.

These libraries raise a plain ``RuntimeError`` (or one of torch's ``DistError``) and say the rest in words.
The words are those of Gloo's and c10d's sources (torch 2.10 to 2.13), NCCL's (2.12 to 2.28), and the C
library's for the ``errno`` values of a broken connection. Standard library only.
"""

from __future__ import annotations

from enum import Enum

#: torch's own kinds of such errors, by name, so that torch need not be loaded.
_DIST_ERRORS = frozenset({"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"})


class Trouble(Enum):
    """What an exchange between processes failed for."""

    #: The process at the other end has closed the connection, or doesn't listen any longer.
    GONE = "gone"
    #: Nothing comes from there any more.
    UNREACHABLE = "unreachable"
    #: The processes didn't make the same call, or not with tensors of the same size.
    DISAGREE = "disagree"


# In lower case. The first group with words of an error decides: some name a cause and a consequence.
_WORDS: tuple[tuple[Trouble, tuple[str, ...]], ...] = (
    (
        Trouble.DISAGREE,
        (
            "op.preamble.length", "op.preamble.nbytes", "op.nwritten", "op.buf->size",
            "detected mismatch between collectives", "collectives differ in",
            "mismatch between collective operation types", "invalid tensor size at index",
            "invalid tensor type at index", "tensor list mustn't be", "got tensors of different",
        ),
    ),
    (
        Trouble.GONE,
        (
            "connection closed by peer", "connection reset by peer", "broken pipe", "connection refused",
            "connection closed by remote peer", "remote peer closed the connection", "econnreset", "epipe",
            "econnrefused", "connection was likely closed", "failed to recv, got", "failed to send, sent",
            "recvbytes failed", "sendbytes failed", "remote process exited", "ncclremoteerror",
            "transport endpoint is not connected", "socket is not connected",
        ),
    ),
    (
        Trouble.UNREACHABLE,
        (
            "connection timed out", "no route to host", "network is unreachable", "network is down",
            "network dropped connection", "host is down", "host is unreachable", "etimedout", "ehostunreach",
            "enetunreach", "enetdown", "software caused connection abort", "timed out waiting",
            "application timeout caused pair closure", "connect timeout", "read timeout", "write timeout",
            "wait timeout", "socket timeout", "operation timed out", "timed out in monitoredbarrier",
            "client socket has timed out", "client failed to connect", "timeout waiting for key",
            "watchdog caught collective operation timeout", "before timing out",
            "some nccl operations have failed or timed out", "communicator was aborted",
            "got completion from peer", "failed to connect to", "ran for more than set timeout",
        ),
    ),
)  # fmt: skip


def trouble_of(error: BaseException) -> Trouble | None:
    """What an exchange with other processes failed for; ``None`` where the error is about something else.

    Args:
        error: An error that was raised while this process exchanged something with others.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if type(error) is not RuntimeError and not kinds & _DIST_ERRORS:
        return None
    text = str(error).lower()
    return next((trouble for trouble, words in _WORDS if any(word in text for word in words)), None)


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error only means that another process is gone or can't be reached."""
    return trouble_of(error) in (Trouble.GONE, Trouble.UNREACHABLE)


def first_line(error: BaseException) -> str:
    """The first line of a library's message, as a detail for ours."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

"""Every way in which Gloo, NCCL and the store say that another process is lost, and what is no such thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mdl_toolkit.distributed.peers.troubles import Trouble, first_line, is_peer_loss, trouble_of
from mdl_toolkit.errors import DataError

PAIR = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] "
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, "

GONE = [
    PAIR
    + "Connection closed by peer [10.0.0.2]:20383. This is typically caused by a remote worker crashing.",
    PAIR + "Read error [10.0.0.2]:25266: Connection reset by peer",
    PAIR + "Write error [10.0.0.2]:25266: Broken pipe",
    PAIR + "writev [10.0.0.2]:25266: Broken pipe",
    PAIR + "connect [10.0.0.2]:25266: Connection refused",
    "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
    "Failed to send, sent 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
    "[c10d] recvBytes failed on SocketImpl(fd=5, addr=[node-a]:1): Connection reset by peer",
    "sendBytes failed on SocketImpl(fd=5): Broken pipe",
    NCCL + "remote process exited or there was a network error, NCCL version 2.28.8\nncclRemoteError: A call "
    "failed possibly due to a network error or a remote process exiting prematurely.",
    NCCL
    + "unhandled system error, NCCL version 2.21.5\nncclSystemError: System call (e.g. socket, malloc) or "
    "external library call failed or device error.\nLast error:\nsocketProgress: Connection closed by remote "
    "peer node-b<47861>",
    NCCL + "unhandled system error\nLast error:\nCall to recv from 10.0.0.2<57355> failed : Broken pipe",
]
UNREACHABLE = [
    PAIR + "Read error [10.0.0.2]:25266: Connection timed out",
    PAIR + "Read error [10.0.0.2]:25266: No route to host",
    PAIR + "Write error [10.0.0.2]:25266: Network is unreachable",
    PAIR + "Read error [10.0.0.2]:25266: Software caused connection abort",
    PAIR + "Read error [10.0.0.2]:25266: Network is down",
    PAIR + "Read error [10.0.0.2]:25266: Host is down",
    PAIR + "connect [10.0.0.2]:25266: Connection timed out",
    "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 1800000ms for "
    "recv operation to complete",
    "Application timeout caused pair closure",
    "Connect timeout [10.0.0.2]:25266",
    "Socket Timeout",
    "wait timeout after 600000ms, keys: /mdl-toolkit/failure/cause",
    "The client socket has timed out after 600000ms while trying to connect to (10.0.0.1, 29500).",
    "TCP client failed to connect/validate to host 10.0.0.1:29500 - timed out (try=1, timeout=600000ms): x",
    "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=BROADCAST, NumelIn=1, "
    "NumelOut=112, Timeout(ms)=1800000) ran for 1800011 milliseconds before timing out.",
    "NCCL communicator was aborted on rank 1.",
    "Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, "
    "subsequent GPU operations might run on corrupted/incomplete data.",
    NCCL
    + "unhandled system error\nLast error:\nNET/IB : Got completion from peer 11.214.147.122<39138> with "
    "error 12, opcode 0, len 0, vendor err 129",
]
DISAGREE = [
    "[enforce fail at /pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:462] op.preamble.length <= "
    "op.nbytes. 8 vs 4",
    "[enforce fail at pair.cc:470] op.preamble.roffset + op.preamble.length <= op.buf->size_. 24 vs 16",
    "Detected mismatch between collectives on ranks. Rank 0 is running collective: CollectiveFingerPrint",
    "Collectives differ in the following aspects: \t Tensor Tensor shapes: 3vs 5",
    "invalid tensor size at index 1 (expected (3), got (5))",
]
NEITHER = [
    "shape '[2]' is invalid for input of size 3",
    "mat1 and mat2 shapes cannot be multiplied (4x5 and 6x7)",
    NCCL
    + "invalid usage, NCCL version 2.17.1\nncclInvalidUsage: This usually reflects invalid usage of NCCL "
    "library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000",
    NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
    "can't start new thread",
]


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        *((text, Trouble.GONE) for text in GONE),
        *((text, Trouble.UNREACHABLE) for text in UNREACHABLE),
        *((text, Trouble.DISAGREE) for text in DISAGREE),
        *((text, None) for text in NEITHER),
    ],
)
@pytest.mark.parametrize(
    "kind", [RuntimeError, dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError]
)
def test_words_are_understood(kind: type[RuntimeError], text: str, trouble: Trouble | None) -> None:
    assert trouble_of(kind(text)) is trouble
    assert is_peer_loss(kind(text)) == (trouble in (Trouble.GONE, Trouble.UNREACHABLE))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("connection closed by peer"),
        OSError(110, "Connection timed out"),
        torch.OutOfMemoryError("CUDA out of memory; connection reset by peer"),
        DataError("https://node-b/a.wav: connection refused"),
        NotImplementedError("broken pipe"),
    ],
)
def test_errors_of_other_things_are_not_taken_for_a_lost_process(error: BaseException) -> None:
    assert trouble_of(error) is None


def test_the_strings_are_those_of_the_torch_that_is_installed() -> None:
    """What Gloo and the store say, as their library has it; NCCL's isn't part of a torch for CPUs."""
    folder = Path(torch.__file__).parent / "lib"
    library = b"".join(path.read_bytes() for path in folder.glob("libtorch_cpu*"))
    for words in (
        "Connection closed by peer", "Timed out waiting", "Application timeout caused pair closure",
        "Connection was likely closed", "The client socket has timed out", "op.preamble.length <= op.nbytes",
    ):  # fmt: skip
        assert words.encode() in library, words
        assert trouble_of(RuntimeError(words)) is not None


def test_the_detail_is_one_line() -> None:
    assert first_line(RuntimeError("\n  Connection closed by peer\nframe #0")) == "Connection closed by peer"
    assert first_line(RuntimeError("")) == "RuntimeError"

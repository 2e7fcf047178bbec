"""The process that prepares batches: what keeps it from beginning reaches the run as words."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from mdl_toolkit.data.batching import preparing
from mdl_toolkit.data.batching.preparing import BatchFailure
from mdl_toolkit.data.child_process import StatusLines, receive, send


def test_a_process_that_can_start_no_thread_says_so(tmp_path: Path):
    ours, theirs = socket.socketpair()
    status = StatusLines()
    child = os.fork()
    if child == 0:

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        threading.Thread.start = refuse  # type: ignore[method-assign]
        ours.close()
        preparing.main(theirs.fileno(), status.fileno(), 3)
    theirs.close()
    send(ours, ([tmp_path], 1))
    found = receive(ours)
    os.waitpid(child, 0)
    status.close()
    ours.close()
    assert found is not None and isinstance(found[0], BatchFailure) and not found[0].of_data
    assert found[0].message.startswith("data worker 3: no further thread can be started: ")

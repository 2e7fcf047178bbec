"""What torchrun is told of a failure, so that its own report, which comes last, names the cause.

torchrun (and accelerate, which uses it) names a file for each process. When it sees that one has failed, it
ends the others of its host, reads all of the files, and calls that one the root cause whose file has the
earliest time, in whole seconds. A process without a file has the time at which its end was seen, and of equal
times the process that was seen first counts.

It can't be told that starting again is useless. Where that is so, the processes that it starts again repeat
what the earlier ones have reported.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from mdl_toolkit.compat.torchrun import reports_of_failed_attempt
from mdl_toolkit.errors import UserError

#: Where torchrun looks for the cause of a process's failure; empty where it keeps no reports.
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
#: What torchrun sets in any case.
_STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
#: Seconds that a process which failed because of another one waits, so that the other one is seen first: more
#: than a process needs to end that is ended for sure (``distributed/failure.py``).
_HEAD_START_SECONDS = 30.0


def report_failure(
    cause: str, exit_code: int = 1, *, follows: bool = False, when: float | None = None
) -> bool:
    """Write the cause of a failure where torchrun looks for it, whole or not at all.

    torchrun itself would end with a traceback if it found half a file.

    Args:
        cause: The message.
        exit_code: The exit code of this process.
        follows: Whether this process only ends because another one has failed, for that cause. What it has
            reported already then stays, and the process with the cause counts as the earlier one.
        when: The time of the failure, as ``time.time()``; now if it is ``None``.

    Returns:
        Whether torchrun will report it; ``False`` outside of torchrun.
    """
    path = os.environ.get(_ERROR_FILE)
    if not path or (os.path.exists(path) and not os.path.isfile(path)):
        return False
    if follows and is_reported():
        return True
    seconds = int(time.time() if when is None else when) + follows
    # torch itself has this place for an exit code.
    message = {"message": cause, "errorCode": exit_code, "extraInfo": {"timestamp": str(seconds)}}
    part = Path(f"{path}.{os.getpid()}")
    try:
        part.write_text(json.dumps({"message": message}), encoding="utf-8")
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True


def is_reported() -> bool:
    """Whether this process has reported a failure."""
    path = os.environ.get(_ERROR_FILE)
    return bool(path) and os.path.isfile(str(path))


def head_start() -> float:
    """Seconds that a process with the cause has before others of its host end because of it.

    It is more than 0 under torchrun alone, which ends the others when it sees that one has ended.
    """
    return _HEAD_START_SECONDS if _STARTED_BY_TORCHRUN in os.environ else 0.0


def let_cause_end_first(at_most: float = _HEAD_START_SECONDS) -> bool:
    """Under torchrun, wait for the end that the process with the cause brings; elsewhere do nothing.

    That end is a SIGTERM from torchrun. It ends the waiting, and this process has nothing to say of it.

    Args:
        at_most: Seconds after which it waits no longer.

    Returns:
        Whether it came.
    """
    try:
        if seconds := head_start():
            time.sleep(min(seconds, at_most))
    except KeyboardInterrupt:
        return True
    return False


def earlier_refusal() -> str | None:
    """Why torchrun's attempt before this one was refused on this host, if that is how it failed.

    Whatever it was refused for is still so: torchrun starts the same command line again within a second.

    Returns:
        The message of the process that failed first, where it ended with exit code 2; else ``None``.
    """
    found: list[tuple[int, bool, str]] = []
    for path in reports_of_failed_attempt():
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            message = json.loads(path.read_text(encoding="utf-8"))["message"]
            refused = message["errorCode"] == UserError.exit_code
            found.append((int(message["extraInfo"]["timestamp"]), not refused, str(message["message"])))
    if not found or min(found)[1]:
        return None
    return min(found)[2]

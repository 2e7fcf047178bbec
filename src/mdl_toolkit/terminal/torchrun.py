"""What torchrun is told of a failure, so that its own report, which comes last, names the cause.

torchrun (and accelerate, which uses it) names a file for each process and reports what stands in that of the
process that it sees ended first; then it ends the others.
"""

from __future__ import annotations

import json
import os
import time

#: Where torchrun looks for the cause of a process's failure.
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
#: Seconds that a process which failed because of another one waits, so that the other one is seen first.
_HEAD_START_SECONDS = 5.0


def report_failure(cause: str) -> bool:
    """Write the cause of a failure where torchrun looks for it.

    Returns:
        Whether torchrun will report it; ``False`` outside of torchrun.
    """
    path = os.environ.get(_ERROR_FILE)
    if not path:
        return False
    report = {"message": {"message": cause, "extraInfo": {"timestamp": str(int(time.time()))}}}
    try:
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(report, stream)
    except OSError:
        return False
    return True


def let_cause_end_first() -> None:
    """Under torchrun, wait for the end that the process with the cause brings; elsewhere do nothing."""
    if os.environ.get(_ERROR_FILE):
        time.sleep(_HEAD_START_SECONDS)

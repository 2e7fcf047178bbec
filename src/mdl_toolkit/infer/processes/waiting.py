"""Waiting for other processes, with a message now and then that says for which and for what."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mdl_toolkit.distributed.waiting import WaitingMessage, waiting_message
from mdl_toolkit.errors import PeerLostError
from mdl_toolkit.terminal.progress import duration

#: Seconds without any news after which waiting ends in any case.
NO_NEWS_SECONDS = 7200.0
#: Seconds between two looks.
_POLL_SECONDS = 0.2
#: Processes that a message names.
_NAMED = 4


def until(
    done: Callable[[], bool],
    who: Callable[[], Sequence[str]],
    what: str,
    news: Callable[[], object] = lambda: None,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Wait for other processes.

    Args:
        done: Whether what is waited for is there.
        who: The names of the processes that are waited for.
        what: What they are waited for to do.
        news: A value that changes as they go on.
        look: Raises where waiting has no sense any more.

    Raises:
        PeerLostError: Nothing was heard of them for very long.
    """
    heard, since = news(), time.monotonic()
    message = WaitingMessage(what)
    while not done():
        if (now := news()) != heard:
            heard, since = now, time.monotonic()
            message.postpone()
        look()
        if message.is_due():
            names = who()
            message.what = _named(what, names)
            message(len(names))
        if time.monotonic() - since > NO_NEWS_SECONDS:
            names = who()
            raise PeerLostError(
                f"{waiting_message(len(names), _named(what, names))}: nothing was heard of them for "
                f"{duration(NO_NEWS_SECONDS)}. What was done is kept: start the same command again"
            )
        time.sleep(_POLL_SECONDS)


def _named(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{what}: {', '.join(names[:_NAMED])}{more}"

"""Trackers of ``--report-to``, by accelerate's tracker classes, on the main process alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdl_toolkit.console import warn
from mdl_toolkit.errors import MdlError, SettingsError

#: Old scripts say this for "no tracker".
NONE = "none"


def check_trackers(names: Sequence[str]) -> list[str]:
    """The trackers to use, of what ``--report-to`` lists (``all``: every installed one; ``none``: none).

    Raises:
        SettingsError: For names that don't exist and for trackers that are not installed.
    """
    wanted = [name for name in names if name != NONE]
    if not wanted:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = {str(name): name for name in LOGGER_TYPE_TO_CLASS}
    installed = [str(getattr(name, "value", name)) for name in get_available_trackers()]
    if "all" in wanted:
        return sorted(installed)
    problems = []
    for name in wanted:
        if name not in known:
            problems.append(f"--report-to {name}: no such tracker; there are {', '.join(sorted(known))}")
        elif name not in installed:
            problems.append(
                f"--report-to {name}: {name} is not installed; install it with: pip install {name}"
            )
    if problems:
        raise SettingsError(problems)
    return list(dict.fromkeys(wanted))


class Trackers:
    """The trackers of a run.

    Args:
        names: As :func:`check_trackers` returned them.
        output: The run's folder; those that write files do it in its ``runs/``.
        options: What the run was started with.
        cpu: Whether the run is on the CPU.
    """

    def __init__(self, names: Sequence[str], output: Path, options: Mapping[str, Any], cpu: bool) -> None:
        self._trackers: list[Any] = []
        if not names:
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        # Their logging wants this state to exist; a process group that is there already is left as it is.
        PartialState(cpu=cpu)
        values = {key: value if _plain(value) else str(value) for key, value in options.items()}
        for name in names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            try:
                if kind.requires_logging_directory:
                    folder = output / "runs"
                    folder.mkdir(parents=True, exist_ok=True)
                    tracker = kind(output.resolve().name, logging_dir=str(folder))
                else:
                    tracker = kind(output.resolve().name)
                tracker.start()
                tracker.store_init_configuration(values)
            except Exception as error:  # every service has a family of its own
                raise MdlError(
                    f"--report-to {name}: could not be started ({_first_line(error)}); is its service "
                    "reachable, and are you logged in? Or train without it: metrics.jsonl has all numbers"
                ) from error
            self._trackers.append(tracker)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Give numbers to all trackers. One that fails is left out from then on: training goes on."""
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        self._each(lambda tracker: tracker.log(numbers, step=step))

    def close(self) -> None:
        """Let the trackers finish."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, action: Callable[[Any], None]) -> None:
        for tracker in list(self._trackers):
            try:
                action(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                warn(
                    f"--report-to {tracker.name}: failed ({_first_line(error)}) and gets no more numbers; "
                    "metrics.jsonl has all of them"
                )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))

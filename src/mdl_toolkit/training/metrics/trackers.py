"""Trackers of ``--report-to``, by accelerate's tracker classes, on the main process alone."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import MdlError, SettingsError
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

#: accelerate's trackers, and the packages of which each needs one. Written down here because importing
#: accelerate imports torch, and a wrong name shall be told before that.
PACKAGES = {
    "aim": ("aim",), "clearml": ("clearml",), "comet_ml": ("comet_ml",), "dvclive": ("dvclive",),
    "mlflow": ("mlflow", "mlflow-skinny"), "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",),
}  # fmt: skip
#: Old scripts say this for "no tracker".
NONE = "none"


def check_trackers(names: Sequence[str]) -> list[str]:
    """Choose the trackers that ``--report-to`` names (``all``: every installed one; ``none``: no tracker).

    Raises:
        SettingsError: A tracker doesn't exist, or is not installed.
    """
    wanted = [name for name in names if name != NONE]
    if not wanted:
        return []
    if "all" in wanted:
        return [name for name in PACKAGES if _installed(name)]
    problems = []
    for name in wanted:
        if name not in PACKAGES:
            near = difflib.get_close_matches(name, PACKAGES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PACKAGES)}"
            problems.append(f"--report-to {name}: no such tracker; {hint}")
        elif not _installed(name):
            problems.append(
                f"--report-to {name}: {name} is not installed; install it with: pip install "
                f"{PACKAGES[name][0]}"
            )
    if problems:
        raise SettingsError(problems)
    return list(dict.fromkeys(wanted))


def _installed(name: str) -> bool:
    for package in PACKAGES[name]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.distribution(package)
            return True
    return False


class Trackers:
    """The trackers of a run.

    Args:
        names: The names that :func:`check_trackers` returned.
        output: The folder of the run; trackers that write files write them into its ``runs/``.
        options: The options of the run.
        cpu: Whether the run computes on the CPU.
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
        """Pass numbers to all trackers. One that fails gets no more numbers, and training goes on."""
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
                logger.warning(
                    f"--report-to {tracker.name}: failed ({_first_line(error)}) and gets no more numbers; "
                    "metrics.jsonl has all of them"
                )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))

"""The numbers of a whole run, for its metrics and for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_toolkit.distributed.hosts import shown_ranks
from mdl_toolkit.errors import Stopped
from mdl_toolkit.memory import gib, peak_bytes
from mdl_toolkit.terminal.logs import EVERYWHERE, get_logger
from mdl_toolkit.terminal.progress import duration
from mdl_toolkit.training.checkpoints.state import FINAL

if TYPE_CHECKING:
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.training.steps.progress import RunProgress

logger = get_logger(__name__)


@contextmanager
def said_on_every_host(output: Path, ranks: Ranks) -> Iterator[None]:
    """Say on each host but that of rank 0, which prints all else, that it takes part, and how it ended.

    Args:
        output: The output of the run.
        ranks: The processes of the run.
    """
    own, main = ranks.hosts[ranks.rank], ranks.hosts[0]
    here = [rank for rank, host in enumerate(ranks.hosts) if host == own]
    if own == main or ranks.rank != here[0]:
        yield
        return
    logger.info(
        f"host {own} joined as {shown_ranks(here)} of {ranks.world_size}; host {main} (rank 0) prints the "
        f"run's progress and writes --output {output}",
        extra=EVERYWHERE,
    )
    try:
        yield
    except Stopped as stopped:
        logger.info(f"host {own}: {stopped} (on host {main})", extra=EVERYWHERE)
        raise
    logger.info(f"host {own}: done; {output / FINAL} is on host {main}", extra=EVERYWHERE)


def run_summary(
    ranks: Ranks, before: RunProgress, after: RunProgress, seconds: float, loading: int
) -> dict[str, float]:
    """The numbers of the whole run. Its rates leave out the steps before a resume.

    Args:
        ranks: The processes of the run.
        before: Where the run stood when it was started or resumed.
        after: Where it stands at its end.
        seconds: The time from one to the other.
        loading: The peak memory of loading the model, in bytes.
    """
    training = int(ranks.max([float(peak_bytes(ranks.device))])[0])
    steps = after.step - before.step
    seconds = max(seconds, 1e-9)

    def made(key: str) -> float:
        return after.counts[key] - before.counts[key]

    finite = after.step - after.counts["skipped"]
    return {
        "train_runtime": round(seconds, 6),
        "train_samples_per_second": made("clips") / seconds,
        "train_steps_per_second": steps / seconds,
        "train_tokens_per_second": made("tokens") / seconds,
        "train_loss": after.counts["loss"] / finite if finite else float("nan"),
        "total_flos": after.counts["flops"],
        "flops_per_second": made("flops") / seconds,
        "skipped_steps": int(after.counts["skipped"]),
        "total_clips": int(after.counts["clips"]),
        "total_tokens": int(after.counts["tokens"]),
        "peak_memory_loading": loading,
        "peak_memory_training": training,
    }


def print_summary(summary: Mapping[str, float]) -> None:
    """Print what the run has done.

    Args:
        summary: The numbers of :func:`run_summary`.
    """
    skipped = summary["skipped_steps"]
    logger.info(
        f"trained in {duration(summary['train_runtime'])}: "
        f"{summary['train_samples_per_second']:.1f} clips/s, mean loss {summary['train_loss']:.4f}"
        + (f", {skipped} updates skipped for not being finite" if skipped else "")
    )
    loading, training = int(summary["peak_memory_loading"]), int(summary["peak_memory_training"])
    logger.info(f"peak memory: {gib(loading)} in loading, {gib(training)} in training")

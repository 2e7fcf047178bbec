"""Small checkpoints and records of runs, to choose from when a run begins."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mdl_toolkit.files import sha256_of
from mdl_toolkit.training.checkpoints.identity import Identity
from mdl_toolkit.training.checkpoints.record import RunRecord
from mdl_toolkit.training.checkpoints.state import RunState
from mdl_toolkit.training.checkpoints.storage import new_checkpoint

#: What a launch is known by.
OURS = frozenset({"a:/tmp/agent", "store:1"})
#: A run that the checkpoints here belong to.
IDENTITY = Identity(dataset="d", eval_dataset=None, model="m", options={})


def a_record(launch: Collection[str] = OURS, began_from: str | None = None, run: str = "ours") -> RunRecord:
    return RunRecord(run=run, launch=launch, job="job", began_from=began_from)


def a_checkpoint(output: Path, step: int, run: str | None, *, dataset: str = "d") -> Path:
    state = RunState(
        step=step, epoch=0, first_sample=0, schedule_position=0.0, schedule_total=9, counts={}, seconds=0.0,
        world_size=1, dataset=dataset, eval_dataset=None, model="m", options={}, run=run,
    )  # fmt: skip
    with new_checkpoint(output, step) as folder:
        state.write(folder)
    return output / f"checkpoint-{step}"


def rewrite_state(checkpoint: Path, **changes: Any) -> None:
    """Give a checkpoint another state, as if it had been saved so; ``None`` takes a key away."""
    path = checkpoint / "run_state.json"
    state = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in state.items() if key not in changes or value}))
    listed = json.loads((checkpoint / "complete.json").read_text())
    listed["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (checkpoint / "complete.json").write_text(json.dumps(listed))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

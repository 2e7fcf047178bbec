"""What ``--overfit`` chooses, and what it leaves as it was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.hub import resolve_model
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.training.defaults import fit_to_base
from mdl_toolkit.training.overfit.options import fit_to_rows, usual_rate, without_output


def _settings(**options: Any) -> TrainSettings:
    return TrainSettings(train_dataset="t.csv", output=Path("o"), overfit=8, **options)


def _fitted(rows: int = 8, processes: int = 1, **options: Any) -> TrainSettings:
    tiny = resolve_model("tiny")
    settings = fit_to_base(_settings(model_name="tiny", **options), tiny)
    return fit_to_rows(settings, tiny, Launch(world_size=processes, local_world_size=processes), rows)


def test_a_small_base_gets_a_rate_and_steps_that_suit_it():
    found = _fitted()
    assert (found.method, found.lr, found.max_steps) == ("full", 1e-3, 300)
    assert (found.lr_scheduler, found.warmup_steps, found.warmup_ratio) == ("constant", 10, None)
    assert _fitted(lora_rank=4).lr == 3e-3


def test_what_is_given_stays():
    given: dict[str, Any] = {
        "lr": 2e-5, "max_steps": 7, "lr_scheduler": "cosine", "warmup_ratio": 0.5, "batch_size": 2,
        "gradient_accumulation_steps": 3,
    }  # fmt: skip
    found = _fitted(**given)
    assert {name: getattr(found, name) for name in given} == given


@pytest.mark.parametrize(
    ("rows", "processes", "batch", "accumulation"),
    [(8, 1, 8, 1), (8, 2, 4, 1), (3, 2, 2, 1), (1, 4, 1, 1), (32, 1, 8, 4), (20, 2, 8, 2)],
)
def test_a_step_has_all_rows(rows: int, processes: int, batch: int, accumulation: int):
    found = _fitted(rows, processes)
    assert (found.batch_size, found.gradient_accumulation_steps) == (batch, accumulation)
    assert _fitted(rows, processes, batch_size=1).gradient_accumulation_steps == -(-rows // processes)


def test_batches_by_tokens_stay_as_they_are():
    assert _fitted(32, max_tokens=500).gradient_accumulation_steps == 1


def test_nothing_of_the_output_is_read_or_written():
    settings = _settings(eval_dataset="dev.csv", report_to=["tensorboard"], resume_from_checkpoint="true")
    found = without_output(settings)
    assert (found.eval_dataset, found.report_to, found.resume_from_checkpoint) == (None, [], None)
    settings.overfit = None
    assert without_output(settings) is settings


def test_rates_of_large_bases(tmp_path: Path):
    assert usual_rate(_settings(), tmp_path) == 5e-4
    assert usual_rate(_settings(method="full"), tmp_path) == 3e-5

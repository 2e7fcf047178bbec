"""A metric that the evaluations won't give is told before anything else is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdl_toolkit.errors import SettingsError
from mdl_toolkit.training.best.metric import check_metric
from mdl_toolkit.training.ready import make_ready
from mdl_toolkit.training.steps.standing import chosen_metric
from support.training.runs import run_settings


def settings_of(shop: Any, tmp_path: Path, **changes: Any) -> Any:
    return run_settings(
        shop.model, shop.data, tmp_path / "out", **{"eval_dataset": str(shop.held_out), **changes}
    )


def test_names_are_taken_with_and_without_eval(shop, tmp_path: Path):
    for name in ("loss", "eval_loss"):
        settings = settings_of(shop, tmp_path, metric_for_best=name)
        check_metric(settings)
        assert chosen_metric(settings) == "eval_loss"
    assert chosen_metric(settings_of(shop, tmp_path)) is None
    assert chosen_metric(settings_of(shop, tmp_path, metric_for_best="wer/dev")) == "eval_wer/dev"


def test_sets_have_metrics_of_their_own(shop, tmp_path: Path):
    sets = [f"new={shop.held_out}", f"old={shop.data}"]
    for name in ("loss", "loss/new", "eval_loss/old"):
        check_metric(settings_of(shop, tmp_path, eval_dataset=sets, metric_for_best=name))
    with pytest.raises(SettingsError) as caught:
        make_ready(settings_of(shop, tmp_path, eval_dataset=sets, metric_for_best="loss/dev"))
    assert caught.value.problems == [
        "--metric-for-best loss/dev: the evaluations of this run give loss, loss/new, loss/old; no set is "
        "named dev: --eval-dataset dev=PATH"
    ]


@pytest.mark.parametrize(
    ("metric", "changes", "said"),
    [
        ("wer", {}, "give loss; wer takes --eval-generate N --eval-task asr"),
        (
            "eval_accuracy",
            {},
            "give loss; accuracy takes --eval-generate N --eval-task classification|choice|",
        ),
        ("cer", {"eval_generate": 0}, "give loss, accuracy; cer takes --eval-task asr"),
        ("accuracies", {"eval_generate": 0}, "give loss, accuracy; did you mean accuracy?"),
        ("eval_rows", {"eval_generate": 0}, "give loss, accuracy"),
    ],
)
def test_what_would_give_it_is_said(shop, tmp_path: Path, metric: str, changes: dict[str, Any], said: str):
    with pytest.raises(SettingsError) as caught:
        make_ready(settings_of(shop, tmp_path, metric_for_best=metric, **changes))
    assert f"--metric-for-best {metric}: the evaluations of this run {said}" in str(caught.value)


def test_scores_of_the_task_are_taken_for_each_set(shop, tmp_path: Path):
    sets, generates = [f"new={shop.held_out}", str(shop.data)], {"eval_generate": 2, "eval_task": "qa"}
    for name in ("f1", "exact_match", "eval_f1/new", "loss/new"):
        check_metric(settings_of(shop, tmp_path, eval_dataset=sets, metric_for_best=name, **generates))


def test_early_stopping_alone_goes_by_the_loss(shop, tmp_path: Path):
    settings = settings_of(shop, tmp_path, early_stopping=3)
    check_metric(settings)
    assert chosen_metric(settings) == "eval_loss"


def test_without_evaluations_there_is_nothing_to_go_by(shop, tmp_path: Path):
    for changes, option in (
        ({"metric_for_best": "wer"}, "--metric-for-best wer"),
        ({"early_stopping": 2}, "--early-stopping 2"),
    ):
        with pytest.raises(SettingsError) as caught:
            make_ready(settings_of(shop, tmp_path, eval_dataset=None, **changes))
        assert caught.value.problems == [
            f"{option}: there is no evaluation to go by; name held-out data: --eval-dataset"
        ]
    assert not (tmp_path / "out").exists()

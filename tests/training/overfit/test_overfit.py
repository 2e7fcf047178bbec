"""``--overfit N``: a set-up that can learn, ones that can't, and what stays of them: nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.data.dataset.some_rows import SomeRows, spread
from mdl_toolkit.errors import ExitCode
from mdl_toolkit.training.overfit.run import CannotLearnError
from mdl_toolkit.training.run import train
from support.data.clips import tone, write_wav
from support.training.runs import make_dataset, run_settings

PARTS = ["encoder", "projector", "decoder", "embed_tokens", "lm_head"]


def _overfit(shop: Any, data: Path, output: Path, rows: int = 4, **changes: Any) -> None:
    """Random weights say nothing of language, so embeddings and head are trained, too."""
    values: dict[str, Any] = {
        "lora_rank": 16,
        "lr": 2e-2,
        "train_target": PARTS,
        "overfit": rows,
        "eval_max_new_tokens": 16,
        **changes,
    }
    train(run_settings(shop.model, data, output, **values))


def test_rows_are_learned_and_nothing_is_kept(shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    _overfit(shop, shop.data, tmp_path / "out", eval_dataset=str(shop.held_out), eval_steps=1, save_steps=1)
    said = "".join(capfd.readouterr())
    assert "learning 4 rows by heart with --lr 0.02 --max-steps 300 --lr-scheduler constant" in said
    assert "this set-up can learn: loss " in said and "4 of 4 answers come back exactly" in said
    assert "has no effect" not in said and "evaluation after" not in said
    assert not (tmp_path / "out").exists()


def test_all_weights_learn_too(shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    _overfit(shop, shop.data, tmp_path / "out", rows=1, method="full", lr=1e-2)
    assert "this set-up can learn" in "".join(capfd.readouterr())


def test_a_rate_of_nearly_zero_learns_nothing(shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(
        CannotLearnError, match=r"does not learn 4 rows by heart: loss .*, 0 of 4 answers"
    ) as failed:
        _overfit(shop, shop.data, tmp_path / "out", lr=1e-9, max_steps=12)
    assert failed.value.exit_code == ExitCode.FAILED
    said = "".join(capfd.readouterr())
    assert "likely cause: --lr 1e-09 is too small" in said
    assert "answers that don't come back" in said and "train.csv row 2 (clip0.wav)" in said
    assert not (tmp_path / "out").exists()


def test_one_clip_with_several_answers_can_not_be_learned(
    shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_wav(tmp_path / "same.wav", tone(0.5))
    answers = ["one", "two", "three", "four"]
    table = "audio,prediction\n" + "".join(f"same.wav,{answer}\n" for answer in answers)
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(CannotLearnError, match="1 of 4 answers come back exactly"):
        _overfit(shop, tmp_path / "t.csv", tmp_path / "out", base_dir=tmp_path, max_steps=60)
    said = "".join(capfd.readouterr())
    assert "have the same clip and prompt and different answers" in said
    assert "more --max-steps" not in said


def test_a_table_is_converted_as_far_as_it_is_needed(
    shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Row 5 has no clip, which a run would refuse; the rows that are learned lie apart."""
    rows = []
    for number in range(12):
        write_wav(tmp_path / f"{number}.wav", tone(0.3, 200 + 50 * number))
        rows.append(f"{number if number != 4 else 'missing'}.wav,answer {number // 3}\n")
    (tmp_path / "t.csv").write_text("audio,prediction\n" + "".join(rows))
    output = tmp_path / "out"
    with pytest.raises(CannotLearnError):
        _overfit(shop, tmp_path / "t.csv", output, base_dir=tmp_path, lr=1e-9, max_steps=1)
    said = "".join(capfd.readouterr())
    assert "t.csv: 4 rows" in said
    for line in (2, 5, 8, 11):
        assert f"t.csv row {line} (" in said
    assert [path.name for path in output.iterdir()] == ["cache"]
    # A run that follows converts all of it, and finds the row.
    with pytest.raises(Exception, match=r"missing\.wav"):
        train(run_settings(shop.model, tmp_path / "t.csv", output, base_dir=tmp_path))


def test_an_earlier_run_in_the_output_is_left_alone(shop: Any, tmp_path: Path):
    output = tmp_path / "out"
    train(run_settings(shop.model, shop.data, output, max_steps=1))
    before = {path: path.stat().st_mtime_ns for path in sorted(output.rglob("*"))}
    with pytest.raises(CannotLearnError):
        _overfit(shop, shop.data, output, lr=1e-9, max_steps=1, resume_from_checkpoint="true", overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in sorted(output.rglob("*"))} == before


def test_more_rows_than_a_batch_holds_are_one_step(
    shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(CannotLearnError):
        _overfit(shop, shop.data, tmp_path / "out", rows=100, batch_size=5, lr=1e-9, max_steps=1)
    said = "".join(capfd.readouterr())
    assert "learning 24 rows by heart" in said and "--batch-size 5 --gradient-accumulation-steps 5" in said
    assert "step 1/1, epoch 1.00" in said


def test_rows_of_one_answer_are_remarked(shop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    data = make_dataset(tmp_path / "data", shop.model, rows=2, words=(0,))
    with pytest.raises(CannotLearnError):
        _overfit(shop, data, tmp_path / "out", rows=2, lr=1e-9, max_steps=1)
    assert "have the same answer, which says little" in "".join(capfd.readouterr())


def test_some_rows_of_a_dataset_are_one(shop: Any):
    data = ClipDataset.open([shop.data])
    some = SomeRows(data, [5, 2, 17])
    assert len(some) == 3
    for number, place in enumerate([5, 2, 17]):
        assert some.row_name(number) == data.row_name(place)
        assert some[number].index == number
        np.testing.assert_array_equal(some[number].input_ids, data[place].input_ids)
        np.testing.assert_array_equal(some[number].waveform, data[place].waveform)
        np.testing.assert_array_equal(some.answer_ids(number), data.answer_ids(place))
    np.testing.assert_array_equal(some.tokens, data.tokens[[5, 2, 17]])
    with pytest.raises(IndexError):
        some[3]


def test_rows_lie_at_equal_distances():
    assert spread(4, range(12)) == [0, 3, 6, 9]
    assert spread(3, [7, 8, 11, 30]) == [7, 8, 11]
    assert spread(9, range(3)) == [0, 1, 2]
    assert spread(1, range(5)) == [0]

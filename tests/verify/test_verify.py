"""``verify`` as it is typed: the same model in every form, and forms that are not the same."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdl_toolkit.cli import run
from mdl_toolkit.model_folders.export import export_merged
from mdl_toolkit.model_folders.load import build_empty
from mdl_toolkit.model_folders.manifest import BaseRecord, ModelManifest
from mdl_toolkit.model_folders.merge import MergeForm
from mdl_toolkit.model_folders.trained import TrainedWeights
from support.inference import make_table
from support.models.engines import install, publish_code
from support.models.tiny import make_model_folder

ALWAYS = ["--max-new-tokens", "6", "--batch-size", "3"]
ADAPTED = ("attn.qkv", "net.0", "gate_proj", "down_proj")
OURS = ["merged", "disk", "batches", "padded", "bfloat16"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoint with an adapter that changes answers, and final/ beside it."""
    run_folder = tmp_path_factory.mktemp("run")
    config = {"r": 4, "lora_alpha": 8, "use_dora": False, "use_rslora": False}
    generator = torch.Generator().manual_seed(3)
    lora = {}
    for name, layer in build_empty(base).named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(
            ("attn.qkv", "net.0", "gate_proj", "down_proj")
        ):
            lora[name] = {
                "lora_A": torch.randn(4, layer.in_features, generator=generator) * 0.2,
                "lora_B": torch.randn(layer.out_features, 4, generator=generator) * 0.2,
            }
    trained = TrainedWeights(config, lora)
    checkpoint = run_folder / "checkpoint-3"
    checkpoint.mkdir()
    trained.write(checkpoint, str(base))
    record = BaseRecord.of(str(base), base)
    about: dict[str, Any] = {"base": record, "dataset": {"fingerprint": "d"}, "training": {"step": 3}}
    ModelManifest(kind="adapter", **about).write(checkpoint)
    export_merged(base, trained, run_folder / "final", ModelManifest(kind="model", **about), MergeForm())
    return checkpoint


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return make_table(tmp_path, 7)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages for engines; what they are imported as is forgotten afterwards."""
    folder = tmp_path / "packages"
    monkeypatch.syspath_prepend(str(folder))
    for engine in ("vllm", "sglang"):
        monkeypatch.delitem(sys.modules, engine, raising=False)
    return folder


@pytest.fixture(scope="module")
def code_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers puts a publisher's code: one folder, since Python remembers what it imported."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("modules")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
        yield


def verified(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert run(["verify", *words, *ALWAYS, "--json"]) == code, capsys.readouterr().err
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def forms(*names: str) -> list[str]:
    return [word for name in names for word in ("--form", name)]


def test_an_adapter_is_the_same_in_every_form(adapter: Path, table: Path, capsys):
    found = verified(capsys, str(adapter), "--data", str(table), "-n", "5", *forms(*OURS))
    assert found["ok"] and found["rows"] == 5 and "adapter unmerged" in found["reference"]
    for name in ("merged", "disk", "batches", "padded"):
        form = found["forms"][name]
        assert form["same_answers"] == 5 and form["largest_difference"] < 1e-3, name
    assert 0 < found["forms"]["bfloat16"]["largest_difference"] < 0.25


def test_final_is_compared_with_what_training_had(adapter: Path, table: Path, capsys):
    found = verified(capsys, str(adapter.parent / "final"), "--data", str(table), *forms("disk"))
    assert "checkpoint-3, adapter unmerged" in found["reference"]
    assert found["forms"]["disk"]["largest_difference"] < 1e-3


def test_a_final_that_lost_its_projector_parts_from_training(
    adapter: Path, base: Path, table: Path, tmp_path: Path, capsys
):
    """Merged folders whose audio parts were left as the base's are what engines are often given."""
    broken = tmp_path / "run"
    for name in ("checkpoint-3", "final"):
        (broken / name).mkdir(parents=True)
        for file in (adapter.parent / name).iterdir():
            (broken / name / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "final" / "model.safetensors")
    original = load_file(base / "model.safetensors")
    weights |= {name: original[name] for name in weights if name.startswith("audio_projector")}
    save_file(weights, broken / "final" / "model.safetensors", {"format": "pt"})
    found = verified(capsys, str(broken / "final"), "--data", str(table), *forms("disk", "batches"), code=1)
    disk = found["forms"]["disk"]
    assert not found["ok"] and not disk["ok"] and disk["largest_difference"] > disk["tolerance"]
    assert found["forms"]["batches"]["ok"]


def test_the_table_says_where_and_by_how_much(adapter: Path, table: Path, capsys):
    words = ["verify", str(adapter), "--data", str(table), *ALWAYS, *forms("bfloat16"), "--tolerance", "1e-9"]
    assert run(words) == 1
    out, err = capsys.readouterr()
    assert "bfloat16" in out and "PARTS" in out and "largest difference" in out
    assert re.search(r"bfloat16, line \d: the largest difference", out)
    assert "error: a form differs from the reference" in err and err.count("\n") == 1


def test_a_published_model_has_nothing_to_merge(base: Path, table: Path, capsys):
    found = verified(capsys, str(base), "--data", str(table), "-n", "2")
    assert not found["forms"]["merged"]["compared"] and not found["forms"]["disk"]["compared"]
    assert found["forms"]["padded"]["ok"] and found["forms"]["batches"]["ok"]
    assert "--trust-remote-code" in found["forms"]["transformers"]["why"]


@pytest.mark.parametrize("wrong", [False, True])
def test_the_publishers_code_is_run_where_it_is_trusted(
    wrong: bool, base: Path, table: Path, tmp_path: Path, code_cache: None, capsys
):
    model = make_model_folder(tmp_path / f"published-{wrong}")
    publish_code(model, wrong)
    words = [str(model), "--data", str(table), "-n", "3", *forms("transformers"), "--trust-remote-code"]
    form = verified(capsys, *words, code=int(wrong))["forms"]["transformers"]
    assert form["ok"] is not wrong
    assert (form["largest_difference"] > 0.1) if wrong else (form["same_answers"] == 3)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engine_gets_one_placeholder_a_clip_and_answers_alike(
    engine: str, base: Path, table: Path, packages: Path, capsys
):
    install(packages, engine, "0.12.0")
    found = verified(capsys, str(base), "--data", str(table), "-n", "3", *forms(engine))
    form = found["forms"][engine]
    assert form["same_answers"] == 3 and form["known_faults"] == [] and "0.12.0" in form["title"]
    assert form["largest_difference"] is None


def test_an_engine_that_mishears_parts_and_its_known_fault_is_named(
    base: Path, table: Path, packages: Path, capsys
):
    install(packages, "vllm", "0.10.2", gain=0.0)
    words = [str(base), "--data", str(table), *forms("vllm"), "--tolerance", "0.001"]
    found = verified(capsys, *words, code=1)
    form = found["forms"]["vllm"]
    assert not form["ok"] and form["partings"] and "mask" in form["known_faults"][0]


def test_an_engine_that_fails_is_told_and_the_others_are_asked(
    base: Path, table: Path, packages: Path, capsys
):
    packages.mkdir()
    install(packages, "vllm", "0.12.0")
    (packages / "vllm.py").write_text("raise RuntimeError('no CUDA\\nruntime')\n")
    found = verified(capsys, str(base), "--data", str(table), *forms("vllm", "batches"), code=1)
    assert found["forms"]["vllm"]["why"] == "RuntimeError: no CUDA runtime"
    assert found["forms"]["batches"]["ok"]


def test_what_can_not_be_had_is_refused_when_it_is_named(base: Path, table: Path, capsys):
    assert run(["verify", str(base), "--data", str(table), *forms("sglang")]) == 2
    assert "--form sglang: it is not installed" in capsys.readouterr().err
    assert run(["verify", str(base), "--data", str(table), *forms("transformers")]) == 2
    assert "--trust-remote-code" in capsys.readouterr().err


def test_rows_that_can_not_be_read_are_left_out_by_name(base: Path, table: Path, capsys):
    (table.parent / "clips" / "2.wav").write_bytes(b"no recording")
    found = verified(capsys, str(base), "--data", str(table), *forms("batches"))
    assert found["rows"] == 6


def test_a_table_without_any_good_row_is_refused(base: Path, tmp_path: Path, capsys):
    table = tmp_path / "in.csv"
    table.write_text("audio\nnothere.wav\n")
    assert run(["verify", str(base), "--data", str(table)]) == 2
    assert "no row can be asked about" in capsys.readouterr().err


def test_rows_are_spread_over_the_table(base: Path, table: Path, capsys):
    words = [str(base), "--data", str(table), "-n", "3", *forms("bfloat16"), "--tolerance", "0"]
    worst = verified(capsys, *words, code=1)["forms"]["bfloat16"]["worst_line"]
    assert worst in (2, 4, 7)  # line 5 goes on in line 6

"""What folders say about themselves, and adapters of other makers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mdl_toolkit.data.prompt.record import PromptRecord, PromptUse
from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.folder import open_folder
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.model_folders.manifest import BaseRecord, ModelManifest, package_versions
from support.models.tiny import make_model_folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("base") / "b")


def _error(folder: Path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_manifest_comes_back_as_it_was(tmp_path: Path, base: Path):
    manifest = ModelManifest(
        kind="adapter",
        base=BaseRecord.of("some/model", base, "main"),
        prompts=PromptRecord(order="text-first", user_prompt="?", seen=(PromptUse(user_prompt="?", rows=3),)),
        audio={"sample_rate": 16000},
        dataset={"fingerprint": "abc"},
        options={"lr": 1e-4, "train_target": ["decoder"]},
        training={"step": 7},
    )
    manifest.write(tmp_path)
    assert ModelManifest.read(tmp_path) == manifest
    assert manifest.base and manifest.base.path == str(base) and len(manifest.base.fingerprint or "") == 32
    assert {"torch", "peft", "python", "mdl-toolkit"} <= set(package_versions())
    assert ModelManifest.read(base) is None


def test_secrets_stay_out(tmp_path: Path):
    token = "hf_" + "A1" * 15
    options = {"a": f"x {token}", "b": ["https://me:pass@host/x"], "c": Path("p"), "d": {"e": token}}
    ModelManifest(kind="model", options=options).write(tmp_path)
    text = (tmp_path / "mdl_toolkit.json").read_text()
    assert token not in text and "pass" not in text and "https://***@host/x" in text


def test_fields_of_later_versions_are_passed_over(tmp_path: Path):
    value = ModelManifest(kind="model").to_dict() | {"new": 1}
    value["prompts"]["new"] = 2
    (tmp_path / "mdl_toolkit.json").write_text(json.dumps(value))
    assert ModelManifest.read(tmp_path) == ModelManifest(kind="model")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "a mapping expected"),
        ({"kind": "modle"}, "kind is 'modle'"),
        ({"kind": ["model"]}, "kind is"),
        ({"kind": "model", "format": 99}, "format 99"),
        ({"kind": "model", "format": "1"}, "format 1"),
        ({"kind": "model", "prompts": {"order": "both"}}, "order is 'both'"),
        ({"kind": "model", "prompts": {"seen": {}}}, None),
        ({"kind": "model", "prompts": {"seen": 3}}, "seen: a list expected"),
        ({"kind": "model", "prompts": {"seen": [{"rows": "3"}]}}, "rows is '3'"),
        ({"kind": "model", "prompts": {"seen": [{"rows": True}]}}, "rows is 'True'"),
        ({"kind": "model", "base": {}}, "a field is missing"),
        ({"kind": "model", "base": "x"}, "base: a mapping expected"),
        ({"kind": "model", "options": 3}, "options: a mapping expected"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named(value: object, expected: str | None):
    if expected is None:
        ModelManifest.from_dict(value, "f")
        return
    with pytest.raises(ModelError, match=expected) as caught:
        ModelManifest.from_dict(value, "f")
    assert str(caught.value).startswith("f:")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("format", "kind", "base", "prompts", "audio", "dataset", "options", "training", "versions")


@settings(max_examples=200, deadline=None)
@given(
    value=JSON | st.dictionaries(st.sampled_from(FIELDS), JSON),
    kind=st.sampled_from(["model", "adapter", "overlay", None]),
    prompts=st.dictionaries(st.sampled_from(["order", "seen", "complete", "user_prompt"]), JSON),
)
def test_whatever_a_manifest_says(value, kind, prompts):
    if isinstance(value, dict) and kind is not None:
        value = value | {"kind": kind, "prompts": prompts}
    try:
        made = ModelManifest.from_dict(value, "f")
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert ModelManifest.from_dict(json.loads(json.dumps(made.to_dict())), "f").kind == made.kind
        made.prompts.default_for("user_prompt")


def _adapter(folder: Path, config: dict | None = None, **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["x"], **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    if not tensors:
        tensors = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(32, 2)}
    prefix = "base_model.model.audio_projector.net.2."
    save_file(
        {f"{prefix}{name}.weight": t for name, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def test_an_adapter_of_peft_alone_finds_its_base(tmp_path: Path, base: Path):
    folder = _adapter(tmp_path / "a", {"base_model_name_or_path": str(base)})
    place = open_folder(folder)
    assert (place.kind, place.manifest, place.base) == ("adapter", None, base)
    model = load_model(folder)
    layer: Any = model.audio_projector.net[2]
    x = torch.ones(1, 32)
    with torch.no_grad():
        plain = torch.nn.functional.linear(x, layer.base_layer.weight, layer.base_layer.bias)
        torch.testing.assert_close(layer(x), plain + 2 * 2 * 32.0)
    assert "doesn't say what its base is" in _error(_adapter(tmp_path / "b"))
    load_model(tmp_path / "b", base_model=base)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"peft_type": "IA3"}, "kind 'IA3'"),
        ({"peft_type": None}, "kind 'None'"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"r": 0}, "r is '0'"),
        ({"r": "2"}, "r is '2'"),
        ({"r": None}, "r (the rank) is missing"),
        ({"r": 4}, "its rank is 4"),
        ({"use_dora": True}, "lora_magnitude_vector expected"),
        ({"alpha_pattern": {"x": "y"}}, "positive numbers"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"(": 2}}, "no pattern of names"),
    ],
)
def test_adapters_that_cannot_be_used(tmp_path: Path, base: Path, config: dict, expected: str):
    assert expected in _error(_adapter(tmp_path / "a", config), base_model=base)


def test_an_adapter_for_another_model(tmp_path: Path, base: Path):
    wide = _adapter(tmp_path / "wide", lora_A=torch.ones(2, 48), lora_B=torch.ones(32, 2))
    assert "48 to 32 features; this model's has 32 to 32" in _error(wide, base_model=base)
    odd = _adapter(tmp_path / "odd")
    save_file(
        {
            "base_model.model.decoder.nothing.lora_A.weight": torch.ones(2, 32),
            "base_model.model.decoder.nothing.lora_B.weight": torch.ones(32, 2),
        },
        odd / "adapter_model.safetensors",
    )
    assert "decoder.nothing, which is no linear layer" in _error(odd, base_model=base)
    (odd / "adapter_model.safetensors").unlink()
    (odd / "adapter_model.bin").write_bytes(b"pickle")
    assert "missing" in _error(odd, base_model=base)


def test_a_base_that_rests_on_another_is_refused(tmp_path: Path, base: Path):
    first = _adapter(tmp_path / "first", {"base_model_name_or_path": str(base)})
    second = _adapter(tmp_path / "second", {"base_model_name_or_path": str(first)})
    assert "no stand-alone model" in _error(second)


CONFIG = ("peft_type", "r", "lora_alpha", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "bias")


@settings(max_examples=100, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(CONFIG), JSON | st.integers(1, 4)))
def test_whatever_an_adapter_says(tmp_path_factory, changes):
    from mdl_toolkit.model_folders.trained import TrainedWeights

    folder = _adapter(tmp_path_factory.mktemp("fuzz") / "a", changes)
    try:
        adapter = TrainedWeights.read(folder)
        assert adapter.merged("audio_projector.net.2", torch.zeros(32, 32)).shape == (32, 32)
    except ModelError as error:
        assert "\n" not in str(error)

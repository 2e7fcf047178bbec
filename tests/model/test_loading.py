"""Folders in the published shape, through the library's own Auto classes, without anybody's code."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model import MiDashengLMConfig, MiDashengLMModel, MiDashengLMProcessor


@pytest.mark.parametrize(("decoder", "tie"), [("qwen2", False), ("qwen3", True), ("qwen3", False)])
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM])
def test_auto_classes_load_the_published_tensors(tiny, decoder, tie, auto, caplog):
    """Every tensor arrives; the two recomputed constants of the front end are passed over in silence."""
    case = tiny(decoder, tie=tie)
    model, info = auto.from_pretrained(case.folder, output_loading_info=True)
    assert type(model) is MiDashengLMModel and not model.training
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    state = model.state_dict()
    published = load_file(case.folder / "model.safetensors")
    constants = {name for name in published if ".front_end." in name}
    assert len(constants) == 2
    assert set(state) - set(published) == ({"decoder.lm_head.weight"} if tie else set())
    for name in set(published) - constants:
        assert torch.equal(state[name], published[name]), name
    assert (model.decoder.lm_head.weight is model.decoder.model.embed_tokens.weight) == tie


def test_auto_config_and_processor(tiny):
    folder = tiny().folder
    assert type(AutoConfig.from_pretrained(folder)) is MiDashengLMConfig
    assert type(AutoProcessor.from_pretrained(folder)) is MiDashengLMProcessor


@pytest.mark.parametrize("auto", [AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor])
def test_the_publishers_code_is_never_run(tiny, auto):
    """The folder's Python files end the program when they are run; ``auto_map`` names them all."""
    folder = tiny().folder
    assert "raise SystemExit" in (folder / "modeling_midashenglm.py").read_text()
    made = auto.from_pretrained(folder)
    assert type(made).__module__.startswith("mdl_toolkit.model.")
    assert not [name for name in sys.modules if name.startswith("transformers_modules.")]


def damaged(source, target, change):
    """A copy of a model folder with other tensors."""
    target.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_missing_tensor_is_named(tiny, tmp_path):
    folder = damaged(tiny().folder, tmp_path / "m", lambda t: t.pop("audio_encoder.blocks.1.attn.qkv.weight"))
    with pytest.raises(ModelError, match=r"missing tensors: audio_encoder\.blocks\.1\.attn\.qkv\.weight"):
        AutoModel.from_pretrained(folder)


def test_an_unexpected_tensor_is_named(tiny, tmp_path):
    folder = damaged(
        tiny().folder, tmp_path / "m", lambda t: t.update({"audio_encoder.head.weight": torch.ones(2)})
    )
    with pytest.raises(ModelError, match=r"unexpected tensors: audio_encoder\.head\.weight"):
        AutoModel.from_pretrained(folder)


def test_a_tensor_of_another_shape_is_refused(tiny, tmp_path):
    folder = damaged(
        tiny().folder, tmp_path / "m", lambda t: t.update({"audio_projector.net.0.bias": torch.ones(5)})
    )
    with pytest.raises(ModelError, match=r"tensors of another shape: .*audio_projector\.net\.0\.bias"):
        AutoModel.from_pretrained(folder)


def test_constants_may_be_missing(tiny, tmp_path):
    """Not every published checkpoint carries the front end's constants."""

    def without(tensors):
        for name in [name for name in tensors if ".front_end." in name]:
            del tensors[name]

    model = AutoModel.from_pretrained(damaged(tiny().folder, tmp_path / "m", without))
    assert torch.equal(model.audio_encoder.norm.weight, tiny().model.audio_encoder.norm.weight)


def test_what_is_saved_loads_again(tiny, tmp_path):
    case = tiny("qwen3", tie=True)
    case.model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == case.config["auto_map"]
    for (name, mine), theirs in zip(
        again.state_dict().items(), case.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_an_empty_model_gets_its_rotary_tables_back(tiny):
    """Loaders that build on the meta device fill weights themselves; no checkpoint holds these tables."""
    case = tiny()
    with torch.device("meta"):
        empty = MiDashengLMModel(MiDashengLMConfig(**case.config))
    empty.to_empty(device="cpu")
    empty.load_state_dict(case.model.state_dict())
    empty.recompute_constants()
    batch = case.row(4000)
    ids = torch.tensor([batch["ids"]])
    wave = torch.from_numpy(batch["waveform"])[None]
    with torch.no_grad():
        assert torch.allclose(
            empty.eval()(input_ids=ids, input_values=wave).logits,
            case.model(input_ids=ids, input_values=wave).logits,
            atol=1e-6,
        )

"""In which form a merged model is written: onto which weights, in which dtype, and what rounding takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.export import export_merged
from mdl_toolkit.model_folders.load import attach_adapter, load_model
from mdl_toolkit.model_folders.manifest import BaseRecord, ModelManifest
from mdl_toolkit.model_folders.merge import Merge, MergeForm
from mdl_toolkit.model_folders.quantize import dequantized
from mdl_toolkit.model_folders.rounding import Rounding
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.trained import TrainedWeights
from support.models.batches import random_batch
from support.models.tiny import in_bfloat16, make_model_folder

UP, QUERY = "decoder.model.layers.0.mlp.up_proj", "decoder.model.layers.1.self_attn.q_proj"
PROJECTOR, HEAD = "audio_projector.net.0", "decoder.lm_head.weight"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("merge") / "base")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_bfloat16(make_model_folder(tmp_path_factory.mktemp("merge") / "half"))


def _manifest(base: Path) -> ModelManifest:
    return ModelManifest(kind="model", base=BaseRecord.of(str(base), base))


def _adapter(base: Path, size: float = 0.1, dora: bool = False) -> TrainedWeights:
    """LoRA on a layer that is quantised and on one that never is, and a trained head."""
    files, generator = WeightFiles(base), torch.Generator().manual_seed(5)
    lora = {}
    for module in (UP, PROJECTOR):
        outputs, inputs = files[f"{module}.weight"].shape
        lora[module] = {
            "lora_A": torch.randn(4, inputs, generator=generator),
            "lora_B": torch.randn(outputs, 4, generator=generator) * size,
        }
        if dora:
            lora[module]["lora_magnitude_vector"] = 1 + torch.rand(outputs, generator=generator)
    head = files.tensor(HEAD).float()
    head = head + torch.randn(head.shape, generator=generator) * size
    return TrainedWeights({"r": 4, "lora_alpha": 4, "use_dora": dora}, lora, {HEAD: head})


def _full(base: Path, size: float) -> TrainedWeights:
    """Every weight of the decoder's layers, moved a little."""
    files, generator = WeightFiles(base), torch.Generator().manual_seed(7)
    names = [name for name in files if "decoder.model.layers" in name]
    moved = {n: files.tensor(n).float() for n in names}
    return TrainedWeights(
        {}, {}, {n: t + size * torch.randn(t.shape, generator=generator).sign() for n, t in moved.items()}
    )


def _loss(model: Any) -> float:
    with torch.no_grad():
        return float(model.eval()(**random_batch(range(4)).model_inputs()).loss_sum)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_dequantised_is_what_the_layer_computes_with(
    base: Path, quantization: Any, dtype: torch.dtype
) -> None:
    pytest.importorskip("bitsandbytes")
    from peft.utils.integrations import dequantize_bnb_weight

    model: Any = load_model(base, quantization=quantization, dtype=dtype)
    files, seen = WeightFiles(base), 0
    for name, layer in model.named_modules():
        if not hasattr(layer, "quant_state") and not hasattr(layer, "init_8bit_state"):
            continue
        seen += 1
        ours = dequantized(files.tensor(f"{name}.weight"), quantization, CPU)
        if quantization == "4bit":
            theirs = dequantize_bnb_weight(layer.weight)
        else:
            theirs = layer.weight.CB.float() * layer.weight.SCB.view(-1, 1) / 127
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-6 if quantization == "8bit" else 0, atol=0)
        assert ours.dtype == torch.float32
        change = (ours - files.tensor(f"{name}.weight")).norm() / ours.norm()
        assert 0.001 < change < 0.15, "quantised, and near the weight"
    assert seen == 2 * 7


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_merging_onto_quantised_weights_changes_exactly_the_layers_that_were_quantised(
    base: Path, tmp_path: Path, quantization: Any
) -> None:
    pytest.importorskip("bitsandbytes")
    adapter, before = _adapter(base), WeightFiles(base)
    form = MergeForm(quantization=quantization)
    report = export_merged(base, adapter, tmp_path / "merged", _manifest(base), form)
    merged = WeightFiles(tmp_path / "merged")
    assert {n: merged[n].dtype for n in merged} == {n: before[n].dtype for n in before}
    for name in before:
        expected = before.tensor(name)
        if name.startswith("decoder.model.layers.") and expected.ndim == 2:
            expected = dequantized(expected, quantization, CPU)
        if name.removesuffix(".weight") in adapter.lora:
            expected = adapter.merged(name.removesuffix(".weight"), expected)
        expected = adapter.full.get(name, expected)
        assert torch.equal(merged.tensor(name), expected), name
    # What was only quantised is not counted as trained.
    assert report.changed == {"decoder": 1, "projector": 1, "lm_head": 1}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(("quantization", "near"), [("4bit", 1e-4), ("8bit", 2e-2)])
def test_the_model_that_was_trained_is_the_one_that_is_written(
    base: Path, tmp_path: Path, quantization: Any, near: float, dora: bool
) -> None:
    """8-bit layers round activations too, so there it is near, not equal."""
    pytest.importorskip("bitsandbytes")
    adapter = _adapter(base, dora=dora)
    model = load_model(base, quantization=quantization)
    attach_adapter(model, TrainedWeights(adapter.config, adapter.lora))
    model.decoder.lm_head.weight.data.copy_(adapter.full[HEAD])
    run = _loss(model)
    losses = {}
    for onto, form in (("quantized", MergeForm(quantization=quantization)), ("original", MergeForm())):
        export_merged(base, adapter, tmp_path / onto, _manifest(base), form)
        losses[onto] = _loss(load_model(tmp_path / onto))
    assert abs(losses["quantized"] - run) < near * run
    if quantization == "4bit":
        assert abs(losses["quantized"] - run) < 0.1 * abs(losses["original"] - run)


def test_a_layer_that_can_t_be_quantised_stays_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    odd = make_model_folder(tmp_path / "odd", text_config={"intermediate_size": 72})
    down = "decoder.model.layers.0.mlp.down_proj.weight"
    merge = Merge(odd, TrainedWeights({}), MergeForm(quantization="4bit"))
    assert down not in merge.places and f"{UP}.weight" in merge.places


def test_rounding_counts_what_is_left_of_an_update() -> None:
    rounding = Rounding()
    before = torch.tensor([1.0, 1.0, 1.0, 0.0])
    # Numbers of bfloat16 lie 1/128 apart above 1: a thousandth is lost, a half stays.
    rounding.add("decoder", before, torch.tensor([1.001, 1.5, 1.0, 0.0]), torch.bfloat16)
    rounding.add("encoder", before, before + 0.001, torch.bfloat16)
    decoder, encoder = rounding.parts["decoder"], rounding.parts["encoder"]
    assert (decoder.changed, decoder.survived, decoder.rounded) == (2, 1, 1)
    assert decoder.share == pytest.approx(0.25 / (0.25 + 1e-6), rel=1e-5)
    assert (encoder.changed, encoder.survived) == (4, 1), "a change of nothing is kept by a float"
    assert encoder.share == pytest.approx(0.25, abs=0.01)
    assert rounding.total.changed == 6 and not rounding.is_harmless


@pytest.mark.parametrize(("size", "dtype"), [(1e-5, torch.float32), (0.1, torch.bfloat16)])
def test_auto_takes_float32_where_rounding_would_take_the_training(
    half: Path, tmp_path: Path, size: float, dtype: torch.dtype
) -> None:
    trained = _full(half, size)
    report = export_merged(half, trained, tmp_path / "out", _manifest(half))
    assert report.stored == dtype
    written = WeightFiles(tmp_path / "out")
    assert {written[name].dtype for name in trained.full} == {dtype}
    assert report.rounds == (dtype == torch.bfloat16)
    if dtype == torch.float32:
        assert all(torch.equal(written.tensor(name), tensor) for name, tensor in trained.full.items())
        assert report.rounding.total.share < 0.5


def test_auto_saves_nothing_that_the_run_itself_has_rounded(half: Path, tmp_path: Path) -> None:
    form = MergeForm(rounded_to=torch.bfloat16)
    report = export_merged(half, _full(half, 1e-5), tmp_path / "out", _manifest(half), form)
    assert report.stored == torch.bfloat16


@pytest.mark.parametrize("tensors", ["adapter", "full"])
def test_of_a_float32_base_nothing_is_rounded(base: Path, tmp_path: Path, tensors: str) -> None:
    trained = _adapter(base) if tensors == "adapter" else _full(base, 1e-5)
    report = export_merged(base, trained, tmp_path / "out", _manifest(base))
    assert not report.rounds and report.stored == torch.float32


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", ["base", "half"])
def test_a_dtype_by_name_is_that_of_weights_and_config(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, name: Any
) -> None:
    from transformers import AutoModelForCausalLM

    folder: Path = request.getfixturevalue(kind)
    wanted, before, trained = getattr(torch, name), WeightFiles(folder), _adapter(folder)
    export_merged(folder, trained, tmp_path / "out", _manifest(folder), MergeForm(dtype=name))
    written = WeightFiles(tmp_path / "out")
    for tensor in written:
        front_end = tensor.startswith(("audio_encoder.init_bn", "audio_encoder.front_end"))
        assert written[tensor].dtype == (before[tensor].dtype if front_end else wanted), tensor
    plain = "decoder.model.layers.0.input_layernorm.weight"
    assert torch.equal(written.tensor(plain), before.tensor(plain).to(wanted))
    merged = trained.merged(UP, before.tensor(f"{UP}.weight")).to(wanted)
    assert torch.equal(written.tensor(f"{UP}.weight"), merged)
    config, its = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "out", folder))
    assert config.pop("torch_dtype") == name
    its.pop("torch_dtype")
    assert config == its, "nothing else of it changes"
    opened = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"))
    assert opened.decoder.lm_head.weight.dtype == wanted
    assert opened.audio_encoder.init_bn.weight.dtype == torch.float32


def test_shards_of_another_dtype_have_an_index_that_is_true(half: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    for path in half.iterdir():
        if path.suffix in (".json", ".jinja"):
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(half / "model.safetensors")
    names, weight_map = sorted(tensors), {}
    for part in range(2):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names[part::2]}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names[part::2], file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    export_merged(folder, _adapter(folder), tmp_path / "out", _manifest(folder), MergeForm(dtype="float32"))
    written = WeightFiles(tmp_path / "out")
    assert set(written) == set(tensors) and len(written.files) == 2
    found = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert found["weight_map"] == weight_map
    assert found["metadata"]["total_size"] == sum(info.bytes for info in written.values())


def test_numbers_that_float16_can_t_hold_are_named(base: Path, tmp_path: Path) -> None:
    adapter = _adapter(base)
    adapter.full[HEAD][3, 3] = 1e6
    with pytest.raises(ModelError, match=r"lm_head\.weight has numbers that float16 can't hold.*bfloat16"):
        export_merged(base, adapter, tmp_path / "out", _manifest(base), MergeForm(dtype="float16"))
    assert not (tmp_path / "out").exists()

"""Merging and exporting: PEFT is the reference for the numbers, the base's bytes for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdl_toolkit.errors import MdlError, ModelError
from mdl_toolkit.model_folders.export import export_merged, export_trained
from mdl_toolkit.model_folders.load import load_model
from mdl_toolkit.model_folders.manifest import BaseRecord, ModelManifest
from mdl_toolkit.model_folders.names import FRONT_END_CONSTANTS
from mdl_toolkit.model_folders.tensorfiles.reader import WeightFiles
from mdl_toolkit.model_folders.trained import TrainedWeights
from support.models.tiny import make_model_folder

EMBEDDINGS, HEAD = "decoder.model.embed_tokens.weight", "decoder.lm_head.weight"
TARGETS = [
    "audio_encoder.blocks.0.attn.qkv",
    "audio_encoder.blocks.1.attn.proj",
    "audio_projector.net.0",
    "decoder.model.layers.0.mlp.gate_proj",
    "decoder.model.layers.1.self_attn.v_proj",
]


def _adapted(base: Path, full: tuple[str, ...] = (), **options: object):
    """A model as training leaves it: LoRA layers injected and trained, some tensors trained in full."""
    from peft import LoraConfig, inject_adapter_in_model

    model = load_model(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, **options)
    inject_adapter_in_model(config, model)
    generator = torch.Generator().manual_seed(5)
    trained = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name or name in full:
                noise = torch.randn(parameter.shape, generator=generator) * 0.1
                trained[name] = parameter.detach() + noise
                parameter.copy_(trained[name])
    return model, config, trained


def _logits(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    waveform = torch.randn(1, 16000, generator=generator) * 0.1
    audio = model.config.audio_token_id if hasattr(model.config, "audio_token_id") else None
    ids = torch.tensor([[5, 6, *[audio] * 5, 7, 8, 9]])
    with torch.no_grad():
        return model(input_ids=ids, input_values=waveform, audio_length=torch.tensor([16000])).logits


def _manifest(base: Path, kind: Any) -> ModelManifest:
    return ModelManifest(kind=kind, base=BaseRecord.of(str(base), base))


KINDS = [
    {},
    {"use_rslora": True},
    {"use_dora": True},
    {"alpha_pattern": {r".*gate_proj": 3}, "rank_pattern": {"qkv": 2}},
]


@pytest.mark.parametrize("options", KINDS, ids=["lora", "rslora", "dora", "patterns"])
def test_a_merge_equals_that_of_peft(tmp_path: Path, options: dict):
    base = make_model_folder(tmp_path / "base")
    model, config, trained = _adapted(base, **options)
    adapter = TrainedWeights.collect(trained.items(), config)
    export_trained(tmp_path / "adapter", base, adapter, _manifest(base, "adapter"))

    report = export_merged(base, adapter, tmp_path / "merged", _manifest(base, "model"))

    from peft import PeftModel

    plain = load_model(base, dtype=torch.float32)
    reference = PeftModel.from_pretrained(plain, tmp_path / "adapter").merge_and_unload()
    merged = load_model(tmp_path / "merged", dtype=torch.float32)
    expected = reference.state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    # Unmerged, merged, and as it was trained: one model.
    torch.testing.assert_close(_logits(merged), _logits(model), rtol=1e-3, atol=1e-4)
    unmerged = load_model(tmp_path / "adapter", dtype=torch.float32)
    torch.testing.assert_close(_logits(unmerged), _logits(model), rtol=1e-3, atol=1e-4)
    assert (_logits(merged) - _logits(load_model(base))).abs().max() > 0.01
    assert report.changed == {"encoder": 2, "projector": 1, "decoder": 2} and not report.unchanged


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", [EMBEDDINGS, HEAD])
def test_embeddings_and_head_trained_in_full(tmp_path: Path, tie: bool, name: str):
    base = make_model_folder(tmp_path / "base", tie=tie, decoder="qwen3")
    # The model itself knows a tied tensor by the first name alone.
    model, config, trained = _adapted(base, full=(EMBEDDINGS if tie else name,))
    adapter = TrainedWeights.collect(trained.items(), config)
    if tie and name == HEAD:
        adapter = TrainedWeights(adapter.config, adapter.lora, {HEAD: adapter.full[EMBEDDINGS]})
    assert list(adapter.full) == [name]
    export_trained(tmp_path / "adapter", base, adapter, _manifest(base, "adapter"))
    export_merged(base, adapter, tmp_path / "merged", _manifest(base, "model"))

    expected = _logits(model)
    torch.testing.assert_close(_logits(load_model(tmp_path / "merged")), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(_logits(load_model(tmp_path / "adapter")), expected, rtol=1e-3, atol=1e-4)
    assert set(WeightFiles(tmp_path / "merged")) == set(WeightFiles(base))


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_peft_itself_opens_an_adapter_with_trained_embeddings(tmp_path: Path, tie: bool):
    from peft import PeftModel

    base = make_model_folder(tmp_path / "base", tie=tie)
    model, config, trained = _adapted(base, full=(EMBEDDINGS,))
    adapter = TrainedWeights.collect(trained.items(), config)
    export_trained(tmp_path / "adapter", base, adapter, _manifest(base, "adapter"))
    opened = PeftModel.from_pretrained(load_model(base, dtype=torch.float32), tmp_path / "adapter").eval()
    opened.config.audio_token_id = model.config.audio_token_id
    torch.testing.assert_close(_logits(opened), _logits(model), rtol=1e-3, atol=1e-4)


def test_an_overlay_is_the_base_with_what_was_trained(tmp_path: Path):
    base = make_model_folder(tmp_path / "base")
    files = WeightFiles(base)
    name = "audio_projector.net.2.weight"
    trained = {name: files.tensor(name) + 0.25}
    overlay = TrainedWeights.collect(trained.items(), {})
    export_trained(tmp_path / "checkpoint-3", base, overlay, _manifest(base, "overlay"))
    opened = load_model(tmp_path / "checkpoint-3")
    assert torch.equal(opened.state_dict()[name], trained[name])
    again = TrainedWeights.read(tmp_path / "checkpoint-3")
    report = export_merged(base, again, tmp_path / "merged", _manifest(base, "model"))
    assert report.changed == {"projector": 1}
    merged = WeightFiles(tmp_path / "merged")
    assert torch.equal(merged.tensor(name), trained[name])
    assert all(torch.equal(merged.tensor(other), files.tensor(other)) for other in files if other != name)


def test_everything_else_of_the_base_is_carried_along_byte_for_byte(tmp_path: Path):
    base = make_model_folder(tmp_path / "base")
    (base / "merges.txt").write_text("a b\n")
    (base / "LICENSE").write_text("terms\n")
    (base / "training_args.bin").write_bytes(b"\x80\x04poison")
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04poison")
    (base / "pytorch_model.bin.index.json").write_text("{}")
    _, config, trained = _adapted(base)
    export_merged(
        base, TrainedWeights.collect(trained.items(), config), tmp_path / "out", _manifest(base, "model")
    )
    carried = {path.name for path in (tmp_path / "out").iterdir()}
    expected = {path.name for path in base.iterdir() if ".bin" not in path.name} | {"mdl_toolkit.json"}
    assert carried == expected
    for name in carried - {"model.safetensors", "mdl_toolkit.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes(), name
    assert set(WeightFiles(tmp_path / "out")) >= FRONT_END_CONSTANTS


def _shard(folder: Path, parts: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        chosen = names[part::parts]
        save_file({n: tensors[n] for n in chosen}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_stay_shards(tmp_path: Path):
    single = make_model_folder(tmp_path / "single")
    sharded = make_model_folder(tmp_path / "sharded")
    _shard(sharded, 3)
    assert WeightFiles(single).fingerprint() == WeightFiles(sharded).fingerprint()
    _, config, trained = _adapted(single)
    adapter = TrainedWeights.collect(trained.items(), config)
    export_merged(single, adapter, tmp_path / "a", _manifest(single, "model"))
    export_merged(sharded, adapter, tmp_path / "b", _manifest(sharded, "model"))
    assert len(list((tmp_path / "b").glob("*.safetensors"))) == 3
    one, three = WeightFiles(tmp_path / "a"), WeightFiles(tmp_path / "b")
    assert set(one) == set(three) and all(torch.equal(one.tensor(n), three.tensor(n)) for n in one)


def test_the_result_has_the_dtypes_of_the_base(tmp_path: Path):
    base = make_model_folder(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    half = {n: t if "init_bn" in n or "front_end" in n else t.to(torch.bfloat16) for n, t in tensors.items()}
    save_file(half, base / "model.safetensors")
    _, config, trained = _adapted(base)
    adapter = TrainedWeights.collect(trained.items(), config)
    export_merged(base, adapter, tmp_path / "out", _manifest(base, "model"))
    merged, before = WeightFiles(tmp_path / "out"), WeightFiles(base)
    assert {n: merged[n].dtype for n in merged} == {n: before[n].dtype for n in before}
    name = TARGETS[0]
    expected = adapter.merged(name, before.tensor(f"{name}.weight")).to(torch.bfloat16)
    assert torch.equal(merged.tensor(f"{name}.weight"), expected)


def test_training_that_changed_nothing_in_a_part_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture):
    base = make_model_folder(tmp_path / "base")
    _, config, trained = _adapted(base)
    silent = {n: torch.zeros_like(t) if "audio_encoder" in n else t for n, t in trained.items()}
    adapter = TrainedWeights.collect(silent.items(), config)
    report = export_merged(base, adapter, tmp_path / "out", _manifest(base, "model"))
    assert report.unchanged == {"encoder": 2}
    warning = capsys.readouterr().err
    assert "changed nothing in the encoder" in warning and "projector" not in warning


def test_a_trained_tensor_without_a_place_is_an_error_and_nothing_is_written(tmp_path: Path):
    base = make_model_folder(tmp_path / "base")
    trained = TrainedWeights({}, {}, {"audio_encoder.blocks.9.attn.qkv.weight": torch.zeros(96, 32)})
    with pytest.raises(ModelError, match=r"blocks\.9.*no place"):
        export_merged(base, trained, tmp_path / "out", _manifest(base, "model"))
    with pytest.raises(ModelError, match=r"shape \[2, 2\].*\[32, 32\]"):
        export_merged(
            base,
            TrainedWeights({}, {}, {"audio_projector.net.2.weight": torch.zeros(2, 2)}),
            tmp_path / "out",
            _manifest(base, "model"),
        )
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


def test_a_full_disk_leaves_the_earlier_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import errno
    import shutil

    base = make_model_folder(tmp_path / "base")
    export_merged(base, TrainedWeights({}), tmp_path / "out", _manifest(base, "model"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(MdlError, match="out: can't be written: No space left"):
        export_merged(base, TrainedWeights({}), tmp_path / "out", _manifest(base, "model"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out"}


def test_a_merged_folder_opens_through_the_library(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    base = make_model_folder(tmp_path / "base")
    model, config, trained = _adapted(base)
    export_merged(
        base, TrainedWeights.collect(trained.items(), config), tmp_path / "out", _manifest(base, "model")
    )
    opened = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), dtype=torch.float32).eval()
    torch.testing.assert_close(_logits(opened), _logits(model), rtol=1e-3, atol=1e-4)


def test_another_base_is_refused(tmp_path: Path):
    base = make_model_folder(tmp_path / "base")
    other = make_model_folder(tmp_path / "other", seed=1)
    _, config, trained = _adapted(base)
    adapter = TrainedWeights.collect(trained.items(), config)
    export_trained(tmp_path / "adapter", base, adapter, _manifest(base, "adapter"))
    with pytest.raises(ModelError, match=r"trained on another base.*--base-model"):
        load_model(tmp_path / "adapter", base_model=other)
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"base can't be found.*--base-model"):
        load_model(tmp_path / "adapter")
    load_model(tmp_path / "adapter", base_model=tmp_path / "moved")

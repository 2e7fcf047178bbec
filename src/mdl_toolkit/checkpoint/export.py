"""Writing model folders: merged models, adapters, overlays. They appear whole or not at all.

A merged model is the base's own files with the trained tensors put in their places: layout, header, names and
every untouched byte stay the base's, so whatever loads the base loads the result. One tensor at a time is in
memory. Adapters are added to the base's full-precision weights, also after training on quantised ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from mdl_toolkit.checkpoint.adapter import AdapterWeights
from mdl_toolkit.checkpoint.folder import OVERLAY_WEIGHTS, open_folder
from mdl_toolkit.checkpoint.load import load_config
from mdl_toolkit.checkpoint.manifest import MANIFEST_NAME, ModelManifest
from mdl_toolkit.checkpoint.names import EMBEDDINGS, HEAD, is_tied, part_of
from mdl_toolkit.checkpoint.trained import read_trained
from mdl_toolkit.checkpoint.weights import INDEX_NAME, TensorInfo, WeightFiles
from mdl_toolkit.console import warn
from mdl_toolkit.errors import MdlError, ModelError, StorageError
from mdl_toolkit.files import atomic_folder, storage_cause

_SMALL = (".json", ".jinja", ".txt", ".model", ".tiktoken")
_NOT_CARRIED = frozenset({MANIFEST_NAME, "adapter_config.json", "trainer_state.json", INDEX_NAME})
_DESCRIBING = (
    "config.json", "generation_config.json", "tokenizer", "vocab", "merges", "special_tokens_map",
    "added_tokens", "chat_template", "preprocessor_config", "processor_config",
)  # fmt: skip


@dataclass
class ExportReport:
    """What a merge changed.

    Attributes:
        changed: Tensors whose bytes in the result differ from the base's, by part of the model.
        unchanged: Trained tensors whose bytes don't: training did nothing to them, or nothing that the base's
            dtype can hold.
    """

    changed: dict[str, int] = field(default_factory=dict)
    unchanged: dict[str, int] = field(default_factory=dict)


def export_merged(
    base_folder: Path,
    trained: Iterable[tuple[str, Tensor]],
    adapter: AdapterWeights | None,
    output: Path,
    manifest: ModelManifest,
) -> ExportReport:
    """Write a stand-alone model: the base with what was trained.

    Args:
        base_folder: Of the full-precision base.
        trained: Tensors that replace the base's, whole, by name.
        adapter: LoRA layers to add, and more tensors that replace the base's.
        output: The folder to make; an older one of this name is replaced when the new one is whole.
        manifest: Of kind ``model``.

    Returns:
        What really changed. Parts where nothing did are warned of.

    Raises:
        ModelError: Where a trained tensor has no place in the base.
        MdlError: Where the written files turn out not to hold what was trained.
    """
    assert manifest.kind == "model"
    base = WeightFiles(base_folder)
    places = _Places(base, tied=is_tied(load_config(base_folder)))
    adapter = adapter or AdapterWeights({})
    adapter.check("adapter")
    adapted = {places.of(f"{module}.weight", None)[0]: module for module in adapter.lora}
    report = ExportReport()
    written: set[str] = set()
    with _new_folder(output) as partial:
        for file in base.files:
            shutil.copyfile(file, partial / file.name)
        for name, tensor in _all_replacements(trained, adapter):
            for place in places.of(name, tensor):
                if place in adapted:
                    raise ModelError(f"{place} was trained in full and by an adapter")
                if place in written:  # the other name of a tied tensor
                    continue
                written.add(place)
                _put(partial, place, base[place], tensor, base.tensor(place), report)
        for place, module in adapted.items():
            weight = base.tensor(place)
            _put(partial, place, base[place], adapter.merged(module, weight), weight, report)
        carry_files(base_folder, partial, code=True)
        if (base_folder / INDEX_NAME).is_file() and len(base.files) > 1:
            shutil.copyfile(base_folder / INDEX_NAME, partial / INDEX_NAME)
        manifest.write(partial)
        _check_result(partial, base)
    _warn_of_unchanged(report)
    return report


def write_trained(folder: Path, base_folder: Path, trained: AdapterWeights, manifest: ModelManifest) -> None:
    """Fill an existing folder with what was trained, and the small files that describe its base.

    The one writer of trained tensors; :func:`~mdl_toolkit.checkpoint.trained.read_trained` reads them again.

    Args:
        folder: To write into, for example of a checkpoint that is being made.
        base_folder: Of the base; its configuration, tokenizer and template are copied.
        trained: As they are, without a change of dtype.
        manifest: Of kind ``adapter`` (PEFT's format) or ``overlay`` (tensors that replace the base's).
    """
    from safetensors.torch import save_file

    if manifest.kind == "adapter":
        trained.check("adapter")
        base = manifest.base
        name = base.path or base.name if base else str(base_folder)
        trained.write(folder, name, tied=is_tied(load_config(base_folder)))
    else:
        assert manifest.kind == "overlay" and not trained.lora
        tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in trained.full.items()}
        save_file(tensors, folder / OVERLAY_WEIGHTS, metadata={"format": "pt"})
    carry_files(base_folder, folder, code=False)
    manifest.write(folder)


def export_trained(output: Path, base_folder: Path, trained: AdapterWeights, manifest: ModelManifest) -> None:
    """:func:`write_trained` into a folder that appears whole."""
    with _new_folder(output) as partial:
        write_trained(partial, base_folder, trained, manifest)


def carry_files(base_folder: Path, target: Path, *, code: bool) -> None:
    """Copy the files beside the weights, byte for byte.

    Args:
        base_folder: Where from.
        target: Where to.
        code: True for everything that a stand-alone model needs, the publisher's ``*.py`` (never run here)
            and its licence among it; false for configuration, tokenizer and template alone.
    """
    entries = sorted(base_folder.iterdir())
    wanted = []
    for path in entries:
        if not path.is_file() or path.name in _NOT_CARRIED or path.name.startswith("."):
            continue
        small = path.suffix in _SMALL and ".bin." not in path.name
        if code:
            small = small or path.suffix == ".py" or path.name.upper().startswith("LICENSE")
        else:
            small = small and path.name.startswith(_DESCRIBING)
        wanted += [path] if small else []
    for folder in entries if code else ():
        # Packages of the publisher's code and further templates, but no folder with a model of its own.
        if folder.is_dir() and not folder.name.startswith(".") and not (folder / "config.json").exists():
            wanted += [path for path in sorted(folder.iterdir()) if path.suffix in (".py", ".jinja")]
    for path in wanted:
        copy = target / path.relative_to(base_folder)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)


class _Places:
    """Where in the base's files a tensor of the model belongs."""

    def __init__(self, base: WeightFiles, tied: bool) -> None:
        self._base, self._tied = base, tied

    def of(self, name: str, tensor: Tensor | None) -> list[str]:
        """The names in the files; of a tied tensor there may be two.

        Raises:
            ModelError: Where there is none, or one of another shape.
        """
        twins = (EMBEDDINGS, HEAD) if self._tied and name in (EMBEDDINGS, HEAD) else (name,)
        found = [twin for twin in twins if twin in self._base]
        if not found:
            raise ModelError(f"{self._base.folder}: the trained {name} has no place in this base")
        if tensor is not None:
            for place in found:
                if self._base[place].shape != tuple(tensor.shape):
                    raise ModelError(
                        f"{self._base.folder}: the trained {name} has the shape {list(tensor.shape)}, "
                        f"the base's {list(self._base[place].shape)}"
                    )
        return found


def _all_replacements(
    trained: Iterable[tuple[str, Tensor]], adapter: AdapterWeights
) -> Iterable[tuple[str, Tensor]]:
    yield from trained
    yield from adapter.full.items()


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A folder that appears whole, or an error of one line."""
    try:
        with atomic_folder(output) as partial:
            yield partial
    except Exception as error:
        if (cause := storage_cause(error)) is None:
            raise
        raise StorageError(f"{output}: can't be written: {cause}") from error


def _put(
    folder: Path, place: str, info: TensorInfo, tensor: Tensor, before: Tensor, report: ExportReport
) -> None:
    """Write a tensor over its bytes in the copied file, in the base's dtype, and read it back."""
    value = tensor.detach().to("cpu", info.dtype).contiguous()
    data = _bytes(value)
    path = folder / info.file.name
    with open(path, "r+b") as stream:
        stream.seek(info.start)
        stream.write(data)
        stream.flush()
        stream.seek(info.start)
        same = stream.read(info.bytes) == data
    if not same:
        raise MdlError(f"{path}: {place} did not arrive as it was trained; is the disk in order?")
    counts = report.unchanged if torch.equal(value, before) else report.changed
    part = part_of(place)
    counts[part] = counts.get(part, 0) + 1


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def _check_result(folder: Path, base: WeightFiles) -> None:
    written = WeightFiles(folder)
    lost = sorted(set(base) - set(written))
    other = [
        name
        for name in written
        if name in base and (written[name].shape, written[name].dtype) != (base[name].shape, base[name].dtype)
    ]
    if lost or other:
        raise MdlError(f"{folder}: the written model lacks {', '.join([*lost, *other][:4])}")
    absent = [name for name in ("config.json",) if not (folder / name).is_file()]
    if absent:
        raise MdlError(f"{folder}: the written model lacks {absent[0]}")


def _warn_of_unchanged(report: ExportReport) -> None:
    for part, count in report.unchanged.items():
        if part not in report.changed:
            warn(
                f"training has changed nothing in the {part}: all its {count} trained tensors are still the "
                "base's (too low a learning rate or too few steps for the dtype of the base's weights?)"
            )


def merge_folder(folder: Path, output: Path, base_model: str | Path | None = None) -> ExportReport:
    """Make a stand-alone model of an adapter or a training checkpoint.

    Args:
        folder: Of an adapter or overlay.
        output: The folder to make.
        base_model: Where the folder's own record of its base doesn't lead to it any more.
    """
    place = open_folder(folder, base_model)
    if place.kind == "model":
        raise ModelError(f"{folder}: a stand-alone model already")
    manifest = replace(place.manifest or ModelManifest(kind="model"), kind="model")
    return export_merged(place.base, (), read_trained(place.folder), output, manifest)

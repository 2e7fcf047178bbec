"""Writing model folders: merged models, adapters, overlays. Each appears whole or not at all.

A merged model is the base's own files with the trained tensors put in their places: layout, header, names and
every untouched byte stay the base's, so whatever loads the base loads the result (in another dtype: names and
files). One tensor at a time is in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mdl_toolkit.errors import MdlError, ModelError, StorageError
from mdl_toolkit.files import atomic_folder, storage_cause, write_json
from mdl_toolkit.model_folders.load import load_config, main_dtype
from mdl_toolkit.model_folders.manifest import MANIFEST_NAME, ModelManifest
from mdl_toolkit.model_folders.merge import FinalDtype, Merge, MergeForm, written_dtype
from mdl_toolkit.model_folders.names import is_tied, part_of
from mdl_toolkit.model_folders.rounding import Rounding
from mdl_toolkit.model_folders.tensorfiles.headers import INDEX_NAME, read_json
from mdl_toolkit.model_folders.tensorfiles.reader import TensorInfo, WeightFiles
from mdl_toolkit.model_folders.tensorfiles.writer import write_tensors
from mdl_toolkit.model_folders.trained import TrainedWeights
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

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
        changed: Number of trained tensors whose bytes differ from those that training began with, by part.
        unchanged: Number of those that don't differ: training changed nothing, or nothing that the dtype can
            hold.
        dtype: The dtype of the result: ``base``, or the name of one for all.
        stored: The dtype that most of the result's bytes have.
        rounding: What rounding to that dtype leaves of the training. Where ``auto`` chose float32 instead:
            what rounding to the base's dtype would have left.
    """

    changed: dict[str, int] = field(default_factory=dict)
    unchanged: dict[str, int] = field(default_factory=dict)
    dtype: FinalDtype = "base"
    stored: torch.dtype = torch.float32
    rounding: Rounding = field(default_factory=Rounding)

    @property
    def rounds(self) -> bool:
        """Whether the result holds other numbers than were trained."""
        return self.dtype != "float32" and self.rounding.total.rounded > 0


def export_merged(
    base_folder: Path,
    trained: TrainedWeights,
    output: Path,
    manifest: ModelManifest,
    form: MergeForm | None = None,
) -> ExportReport:
    """Write a stand-alone model: the base with what was trained.

    Args:
        base_folder: The folder of the full-precision base.
        trained: LoRA layers to add, and tensors that replace the base's.
        output: The folder to make; an older one of this name is replaced when the new one is whole.
        manifest: Its description, of kind ``model``.
        form: The dtype to write, and the weights to merge onto.

    Returns:
        What really changed, and what rounding left of it. A warning names parts in which nothing changed.

    Raises:
        ModelError: A trained tensor has no place in the base, or a number is too large for the dtype.
        MdlError: The written files turn out not to hold what was trained.
    """
    assert manifest.kind == "model"
    merge = Merge(base_folder, trained, form or MergeForm())
    base = merge.base
    dtype, rounding = merge.decide()
    report = ExportReport(dtype=dtype, rounding=rounding)
    with _new_folder(output) as partial:
        for file in base.files:
            _lay_out(base, file, partial / file.name, dtype)
        carry_files(base_folder, partial, code=True)
        if (base_folder / INDEX_NAME).is_file() and len(base.files) > 1:
            shutil.copyfile(base_folder / INDEX_NAME, partial / INDEX_NAME)
        written = WeightFiles(partial)
        for place in merge.places:
            before, after = merge.pair(place)
            value = _put(place, written[place], after)
            if merge.is_trained(place):
                same = torch.equal(value, before.to(value.dtype))
                counts = report.unchanged if same else report.changed
                counts[part_of(place)] = counts.get(part_of(place), 0) + 1
        report.stored = main_dtype(written)
        if dtype != "base":
            _describe_dtype(partial, report.stored, written)
        manifest.write(partial)
        _check_result(partial, base, dtype)
    _warn_of_unchanged(report)
    return report


def write_trained(folder: Path, base_folder: Path, trained: TrainedWeights, manifest: ModelManifest) -> None:
    """Fill an existing folder with what was trained, and the small files that describe its base.

    ``TrainedWeights.read`` reads them again.

    Args:
        folder: The folder to write into, for example of a checkpoint that is being made.
        base_folder: The base's folder; its configuration, tokenizer and template are copied.
        trained: What was trained; it is written without a change of dtype.
        manifest: The folder's description, of the kind that ``trained`` is.
    """
    assert manifest.kind == trained.kind
    trained.check("adapter")
    base = manifest.base
    name = base.path or base.name if base else str(base_folder)
    trained.write(folder, name, tied=is_tied(load_config(base_folder)))
    carry_files(base_folder, folder, code=False)
    manifest.write(folder)


def export_trained(output: Path, base_folder: Path, trained: TrainedWeights, manifest: ModelManifest) -> None:
    """:func:`write_trained` into a folder that appears whole."""
    with _new_folder(output) as partial:
        write_trained(partial, base_folder, trained, manifest)


def carry_files(base_folder: Path, target: Path, *, code: bool) -> None:
    """Copy the files beside the weights, byte for byte.

    Args:
        base_folder: The folder to copy from.
        target: The folder to copy to.
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


def _lay_out(base: WeightFiles, file: Path, copy: Path, dtype: FinalDtype) -> None:
    """A file of the base, its weights in the dtypes that they shall have; the trained ones come later."""
    kept = {name: info for name, info in base.items() if info.file == file}
    layout = {name: (written_dtype(info, name, dtype), info.shape) for name, info in kept.items()}
    if all(made == kept[name].dtype for name, (made, _) in layout.items()):
        shutil.copyfile(file, copy)
        return
    tensors = ((name, _rounded(name, base.tensor(name), made)) for name, (made, _) in layout.items())
    write_tensors(copy, layout, tensors)


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    value = tensor.detach().to("cpu", dtype).contiguous()
    if dtype == torch.float16 and bool(value.isinf().any()) and not bool(tensor.isinf().any()):
        raise ModelError(
            f"{name} has numbers that float16 can't hold: take --final-dtype bfloat16 or float32"
        )
    return value


def _put(place: str, info: TensorInfo, tensor: Tensor) -> Tensor:
    """Write a tensor over its bytes in the new file, in the dtype that it has there, and read it back."""
    value = _rounded(place, tensor, info.dtype)
    data = value.reshape(-1).view(torch.uint8).numpy().tobytes()
    with open(info.file, "r+b") as stream:
        stream.seek(info.start)
        stream.write(data)
        stream.flush()
        stream.seek(info.start)
        same = stream.read(info.bytes) == data
    if not same:
        raise MdlError(f"{info.file}: {place} did not arrive as it was trained; is the disk in order?")
    return value


def _describe_dtype(folder: Path, dtype: torch.dtype, written: WeightFiles) -> None:
    """Let configuration and index say the dtype and the size that the written weights have."""
    name = str(dtype).removeprefix("torch.")
    config = read_json(folder / "config.json")
    for section in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("torch_dtype", "dtype"):
            if key in section:
                section[key] = name
    if "dtype" not in config:
        config["torch_dtype"] = name  # the name that every version of transformers reads
    write_json(folder / "config.json", config)
    if (folder / INDEX_NAME).is_file():
        index = read_json(folder / INDEX_NAME)
        size = sum(info.bytes for info in written.values())
        index["metadata"] = {**(index.get("metadata") or {}), "total_size": size}
        write_json(folder / INDEX_NAME, index)


def _check_result(folder: Path, base: WeightFiles, dtype: FinalDtype) -> None:
    written = WeightFiles(folder)
    lost = sorted(set(base) - set(written))
    other = [
        name
        for name in written
        if name in base
        and (written[name].shape, written[name].dtype)
        != (base[name].shape, written_dtype(base[name], name, dtype))
    ]
    if lost or other:
        raise MdlError(f"{folder}: the written model lacks {', '.join([*lost, *other][:4])}")
    if not (folder / "config.json").is_file():
        raise MdlError(f"{folder}: the written model lacks config.json")


def _warn_of_unchanged(report: ExportReport) -> None:
    for part, count in report.unchanged.items():
        if part not in report.changed:
            logger.warning(
                f"training has changed nothing in the {part}: all its {count} trained tensors are still the "
                "base's (too low a learning rate or too few steps for the dtype of the base's weights?)"
            )

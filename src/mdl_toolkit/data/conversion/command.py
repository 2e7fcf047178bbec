"""``convert-dataset``, and the conversion that ``train`` makes of a CSV: once, even if several processes ask.

Nothing large is imported here before the worker processes have been started: they import while we do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_toolkit.data.conversion.pool import WorkerPool
from mdl_toolkit.data.input.records import check_table
from mdl_toolkit.data.lock import Holder, exclusive, yield_to_first_process
from mdl_toolkit.errors import DataError, MdlError, UserError
from mdl_toolkit.files import foreign_files, remove_partials
from mdl_toolkit.hub import resolve_model
from mdl_toolkit.settings import ConvertOptions, ConvertSettings
from mdl_toolkit.settings.checks import parse_shard
from mdl_toolkit.terminal.logs import get_logger

if TYPE_CHECKING:
    from mdl_toolkit.data.dataset.dataset import ClipDataset

logger = get_logger(__name__)

#: Processes started before it is known how many rows there are.
_FIRST_WORKERS = 2


def convert_dataset(settings: ConvertSettings) -> ClipDataset:
    """Convert a file of rows to a dataset folder.

    Args:
        settings: The settings of the command.

    Returns:
        The dataset, opened.

    Raises:
        UserError: The user has to change something; all bad rows are reported together.
    """
    output = Path(os.path.abspath(settings.output))
    _check_output(output)
    check_table(settings.input, settings.encoding)  # before a model is fetched
    model_folder = _model_folder(settings)
    with _pool(settings) as pool:
        from mdl_toolkit.data.conversion.request import Request
        from mdl_toolkit.data.conversion.work import Conversion
        from mdl_toolkit.data.dataset.dataset import ClipDataset

        shard = parse_shard(settings.shard) if settings.shard else None
        request = Request.of(settings.input, settings, model_folder, shard)
        with _sole_writer(output, output.name) as holder:
            _check_output(output)
            if not _is_dataset(output) or settings.overwrite:
                _refuse_strangers(output)
                remove_partials(output)
                Conversion(request, output, pool).run(_noting(holder))
            elif _complete(output, request.fingerprint):
                logger.info(f"{output}: already has this conversion; --overwrite makes it again")
            else:
                raise UserError(
                    f"--output {settings.output}: an earlier dataset is there, of other data or options; "
                    "--overwrite replaces it"
                )
    return ClipDataset.open([output], all_shards=False)


def convert_once(
    path: Path, settings: ConvertOptions, model_folder: Path, cache_dir: Path, sample: int | None = None
) -> Path:
    """Convert a file of rows unless that was done; of several processes that ask, one does it, others wait.

    Args:
        path: CSV, JSONL or Parquet.
        settings: The options of the conversion.
        model_folder: The model whose tokenizer, template and front end the rows are converted for.
        cache_dir: The folder in which converted folders are kept, named by their fingerprints.
        sample: How many rows are needed, if not all: so many are converted, at equal distances, unless all
            rows are there already.

    Returns:
        The finished folder.

    Raises:
        MdlError: The conversion failed, see :func:`convert_dataset`. Processes that waited for it get the
            same error.
    """
    from mdl_toolkit.data.conversion.request import Request
    from mdl_toolkit.data.conversion.work import Conversion

    request = Request.of(path, settings, model_folder)
    target = Path(os.path.abspath(cache_dir)) / f"{path.stem}-{request.fingerprint[:16]}"
    if _complete(target, request.fingerprint):
        return target
    if sample is not None:
        request = replace(request, sample=sample)
        target = target.with_name(f"{path.stem}-{request.fingerprint[:16]}")
        if _complete(target, request.fingerprint):
            return target
    failure = target.with_name(f".failed-{target.name}.json")
    failed_before = _read_failure(failure)
    yield_to_first_process()
    with _sole_writer(target, path.name) as holder:
        if _complete(target, request.fingerprint):
            return target
        failed = _read_failure(failure)
        if failed is not None and failed != failed_before:
            raise (DataError if failed.get("of_user") else MdlError)(str(failed["error"]))
        remove_partials(target)
        try:
            with _pool(settings) as pool:
                Conversion(request, target, pool).run(_noting(holder))
        except MdlError as error:
            _write_failure(failure, error)
            raise
        failure.unlink(missing_ok=True)
    return target


def _pool(settings: ConvertOptions) -> WorkerPool:
    """A pool with a few workers; the conversion starts more when it knows how many rows there are."""
    return WorkerPool(min(_FIRST_WORKERS, settings.num_workers))


def _model_folder(settings: ConvertOptions) -> Path:
    return resolve_model(
        settings.model_name,
        revision=settings.revision,
        from_modelscope=settings.from_modelscope,
        weights=False,
    )


def _is_dataset(path: Path) -> bool:
    from mdl_toolkit.data.dataset.manifest import MANIFEST_NAME

    return (path / MANIFEST_NAME).is_file()


def _check_output(output: Path) -> None:
    """Refuse an output that exists and isn't a dataset of this package."""
    if output.is_dir():
        if not _is_dataset(output) and any(output.iterdir()):
            raise UserError(f"--output {output}: a folder with other content is there; name another one")
    elif output.exists() or output.is_symlink():
        raise UserError(f"--output {output}: a file is there; name a folder to make")


def _refuse_strangers(output: Path) -> None:
    """Refuse to replace a dataset's folder in which there are files of somebody else."""
    from mdl_toolkit.data.dataset.manifest import FILES

    if output.is_dir() and (others := foreign_files(output, FILES)):
        raise UserError(
            f"--output {output}: {others[0]} in it is no part of a dataset and would be lost; move it "
            "elsewhere, or name another folder"
        )


def _complete(folder: Path, fingerprint: str) -> bool:
    """Whether a folder holds exactly this conversion, and its files have the sizes they were written with."""
    from mdl_toolkit.data.dataset.manifest import DatasetManifest

    try:
        manifest = DatasetManifest.read(folder)
        return manifest.fingerprint == fingerprint and all(
            (folder / name).stat().st_size == size for name, size in manifest.files.items()
        )
    except (DataError, OSError):
        return False


def _noting(holder: Holder) -> Callable[[int, int], None]:
    return lambda done, total: holder.note(done=done, total=total)


def _waiting(what: str) -> Callable[[dict[str, Any]], None]:
    def message(status: dict[str, Any]) -> None:
        who = f"process {status['pid']} on {status['host']}" if "pid" in status else "another process"
        far = f": {status['done']} of {status['total']} rows" if "done" in status else ""
        marker = f" (it holds {status['marker']})" if "marker" in status else ""
        logger.info(f"waiting for {who}, which converts {what}{far}{marker}")

    return message


def _read_failure(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and "error" in value else None


def _write_failure(path: Path, error: MdlError) -> None:
    value = {"id": uuid.uuid4().hex, "error": str(error), "of_user": isinstance(error, UserError)}
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(value), encoding="utf-8")


@contextmanager
def _sole_writer(target: Path, what: str) -> Iterator[Holder]:
    """Be the only process that writes a folder.

    Raises:
        UserError: The folder can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.with_name(f".lock-{target.name}"), _waiting(what)) as holder:
            yield holder
    except OSError as error:
        hint = (
            "; free some space or name another folder" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        )
        raise UserError(f"{target}: can't be written ({error.strerror or error}){hint}") from error

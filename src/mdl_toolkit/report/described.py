"""What is said of a run in words: its headline and its facts, from what its model's folder says of itself."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model_folders.manifest import ModelManifest
from mdl_toolkit.report.curves import RunCurves
from mdl_toolkit.report.evaluations import ScoredSet
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.options import flag, settings_fields

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
#: Scores as people write them; others as they are called.
_WRITTEN = {"wer": "WER", "cer": "CER", "map": "mAP", "f1": "F1", "cider": "CIDEr", "bleu": "BLEU"}
#: Scores that are no shares.
_NO_SHARE = frozenset({"cider", "loss"})
#: Options that have facts of their own, or say nothing of what was learned.
_PASSED_OVER = frozenset(
    {"model_name", "train_dataset", "eval_dataset", "output", "overwrite", "resume_from_checkpoint"}
)


def run_manifest(run: Path) -> ModelManifest | None:
    """What the run says of itself: in ``final/``, else in its newest checkpoint; ``None``: nowhere."""
    numbered = [(int(found[1]), path) for path in run.glob("checkpoint-*") if (found := _number(path))]
    # Of a checkpoint half written, or of a later version, there is none: an older one may do.
    folders = (run / "final", *(path for _, path in sorted(numbered, reverse=True)))
    return next((made for folder in folders if (made := _manifest(folder)) is not None), None)


def _manifest(folder: Path) -> ModelManifest | None:
    try:
        return ModelManifest.read(folder) if folder.is_dir() else None
    except ModelError:
        return None


def best_model(run: Path) -> str | None:
    """Which evaluation the model in ``best/`` was kept for; ``None`` where there is no such model."""
    manifest = _manifest(run / "best")
    kept = manifest.training.get("best") if manifest is not None else None
    if not isinstance(kept, Mapping) or not isinstance(value := kept.get("value"), (int, float)):
        return None
    return f"best/, of step {kept.get('step')}: {kept.get('metric')} {value:.4g}"


def _number(path: Path) -> re.Match[str] | None:
    return _CHECKPOINT.fullmatch(path.name)


def headline(
    manifest: ModelManifest | None, curves: RunCurves, evaluations: Sequence[ScoredSet], missing: str
) -> str:
    """What was trained on what and how good it is, in a line.

    Args:
        manifest: What the run says of itself.
        curves: What it measured.
        evaluations: Its scored answers; the first one is spoken of.
        missing: What to say where nothing at all is known.
    """
    parts = [_how_good(curves, evaluations), _what(manifest, curves)]
    return "; ".join(part for part in parts if part) or missing


def _how_good(curves: RunCurves, evaluations: Sequence[ScoredSet]) -> str:
    for one in evaluations:
        if (name := one.main_score) is not None:
            where = f" of {one.name}" if len(evaluations) > 1 or one.name != "main" else ""
            return f"{score_text(name, one.summary['scores'][name])} on {_count(one.rows, 'row')}{where}"
    if (loss := curves.last("eval_loss")) is not None:
        rows = f" on {_count(curves.eval_rows, 'row')}" if curves.eval_rows else ""
        return f"evaluation loss {loss:.4g}{rows}"
    if (loss := curves.last("loss")) is not None:
        return f"training loss {loss:.4g} after {_count(curves.step, 'step')}"
    return ""


def score_text(name: str, score: Mapping[str, float | None]) -> str:
    """A score with its interval, for people: ``accuracy 96.3 % (94.1-97.9)``."""
    value, low, high = (score.get(part) for part in ("value", "low", "high"))
    written = _WRITTEN.get(name, name.replace("_", " "))
    if value is None:
        return f"{written} not defined"
    scale, digits, unit = (1, 3, "") if name in _NO_SHARE else (100, 1, " %")
    bounds = "" if low is None or high is None else f" ({scale * low:.{digits}f}-{scale * high:.{digits}f})"
    return f"{written} {scale * value:.{digits}f}{unit}{bounds}"


def _what(manifest: ModelManifest | None, curves: RunCurves) -> str:
    if manifest is None:
        return ""
    parts = [_base_name(manifest), _method(manifest.options)]
    if rows := manifest.dataset.get("rows"):
        parts.append(_count(rows, "clip"))
    if curves.seconds:
        parts.append(_short_duration(curves.seconds))
    return ", ".join(part for part in parts if part)


def _base_name(manifest: ModelManifest) -> str:
    """The base's name; of a folder its last part alone, since where it lies is nobody's business."""
    name = manifest.base.name if manifest.base else str(manifest.options.get("model_name") or "")
    return Path(name).name if Path(name).is_absolute() else name


def _method(options: Mapping[str, Any]) -> str:
    if options.get("method") == "full":
        return "full fine-tuning"
    kind = "DoRA" if options.get("dora") else "LoRA"
    bits = f", {options['quantization']}" if options.get("quantization") else ""
    return f"{kind} {options['lora_rank']}{bits}" if "lora_rank" in options else ""


def run_facts(
    manifest: ModelManifest | None, curves: RunCurves, best: str | None = None
) -> list[tuple[str, str]]:
    """Name and value of what else is worth knowing of a run.

    Args:
        manifest: What it says of itself.
        curves: What it measured.
        best: See :func:`best_model`.
    """
    facts: list[tuple[str, str]] = []
    if manifest is not None:
        facts += _origins(manifest)
    if curves.step:
        epoch = manifest.training.get("epoch") if manifest is not None and curves.summary else None
        epochs = f", {epoch:g} epochs" if isinstance(epoch, (int, float)) else ""
        unfinished = "" if curves.summary else "; the run hasn't ended"
        facts.append(("Steps", f"{curves.step:,}{epochs}{unfinished}"))
    if curves.seconds:
        facts.append(("Duration", _short_duration(curves.seconds)))
    if isinstance(speed := curves.summary.get("train_samples_per_second"), (int, float)):
        facts.append(("Speed", f"{speed:.1f} clips/s"))
    peak = curves.summary.get("peak_memory_training") or curves.last("memory")
    if isinstance(peak, (int, float)):
        facts.append(("Peak memory", f"{peak / 2**30:.2f} GiB"))
    if isinstance(final := curves.summary.get("final_eval_loss"), (int, float)):
        facts.append(("ScoredSet loss of final/", f"{final:.4g}"))
    facts += [("Best model", best)] if best else []
    if manifest is not None:
        versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        facts.append(("Versions", versions))
    return facts


def _origins(manifest: ModelManifest) -> list[tuple[str, str]]:
    """Base, data, prompts and options of a run."""
    base, data, options = manifest.base, manifest.dataset, manifest.options
    told = [_base_name(manifest)]
    if base is not None:
        told += [f"revision {base.revision}"] if base.revision else []
        told += [f"fingerprint {base.fingerprint[:12]}"] if base.fingerprint else []
    facts = [("Base model", ", ".join(told))]
    source = data.get("source") or {}
    names = [Path(str(source["name"])).name] if source.get("name") else []
    rows = [_count(data["rows"], "clip")] if data.get("rows") else []
    digest = [f"fingerprint {str(data['fingerprint'])[:12]}"] if data.get("fingerprint") else []
    if data:
        facts.append(("Data", ", ".join([*names, *rows, *digest])))
    if evaluated := options.get("eval_dataset"):
        facts.append(("Evaluated on", ", ".join(Path(str(path)).name for path in evaluated)))
    for name, prompt in (
        ("System prompt", manifest.prompts.system_prompt),
        ("User prompt", manifest.prompts.user_prompt),
    ):
        facts += [(name, prompt)] if prompt else []
    if trained := manifest.training.get("trained_parameters"):
        facts.append(("Trained weights", f"{trained:,}"))
    return [*facts, ("Options", given_options(options) or "all by default")]


def given_options(options: Mapping[str, Any]) -> str:
    """The options of a run that differ from the defaults, as typed. Paths aren't told.

    Args:
        options: By name, as a manifest has them.
    """
    words: list[str] = []
    for f, kind in settings_fields(TrainSettings):
        if f.name not in options or f.name in _PASSED_OVER or kind.kind is Path or f.metadata["path"]:
            continue
        default = f.default_factory() if callable(f.default_factory) else f.default
        value = options[f.name]
        if value == default or value is None:
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [flag(f.name), _typed(one)]
    return shlex.join(words)


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short_duration(seconds: float) -> str:
    """A length of time in one number: ``45 s``, ``3.1 min``, ``2.4 h``."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3570 else f"{seconds / 3600:.1f} h"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

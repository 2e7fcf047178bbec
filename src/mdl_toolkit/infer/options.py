"""What the options of ``inference`` mean: how tokens are chosen, and how long answers may be."""

from __future__ import annotations

from mdl_toolkit.errors import SettingsError
from mdl_toolkit.generation.config_file import GenerationFile, decoding_of
from mdl_toolkit.generation.decoding import Decoding, in_force, shown_value
from mdl_toolkit.infer.confidence.choices import RowChoices
from mdl_toolkit.infer.prompts import AnswerLimits
from mdl_toolkit.model_folders.folder import ModelFolder
from mdl_toolkit.model_folders.manifest import ModelManifest
from mdl_toolkit.settings import InferenceSettings
from mdl_toolkit.settings.options import flag, options_where


def choose_decoding(settings: InferenceSettings, file: GenerationFile, place: ModelFolder) -> Decoding:
    """How tokens are chosen: as the options say, else the model's file, else transformers.

    Raises:
        SettingsError: Where options for sampling are given, and there is none.
        ModelError: Where the model's file holds values that transformers can't take.
    """
    ours = options_where(InferenceSettings, generation=True)
    given = {name: value for name in ours if (value := getattr(settings, name)) is not None}
    samples = given.get("do_sample", file.honoured.get("do_sample"))
    idle = [name for name in options_where(InferenceSettings, goes_with="--do-sample") if name in given]
    if settings.n_best is not None:
        beams = max(settings.n_best, given.get("num_beams") or file.honoured.get("num_beams") or 1)
        given |= {"num_beams": beams, "num_return_sequences": settings.n_best}
    if idle and not samples:
        raise SettingsError([f"{flag(name)} has an effect with --do-sample only: add it" for name in idle])
    return decoding_of(file, given, settings.seed, place)


def describe_generation(
    settings: InferenceSettings,
    file: GenerationFile,
    decoding: Decoding,
    limit: str,
    choices: RowChoices | None = None,
) -> str:
    """One line for people: what is in force, and what of it the model's file says."""
    if choices is not None:
        return f"answers: the likeliest of {choices.describe()}; generation settings have no effect"
    mode = f"sampling with seed {decoding.seed}" if decoding.samples else "greedy"
    if decoding.beams > 1:
        mode = f"{decoding.beams} beams" + (f", {mode}" if decoding.samples else "")
    force = in_force(decoding)
    by_file = {name for name in force if name in file.honoured and getattr(settings, name, None) is None}
    shown = {name: f"{name} {shown_value(value)}" for name, value in force.items()}
    own = [shown[name] for name in force if name not in {*by_file, "do_sample", "num_beams"}]
    theirs = [shown[name] for name in force if name in by_file]
    parts = [", ".join([mode, *own])]
    parts += [f"{file.path.name if file.path else ''} says {', '.join(theirs)}"] if theirs else []
    return "generation: " + "; ".join([*parts, limit])


def answer_limits(
    settings: InferenceSettings, file: GenerationFile, manifest: ModelManifest | None, context: int | None
) -> AnswerLimits:
    """The limits by options, by the model's settings, and by its record of the training."""
    longest = manifest.dataset.get("longest_answer_tokens") if manifest else None
    return AnswerLimits(
        settings.max_new_tokens,
        settings.max_length,
        file.limit("max_new_tokens"),
        file.limit("max_length"),
        longest if type(longest) is int and longest > 0 else 0,
        context,
    )

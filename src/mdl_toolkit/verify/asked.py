"""The rows of a verification, as the model is asked about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.data.audio.load import AudioLimits
from mdl_toolkit.data.input.records import BadRow, Row, read_records
from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.errors import DataError, UserError
from mdl_toolkit.generation.answer import Prompt
from mdl_toolkit.generation.config_file import end_tokens, read_generation_file
from mdl_toolkit.infer.options import answer_limits
from mdl_toolkit.infer.prompts import PromptChoice, RowReader
from mdl_toolkit.model_folders.folder import ModelFolder
from mdl_toolkit.settings import InferenceSettings, VerifySettings
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True)
class Questions:
    """What a model is asked, in all of its forms.

    Attributes:
        prompts: One for each row.
        lines: The rows' numbers in their file.
        ends: Tokens that end an answer.
        builder: Reads and writes the model's tokens.
    """

    prompts: list[Prompt]
    lines: list[int]
    ends: list[int]
    builder: PromptBuilder

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, with their special tokens."""
        return self.builder.decode(list(tokens))


def read_questions(settings: VerifySettings, place: ModelFolder) -> Questions:
    """Read rows and load their clips, as ``inference`` would.

    Raises:
        UserError: The table can't be read, or no row of it can be asked.
    """
    options = _as_inference(settings)
    builder = PromptBuilder(place.base)
    choice = PromptChoice(options, place.manifest.prompts if place.manifest else None)
    file = read_generation_file(place)
    limits = answer_limits(options, file, place.manifest, builder.max_tokens)
    reader = RowReader(builder, choice, limits, AudioLimits.of(options))
    prompts, lines = [], []
    first_problem = ""
    for row in _spread(settings.data, settings.encoding, settings.rows):
        try:
            prompts.append(reader.read(row, row.number))
        except DataError as error:
            first_problem = first_problem or f"line {row.number}: {error}"
            logger.warning(f"{settings.data} line {row.number} is left out: {error}")
            continue
        lines.append(row.number)
    if not prompts:
        raise UserError(
            f"--data {settings.data}: no row can be asked about; {first_problem or 'it has no rows'}"
        )
    return Questions(prompts, lines, end_tokens(file, builder.end_id), builder)


def _as_inference(settings: VerifySettings) -> InferenceSettings:
    shared = ("model_name", "base_dir", "encoding", "system_prompt", "user_prompt", "max_new_tokens")
    given = {name: getattr(settings, name) for name in shared}
    return InferenceSettings(input=settings.data, output=Path("unused.csv"), **given)


def _spread(source: Path, encoding: str, count: int) -> Iterator[Row]:
    """So many of a table's good rows, evenly spread over it, so that an ordered table is seen whole."""
    good = sum(not isinstance(row, BadRow) for row in read_records(source, encoding))
    wanted = {place * good // count for place in range(count)} if good > count else set(range(good))
    rows = (row for row in read_records(source, encoding) if isinstance(row, Row))
    yield from (row for place, row in enumerate(rows) if place in wanted)

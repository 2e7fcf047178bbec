"""Whatever is typed or written into a YAML file: settings, or one line per problem. Never a traceback."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdl_toolkit.errors import SettingsError
from mdl_toolkit.settings import ConvertSettings, InferenceSettings, TrainSettings, options
from mdl_toolkit.settings.checks import dataset_paths, parse_shard
from mdl_toolkit.settings.values import make_settings
from support.command_lines import flags_of

CLASSES = (ConvertSettings, TrainSettings, InferenceSettings)
FLAGS = sorted({options.flag(f.name) for c in CLASSES for f, _ in options.settings_fields(c)})
words = st.one_of(
    st.sampled_from(
        [*FLAGS, "--config", "--", "--no-merge-lora", "true", "false", "auto", "0", "-1", "1e999", "nan"]
    ),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.builds(lambda a, b: f"{a}={b}", st.sampled_from(FLAGS), st.text(max_size=6)),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(CLASSES), st.lists(words, max_size=8))
def test_any_command_line(command: type, typed: list[str]):
    try:
        flags, config = flags_of(command, typed)
        make_settings(command, flags, config)
    except SettingsError as error:
        assert error.exit_code == 2
        for problem in error.problems:
            assert problem and "\n" not in problem


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))))
def test_any_yaml(tmp_path_factory, content: bytes):
    path = Path(tmp_path_factory.getbasetemp()) / "fuzz.yaml"
    path.write_bytes(content)
    try:
        make_settings(TrainSettings, {"train_dataset": str(path), "output": "o"}, path)
    except SettingsError as error:
        assert error.problems


@given(st.text(max_size=10))
def test_shards(text: str):
    parsed = parse_shard(text)
    assert parsed is None or 1 <= parsed[0] <= parsed[1]


def test_shard_and_dataset_lists(tmp_path: Path):
    assert parse_shard("2/8") == (2, 8) and parse_shard("9/8") is None and parse_shard("0/3") is None
    comma = tmp_path / "a,b.csv"
    comma.touch()
    assert dataset_paths(str(comma)) == [comma]
    assert dataset_paths("a,b") == [Path("a"), Path("b")]

"""CSV as people have it: separators found, quotes that mean something, cells that come back as they came."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdl_toolkit.data.input.csvfile import (
    SEPARATORS,
    CsvError,
    CsvWriter,
    Quoted,
    cell_text,
    find_header,
    read_csv,
    text_cell,
)
from mdl_toolkit.data.input.records import BadRow, Row, read_layout, read_records


def _rows(tmp_path: Path, content: str, name: str = "rows.csv") -> list[Row | BadRow]:
    (tmp_path / name).write_bytes(content.encode())
    return list(read_records(tmp_path / name))


def _lines(text: str) -> io.StringIO:
    return io.StringIO(text, newline="")


@pytest.mark.parametrize("separator", SEPARATORS)
def test_the_separator_is_found(tmp_path: Path, separator: str):
    header = separator.join(("id", "audio", "prediction"))
    line = separator.join(("1", "a.wav", "zero"))
    (row,) = _rows(tmp_path, f"{header}\r\n{line}\r\n")
    assert isinstance(row, Row) and (row.audio, row.prediction, row.extra) == ("a.wav", "zero", {"id": "1"})
    assert read_layout(tmp_path / "rows.csv").separator == separator


@pytest.mark.parametrize(
    ("content", "separator", "answer"),
    [
        ("audio;prediction\na.wav;one, two, three\n", ";", "one, two, three"),
        ('"audio";"prediction"\n"a.wav";"one; two"\n', ";", "one; two"),
        ('"note, long";audio;prediction\nx;a.wav;b\n', ";", "b"),
        ("note;x,audio,prediction\ny;z,a.wav,b\n", ",", "b"),
        ('"note;\nlong","audio","prediction"\nx,a.wav,b;c\n', ",", "b;c"),
        ("\n\naudio\tprediction\na.wav\tx, y; z\n", "\t", "x, y; z"),
        ("sep=;\naudio;prediction\na.wav;b, c\n", ";", "b, c"),
        ('"sep=|"\naudio|prediction\na.wav|b;c,d\n', "|", "b;c,d"),
    ],
)
def test_separators_in_cells_do_not_mislead(tmp_path: Path, content: str, separator: str, answer: str):
    (row,) = _rows(tmp_path, content)
    assert isinstance(row, Row) and (row.audio, row.prediction) == ("a.wav", answer)
    assert read_layout(tmp_path / "rows.csv").separator == separator
    assert row.number == content[: content.rindex("a.wav")].count("\n") + 1


def test_one_column_needs_no_separator(tmp_path: Path):
    first, second = _rows(tmp_path, "audio\nmy;file\t1.wav\nb.wav,zero\n")
    assert isinstance(first, Row) and first.audio == "my;file\t1.wav"
    assert isinstance(second, BadRow) and "2 cells where the header has 1" in second.problem


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("null", None), (" null ", None), ("", None), ("   ", None), ('""', None), (' "" ', None),
        ('"null"', "null"), (' "null" ', "null"), ("Null", "Null"), ("nullable", "nullable"),
        (" hi", "hi"), ("hi ", "hi"), ('" hi"', " hi"), ('"hi "', "hi "), (' "hi, there"', "hi, there"),
        ('" "', " "), ('5" disk', '5" disk'), ("hi\u3000", "hi"), ('"a ""b"" c"', 'a "b" c'), ('""""', '"'),
    ],
)  # fmt: skip
def test_quotes_decide_what_a_cell_says(tmp_path: Path, cell: str, text: str | None):
    (row,) = _rows(tmp_path, f"audio,prediction,user_prompt\na.wav,{cell},{cell}\n")
    assert isinstance(row, Row) and (row.prediction, row.user_prompt) == (text, text)
    assert type(row.prediction) in (str, type(None))


def test_decimal_commas_of_semicolon_spreadsheets(tmp_path: Path):
    (row,) = _rows(tmp_path, "audio;start;end\na.wav;0,5;1.25\n")
    assert isinstance(row, Row) and (row.start, row.end) == (0.5, 1.25)
    (bad,) = _rows(tmp_path, 'audio,start\na.wav,"1,500"\n')
    assert isinstance(bad, BadRow) and "with a point: 1.500" in bad.problem


def test_a_cell_says_what_a_text_is():
    for text in ("null", " null", "x ", " ", "x", "", "Null", '"', "\n"):
        assert cell_text(text_cell(text)) == (text or None)
    assert not isinstance(text_cell("plain"), Quoted)


@pytest.mark.parametrize("text", ['a,"b" c\n', 'a,"b\nc', '"a"b\n', '"', 'x,"' + "y" * (1 << 20) + "z\n"])
def test_what_can_not_be_read_says_where_it_begins(text: str):
    with pytest.raises(CsvError) as caught:
        list(read_csv(_lines("first,line\n" + text), ","))
    assert caught.value.line == 2
    assert f"{Path('x.csv')} line 2" in str(caught.value.of(Path("x.csv")))


cells = st.text(
    st.one_of(
        st.sampled_from(' "\n\r,;\tnul'), st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(cells, min_size=1, max_size=4), max_size=4), st.sampled_from(SEPARATORS), st.booleans()
)
def test_it_reads_what_pythons_writer_writes(rows: list[list[str]], separator: str, every: bool):
    """By another's hand: all cells in quotes, or those that need it; cells in quotes come out exactly."""
    stream = _lines("")
    quoting: Any = csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL
    csv.writer(stream, delimiter=separator, quoting=quoting).writerows(rows)
    stream.seek(0)
    read = [cells for _, cells in read_csv(stream, separator)]
    if every:
        assert read == rows
        assert all(isinstance(cell, Quoted) for cells in read for cell in cells)
    else:
        assert [[cell.strip() for cell in row] for row in read] == [[c.strip() for c in row] for row in rows]


raw_cells = st.one_of(
    st.text(st.sampled_from(' nulxä"'), max_size=6).filter(lambda text: not text.lstrip().startswith('"')),
    cells.map(Quoted),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(raw_cells, min_size=2, max_size=4), max_size=4),
    st.sampled_from(SEPARATORS),
    st.sampled_from(SEPARATORS),
)
def test_cells_mean_the_same_after_a_round_trip(rows: list[list[str]], first: str, second: str):
    """Written with one separator, read, written with another, read again: nothing has changed its meaning."""
    meant = [[cell_text(cell) for cell in row] for row in rows]
    for separator in (first, second):
        stream = _lines("")
        writer = CsvWriter(stream, separator)
        for row in rows:
            writer.writerow(row)
        stream.seek(0)
        rows = [cells for _, cells in read_csv(stream, separator)]
        assert [[cell_text(cell) for cell in row] for row in rows] == meant


def test_no_table_is_written_that_is_not_read_again(tmp_path: Path):
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = CsvWriter(stream)
        writer.writerow(["audio", "prediction"])
        writer.writerow(["a.wav", "a\0b"])
    (row,) = list(read_records(tmp_path / "rows.csv"))
    assert isinstance(row, Row)
    assert row.cells == ("a.wav", "a\ufffdb")


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('a ,;"\n\r'), max_size=40))
def test_a_line_by_line_walk_agrees_with_pythons_reader(text: str):
    """Where both read it, and no blank stands beside a separator, they read the same."""
    if any(pair in text for pair in (' "', '" ', " ,", ", ", " \n", " \r", "\n ", "\r ")) or text[:1] == " ":
        return
    try:
        expected = [row for row in csv.reader(_lines(text), strict=True) if row]
        read = [cells for _, cells in read_csv(_lines(text), ",")]
    except (csv.Error, CsvError):
        return
    assert read == expected


def test_a_header_is_found_among_its_own_quotes():
    assert find_header(_lines('"a;b";"audio"\n'))[::2] == (";", ["a;b", "audio"])
    assert find_header(_lines("Audio;text, long\n"))[0] == ";"
    with pytest.raises(CsvError):
        find_header(_lines('"open\n'))

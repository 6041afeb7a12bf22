"""Rows from files: every kind reads alike, and what cannot be read is refused with the place and the reason."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from ftx import DataError, RowError
from ftx_sources.files import READERS, Files

TABLE = [
    {"instruction": "Say hello.", "output": 'Hello, "friend"!'},
    {"instruction": "请介绍一下你自己。", "output": "我是一个小助手，很高兴认识你。"},
    {"instruction": "", "output": "é ß 😀 <|im_end|>"},
    {"instruction": "7 + 5?", "output": "12"},
]


def write_json(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n", "utf-8")


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_xlsx(path: Path, rows: list[dict[str, str]]) -> None:
    cells(path, [list(rows[0]), *(list(row.values()) for row in rows)])


def cells(path: Path, table: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    for line, row in enumerate(table, 1):
        for column, value in enumerate(row, 1):
            book.active.cell(line, column).value = value
    book.save(path)
    return path


def read(path: Path) -> list[tuple[int, Any]]:
    found = list(Files(path=str(path)).records())
    assert {record.file for record in found} == {str(path)}
    return [(record.line, record.value) for record in found]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    (sentence,) = caught.value.problems
    assert sentence.startswith(str(path))
    return sentence


def broken_row(path: Path) -> tuple[int, str]:
    """Line and reason of the one row that is broken by itself; the others are read."""
    ((line, error),) = [(line, value) for line, value in read(path) if isinstance(value, RowError)]
    return line, error.reason


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("ending", "write", "first"),
    [
        ("json", write_json, 2),
        ("jsonl", write_jsonl, 1),
        ("csv", write_csv, 2),
        ("tsv", write_csv, 2),
        ("parquet", write_parquet, 1),
        ("xlsx", write_xlsx, 2),
        ("JSONL", write_jsonl, 1),
        ("json", write_jsonl, 1),  # JSON lines under the other ending, as many tools write them
    ],
)
def test_every_kind_yields_the_same_rows(
    ending: str, write: Callable[[Path, list[dict[str, str]]], None], first: int, tmp_path: Path
) -> None:
    path = tmp_path / f"rows.{ending}"
    write(path, TABLE)
    assert read(path) == list(enumerate(TABLE, first))


def test_text_yields_one_row_a_paragraph(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.txt", "\n\nfirst line\r\nsecond line\r\n \r\n\r\n第二段\n\nlast")
    assert read(path) == [
        (3, {"text": "first line\nsecond line"}),
        (7, {"text": "第二段"}),
        (9, {"text": "last"}),
    ]


def test_a_kind_per_ending_is_covered_here() -> None:
    assert set(READERS) == {".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx", ".txt"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_array_tells_the_line_each_row_begins_on(end: str, tmp_path: Path) -> None:
    text = '\n[{"a":\n 1},\n\n\n {"b": 2}, {"c":\n\n 3}\n]\n\n'
    path = put(tmp_path / "rows.json", text.replace("\n", end))
    assert read(path) == [(2, {"a": 1}), (6, {"b": 2}), (6, {"c": 3})]


def test_blank_lines_count_but_are_no_rows(tmp_path: Path) -> None:
    lines = put(tmp_path / "rows.jsonl", '\n{"a": 1}\r\n\r\n   \n{"a": 2}')
    assert read(lines) == [(2, {"a": 1}), (5, {"a": 2})]
    table = put(tmp_path / "rows.csv", "a,b\r\n1,2\r\n\r\n3,4\r\n")
    assert read(table) == [(2, {"a": "1", "b": "2"}), (4, {"a": "3", "b": "4"})]


def test_unicode_line_separators_inside_a_json_line_do_not_split_it(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.jsonl", '{"a": "x\u2028y\u0085z\x0b"}\n'.replace("\x0b", "\\u000b"))
    assert read(path) == [(1, {"a": "x\u2028y\u0085z\x0b"})]


def test_a_csv_row_over_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.csv", 'a,b\n"one\ntwo\nthree",x\nlast,y\n')
    assert read(path) == [(2, {"a": "one\ntwo\nthree", "b": "x"}), (5, {"a": "last", "b": "y"})]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_long_text_fits_into_one_cell(ending: str, tmp_path: Path) -> None:
    """Python's csv gives up at 128 KiB a cell unless told otherwise."""
    path = tmp_path / f"rows.{ending}"
    write_csv(path, [{"text": "word " * 50_000}])
    assert read(path) == [(2, {"text": "word " * 50_000})]


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "tsv", "txt"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_utf8_with_a_mark_and_gb18030_read_as_plain_utf8_does(encoding: str, ending: str, tmp_path: Path) -> None:
    content = {
        "json": '[{"text": "请介绍一下你自己。"}]',
        "jsonl": '{"text": "请介绍一下你自己。"}',
        "csv": "text\n请介绍一下你自己。\n",
        "tsv": "text\n请介绍一下你自己。\n",
        "txt": "请介绍一下你自己。",
    }[ending]
    path = put(tmp_path / f"rows.{ending}", content.encode(encoding))
    ((_, value),) = read(path)
    assert value == {"text": "请介绍一下你自己。"}


def test_gb18030_keeps_characters_outside_gbk(tmp_path: Path) -> None:
    text = "深圳龘𠮷😀"
    assert read(put(tmp_path / "rows.txt", text.encode("gb18030"))) == [(1, {"text": text})]


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "txt"])
def test_a_file_in_no_known_encoding_is_refused_naming_the_byte(ending: str, tmp_path: Path) -> None:
    sentence = refusal(put(tmp_path / f"rows.{ending}", b'["abcdef\xff"]'))
    assert "neither UTF-8 nor GB18030" in sentence
    assert "byte 8" in sentence


def test_damaged_utf8_is_refused_naming_its_own_bad_byte(tmp_path: Path) -> None:
    raw = ("请介绍一下你自己。我是一个小助手，很高兴认识你。" * 8).encode()
    damaged = raw[:101] + b"A" + raw[102:]  # the last byte of the character that begins at 99
    sentence = refusal(put(tmp_path / "rows.txt", damaged))
    assert "UTF-8" in sentence
    assert "byte 99" in sentence


def test_utf8_with_a_foreign_word_is_refused_and_not_read_as_other_chinese(tmp_path: Path) -> None:
    """All its bytes are GB18030 too, as of nearly any file: read so, every character would be another."""
    raw = ("你好" * 20).encode() + "世界".encode("gb18030") + ("你好" * 20).encode()
    assert raw.decode("gb18030")
    assert "byte 120" in refusal(put(tmp_path / "rows.txt", raw))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_byte_named_is_counted_in_the_file(mark: bytes, tmp_path: Path) -> None:
    raw = mark + ("你" * 20).encode() + b"\xa0"  # a byte that also ends each of the characters before it
    assert f"byte {len(raw) - 1} " in refusal(put(tmp_path / "rows.txt", raw))


def test_cut_off_utf8_is_refused_and_not_read_as_other_chinese(tmp_path: Path) -> None:
    raw = ("请介绍一下你自己。我是一个小助手，很高兴认识你。" * 8).encode()
    assert "UTF-8" in refusal(put(tmp_path / "rows.txt", raw[:-2]))


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "tsv", "txt"])
@pytest.mark.parametrize("content", [b"a\x00b", '{"a": "b"}'.encode("utf-16")])
def test_nul_bytes_are_refused(content: bytes, ending: str, tmp_path: Path) -> None:
    assert "holds NUL bytes (UTF-16? save it as UTF-8)" in refusal(put(tmp_path / f"rows.{ending}", content))


ENDINGS = ["json", "jsonl", "csv", "tsv", "parquet", "xlsx", "txt"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_missing_file_is_refused(ending: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / f"rows.{ending}").endswith("does not exist")
    assert refusal(tmp_path / "no" / "folder" / f"rows.{ending}").endswith("does not exist")


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_file_is_refused(ending: str, tmp_path: Path) -> None:
    assert refusal(put(tmp_path / f"rows.{ending}", b"")).endswith("is empty")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_without_files_is_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    path.mkdir()
    assert "is a folder without data files" in refusal(path)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "file", b"x")
    assert "Not a directory" in refusal(tmp_path / "file" / "rows.jsonl")


def test_a_link_that_leads_nowhere_or_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing.jsonl")
    assert refusal(tmp_path / "gone.jsonl").endswith("does not exist")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    assert "cannot be opened" in refusal(tmp_path / "loop.jsonl")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    """Root may read all, so the file is read by a process that has given root up."""
    tmp_path.chmod(0o755)
    for name, mode in (("open.jsonl", 0o644), ("shut.jsonl", 0)):
        put(tmp_path / name, '{"a": 1}').chmod(mode)
    program = (
        "import os\n"
        "from ftx import DataError\n"
        "from ftx_sources.files import Files\n"
        "warm = list(Files(path='open.jsonl').records())  # loads codecs from where only root may look\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "print([r.value for r in Files(path='open.jsonl').records()])\n"
        "for ask in (lambda f: list(f.records()), lambda f: f.fingerprint()):\n"
        "    try: ask(Files(path='shut.jsonl'))\n"
        "    except DataError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    refused = "shut.jsonl cannot be opened: Permission denied"
    assert done.stdout.splitlines() == ["[{'a': 1}]", refused, refused], done.stderr


@pytest.mark.parametrize("name", ["rows.yaml", "rows", "rows.yaml.gz", ".jsonl"])
def test_an_unknown_ending_is_refused_naming_the_known(name: str, tmp_path: Path) -> None:
    sentence = refusal(put(tmp_path / name, b"x"))
    assert f"ends in '{Path(name).suffix}'" in sentence
    assert all(known in sentence for known in READERS)


@pytest.mark.parametrize(
    ("name", "content", "line", "column"),
    [
        ("missing_comma.json", '[\n {"a": 1}\n {"a": 2}\n]', 3, 2),
        ("trailing.json", '[\n {"a": 1}\n] []', 3, 3),
        ("cut_in_string.json", '[\n {"a": 1},\n {"a": "b', 3, 8),
        ("cut_after_comma.json", '[\n {"a": 1},\n', 3, 1),
        ("cut_after_row.json", '[\n {"a": 1}\n', 3, 1),
        ("cut_at_once.json", "[", 1, 2),
        ("bare_word.json", '[{"a": 1},\n  nope]', 2, 3),
        ("single_quotes.json", "[\n\n {'a': 1}]", 3, 3),
        ("tab_in_string.json", '[\n{"a": "x\ty"}]', 2, 9),
        ("trailing_comma.json", '[\n{"a": 1},\n]', 3, 1),
        ("windows_ends.json", '[\r\n {"a": 1}\r\n {"a": 2}\r\n]', 3, 2),
    ],
)
def test_a_broken_array_is_refused_with_line_and_column(
    name: str, content: str, line: int, column: int, tmp_path: Path
) -> None:
    sentence = refusal(put(tmp_path / name, content))
    assert sentence.startswith(f"{tmp_path / name}: line {line}, column {column}: broken JSON: ")


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [
        ('{"a": 1}\n\n{"a": 2\n{"a": 3}', 3, 8),
        ('{"a": 1} {"a": 2}', 1, 10),
        ('{"a": 1}\nhello\n', 2, 1),
        ('{"a": 1}\n{', 2, 2),
        ('{"a": ' + "[" * 200_000, 1, 1),
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_broken_line_is_a_broken_row(content: str, line: int, column: int, ending: str, tmp_path: Path) -> None:
    at, reason = broken_row(put(tmp_path / f"rows.{ending}", content))
    assert at == line
    assert reason.startswith(f"column {column}: broken JSON: ")


def test_a_number_too_long_for_python_is_a_broken_row(tmp_path: Path) -> None:
    line, reason = broken_row(put(tmp_path / "rows.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}\n"))
    assert (line, reason[:12]) == (2, "broken JSON:")


def test_an_array_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    assert "line 1, column 2: broken JSON: nested too deeply" in refusal(
        put(tmp_path / "rows.json", '[{"a": ' + "[" * 200_000)
    )


def test_a_long_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    rows = [{"a": "x" * (i % 7 * 5000), "n": i} for i in range(400)]
    for indent in (None, 1):
        path = put(tmp_path / "rows.json", json.dumps(rows, indent=indent))
        assert [value for _, value in read(path)] == rows


def test_one_object_over_many_lines_is_one_row(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}]}
    assert read(put(tmp_path / "rows.json", json.dumps(row, indent=1))) == [(1, row)]


def test_rows_inside_an_object_are_pointed_at(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.json", json.dumps({"data": [{"a": 1}]}, indent=1))
    assert refusal(path) == f"{path} holds one object, with the rows under 'data': save that list by itself"


@pytest.mark.parametrize("packing", ["gz", "zst"])
@pytest.mark.parametrize(("ending", "write"), [("json", write_json), ("jsonl", write_jsonl), ("csv", write_csv)])
def test_packed_files_read_as_plain_ones(packing: str, ending: str, write: Any, tmp_path: Path) -> None:
    plain, packed = tmp_path / f"rows.{ending}", tmp_path / f"rows.{ending}.{packing}"
    write(plain, TABLE)
    packed.write_bytes(pack(plain.read_bytes(), packing))
    assert read(packed) == read(plain)
    packed.write_bytes(packed.read_bytes()[:-9])
    assert "is no whole" in refusal(packed)
    packed.write_bytes(b"nothing of the kind")
    assert "is no whole" in refusal(packed)


def pack(content: bytes, packing: str) -> bytes:
    codec = {"gz": "gzip", "zst": "zstd"}[packing]
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, codec) as out:
        out.write(content)
    return bytes(sink.getvalue().to_pybytes())


def test_a_packed_table_is_refused(tmp_path: Path) -> None:
    for ending in ("parquet", "xlsx"):
        assert "is packed already" in refusal(put(tmp_path / f"rows.{ending}.gz", b"x"))


def test_a_folder_stands_for_its_data_files(tmp_path: Path) -> None:
    (tmp_path / "data" / "b").mkdir(parents=True)
    (tmp_path / "data" / ".hidden").mkdir()
    for name in ("b/2.jsonl", "1.jsonl", ".hidden/3.jsonl", "notes.md"):
        put(tmp_path / "data" / name, f'{{"n": "{name}"}}\n')
    found = list(Files(path=str(tmp_path / "data")).records())
    assert [record.value["n"] for record in found] == ["1.jsonl", "b/2.jsonl"]
    assert found[1].file == str(tmp_path / "data" / "b" / "2.jsonl")
    matched = Files(path=str(tmp_path / "data" / "**" / "*.jsonl"))
    assert [record.value["n"] for record in matched.records()] == ["1.jsonl", "b/2.jsonl"]
    assert matched.fingerprint() != Files(path=str(tmp_path / "data" / "1.jsonl")).fingerprint()
    with pytest.raises(DataError, match="no file matches"):
        list(Files(path=str(tmp_path / "*.csv")).records())


@pytest.mark.parametrize(("ending", "given"), [(None, '{"a": "b"}\n'), (None, '[{"a": "b"}]'), ("csv", "a\nb\n")])
def test_standard_input_is_read_more_than_once(ending: str | None, given: str) -> None:
    program = (
        "from ftx_sources.files import Files\n"
        f"source = Files(path='-', ending={ending!r})\n"
        "print(list(source.records()) == list(source.records()))\n"
        "print([r.value for r in source.records()], len(source.fingerprint()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, input=given)
    assert done.stdout.splitlines() == ["True", "[{'a': 'b'}] 64"], done.stderr


@pytest.mark.parametrize("ending", ["csv", "xlsx"])
def test_two_columns_of_one_name_are_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    if ending == "csv":
        put(path, "q,a,q\n1,2,3\n")
    else:
        cells(path, [["q", "a", "q"], ["1", "2", "3"]])
    assert refusal(path) == f"{path}: two columns are called 'q'; rename one"


def test_a_formula_without_a_saved_value_is_a_broken_row(tmp_path: Path) -> None:
    path = cells(tmp_path / "rows.xlsx", [["q", "a"], ["x", "y"], ["1", "=1+1"], ["z", "w"]])
    assert broken_row(path) == (3, "cell B3 holds a formula without a saved value")


def test_cells_merged_over_rows_are_broken_rows(tmp_path: Path) -> None:
    path = cells(tmp_path / "rows.xlsx", [["q", "a"], ["x", "y"], ["", "z"], ["v", "w"]])
    book = openpyxl.load_workbook(path)
    book.active.merge_cells("A2:A3")
    book.save(path)
    assert broken_row(path) == (3, "its cells A2:A3 are merged with the row above")
    assert [value for line, value in read(path) if line != 3] == [{"q": "x", "a": "y"}, {"q": "v", "a": "w"}]


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("row", [["x"], ["x", "y", "z"]])
def test_a_row_with_too_few_or_many_cells_is_broken(
    row: list[str], ending: str, delimiter: str, tmp_path: Path
) -> None:
    lines = [["a", "b"], ["1", "2"], row, ["3", "4"]]
    path = put(tmp_path / f"rows.{ending}", "\n".join(delimiter.join(line) for line in lines))
    assert broken_row(path) == (3, f"the row has {len(row)} cells, the header 2")


def test_a_quote_that_never_closes_is_refused(tmp_path: Path) -> None:
    assert "broken CSV" in refusal(put(tmp_path / "rows.csv", 'a,b\n1,"2\n3,4\n'))


def test_commas_quotes_and_line_ends_in_cells_survive(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.csv", 'a,b\r\n"1,""2""\r\n3",\r\n')
    ((_, value),) = read(path)
    assert value == {"a": '1,"2"\r\n3', "b": ""}


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
def test_a_cut_off_parquet_file_is_refused(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, TABLE)
    raw = path.read_bytes()
    assert "is no whole Parquet file" in refusal(put(path, raw[: int(len(raw) * keep)]))


def test_a_parquet_file_with_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, TABLE)
    raw = bytearray(path.read_bytes())
    raw[4:40] = b"\xff" * 36
    assert "is no whole Parquet file" in refusal(put(path, bytes(raw)))


def test_parquet_keeps_nested_rows(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]}
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, row]), path)
    assert read(path) == [(1, row), (2, row)]


def test_parquet_counts_rows_over_its_groups(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"text": str(i)} for i in range(25)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=10)
    assert read(path) == list(enumerate(rows, 1))


@pytest.mark.parametrize("content", [b"not a zip", b"PK\x03\x04 and no more", b"PK\x05\x06" + bytes(18)])
def test_an_xlsx_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    assert "is no whole XLSX file" in refusal(put(tmp_path / "rows.xlsx", content))


def test_a_cut_off_xlsx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    write_xlsx(path, TABLE)
    assert "is no whole XLSX file" in refusal(put(path, path.read_bytes()[:-200]))


@pytest.mark.parametrize("sheet", [b"<worksheet><sheetData><row", b"", b"\x00\x01"])
def test_an_xlsx_with_a_damaged_sheet_is_refused(sheet: bytes, tmp_path: Path) -> None:
    import zipfile

    whole = tmp_path / "whole.xlsx"
    write_xlsx(whole, TABLE)
    path = tmp_path / "rows.xlsx"
    with zipfile.ZipFile(whole) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            after.writestr(name, sheet if name == "xl/worksheets/sheet1.xml" else before.read(name))
    assert "is no whole XLSX file" in refusal(path)


def test_an_xlsx_with_a_damaged_stream_is_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "rows.xlsx"
    write_xlsx(path, TABLE)
    with zipfile.ZipFile(path) as book:
        sheet = book.getinfo("xl/worksheets/sheet1.xml")
    raw = bytearray(path.read_bytes())
    begins = sheet.header_offset + 30 + len(sheet.filename)
    raw[begins : begins + sheet.compress_size] = b"\xff" * sheet.compress_size
    assert "is no whole XLSX file" in refusal(put(path, bytes(raw)))


def test_an_xlsx_without_a_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    book = openpyxl.Workbook()
    book.create_chartsheet("chart")
    book.remove(book.worksheets[0])
    book.save(path)
    assert refusal(path)


def test_xlsx_skips_empty_lines_and_counts_them(tmp_path: Path) -> None:
    path = cells(tmp_path / "rows.xlsx", [["a", "b"], ["1", "2"], [], [None, None], ["3", None], [None, "4"]])
    assert read(path) == [(2, {"a": "1", "b": "2"}), (5, {"a": "3", "b": ""}), (6, {"a": "", "b": "4"})]


def test_xlsx_cells_become_text(tmp_path: Path) -> None:
    import datetime

    day = datetime.datetime(2024, 5, 1)
    path = cells(tmp_path / "rows.xlsx", [["a", "b", "c", "d"], [7, 2.5, True, day], [0, -1, "x", False]])
    assert read(path) == [
        (2, {"a": "7", "b": "2.5", "c": "True", "d": "2024-05-01 00:00:00"}),
        (3, {"a": "0", "b": "-1", "c": "x", "d": "False"}),
    ]


def test_xlsx_ignores_columns_without_a_name(tmp_path: Path) -> None:
    path = cells(tmp_path / "rows.xlsx", [[" a ", None, "b"], ["1", "note", "2"], ["3", None, "4", "beyond"]])
    assert read(path) == [(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": "4"})]


def test_xlsx_reads_the_first_sheet(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    book = openpyxl.Workbook()
    book.active.append(["a"])
    book.active.append(["1"])
    book.create_sheet("other").append(["never"])
    book.save(path)
    assert read(path) == [(2, {"a": "1"})]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", "[]"),
        ("rows.json", " \n[\n]\n"),
        ("rows.json", "\n \n"),
        ("rows.jsonl", "\n\n  \n"),
        ("rows.csv", "a,b\n"),
        ("rows.tsv", "a\tb\n\n"),
        ("rows.txt", " \n\n\t\n"),
    ],
)
def test_a_file_without_rows_is_refused(name: str, content: str, tmp_path: Path) -> None:
    assert refusal(put(tmp_path / name, content)).endswith("holds no rows")


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    parquet = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.string())}), parquet)
    assert refusal(parquet).endswith("holds no rows")
    assert refusal(cells(tmp_path / "blank.xlsx", [])).endswith("holds no rows")
    assert refusal(cells(tmp_path / "head.xlsx", [["a", "b"]])).endswith("holds no rows")


def test_the_fingerprint_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = put(tmp_path / "rows.jsonl", '{"a": "你"}\n')
    same = put(tmp_path / "same.jsonl", '{"a": "你"}\n')
    assert Files(path=str(path)).fingerprint() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert Files(path=str(same)).fingerprint() == Files(path=str(path)).fingerprint()


@pytest.mark.parametrize("broken", [b"", None])
def test_a_file_that_cannot_be_read_has_no_fingerprint(broken: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    if broken is not None:
        put(path, broken)
    with pytest.raises(DataError, match=r"is empty|does not exist"):
        Files(path=str(path)).fingerprint()

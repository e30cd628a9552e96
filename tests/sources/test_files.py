"""How files become a relation: what the first line of a CSV says, and what is told of a broken one."""

import gzip

import pytest

from pipelines.errors import ConfigError, DataError
from pipelines.sources.files import files_relation
from pipelines.sources.mapping import TableMapping
from pipelines.stores.sql import open_duckdb


def read(folder, **mapping):
    with open_duckdb() as connection:
        relation = files_relation(connection, folder / "mapping.yaml", "items", TableMapping(**mapping))
        rows = connection.execute(f"SELECT * FROM ({relation.query}) ORDER BY headrace_file, headrace_row").fetchall()
    return relation.columns, [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("text", "columns", "row"),
    [
        ("a,b\n1,2\n", ["a", "b"], ("1", "2")),
        ("a;b\n1;2,5\n", ["a", "b"], ("1", "2,5")),
        ("a\tb\n1\t2\n", ["a", "b"], ("1", "2")),
        ("a|b\n1|2\n", ["a", "b"], ("1", "2")),
        ('"a, b",c\n"1\n2","say ""no"""\n', ["a, b", "c"], ("1\n2", 'say "no"')),
        ("a,A,\n1,2,3\n", ["a", "A_1", "column2"], ("1", "2", "3")),
        ("a\n1\n", ["a"], ("1",)),
        ("\ufeffa,b\r\n1,2\r\n", ["a", "b"], ("1", "2")),
        ("a,b\n007,1e5\n", ["a", "b"], ("007", "1e5")),
    ],
    ids=["commas", "semicolons", "tabs", "bars", "quotes", "same and no name", "one column", "BOM", "numbers are text"],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
def test_the_first_line_names_the_columns(tmp_path, text, columns, row, compressed):
    name = "items.csv.gz" if compressed else "items.csv"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    found, rows = read(tmp_path, files=name)
    assert found == dict.fromkeys(columns, "VARCHAR")
    assert rows == [(*row, 1, name)]


def test_options_of_the_reader_are_passed_on(tmp_path):
    (tmp_path / "items.csv").write_bytes("a/b\nM\xfcller/'x/y'\n".encode("latin-1"))
    _, rows = read(tmp_path, files="items.csv", options={"delim": "/", "quote": "'", "encoding": "latin-1"})
    assert rows == [("Müller", "x/y", 1, "items.csv")]


def test_file_without_names_is_read_as_the_options_say(tmp_path):
    (tmp_path / "items.csv").write_text("1,2\n3,4\n")
    found, rows = read(tmp_path, files="items.csv", options={"header": False})
    assert list(found) == ["column0", "column1"]
    assert len(rows) == 2


def test_a_broken_row_is_named_but_not_told(tmp_path):
    (tmp_path / "items.csv").write_text("a,b\n1,2\nann@shop.example,2,3\n")
    with pytest.raises(Exception, match=r"CSV Error") as failure:
        read(tmp_path, files="items.csv")
    from pipelines.sources.files import one_line

    told = one_line(failure.value)
    assert told == (
        f"Invalid Input Error: CSV Error on Line: 3 Expected Number of Columns: 2 Found: 3 ({tmp_path / 'items.csv'})."
    )


@pytest.mark.parametrize("line", [2, 3, 5])
def test_a_broken_line_of_json_is_counted_from_one(tmp_path, line):
    lines = ['{"a": 1}'] * 6
    lines[line - 1] = "rubbish"
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"items\.jsonl.* in line {line}:"):
        read(tmp_path, files="items.jsonl")


def test_files_of_one_table_may_differ_in_columns_and_types(tmp_path):
    (tmp_path / "1.jsonl").write_text('{"a": 1, "b": {"c": 2}}\n')
    (tmp_path / "2.jsonl").write_text('{"a": "x"}\n{"a": null, "d": [1]}\n')
    found, rows = read(tmp_path, files=("1.jsonl", "2.jsonl"))
    assert found == {"a": "VARCHAR", "b": "JSON", "d": "JSON"}
    assert rows == [
        ("1", '{"c":2}', 1, "1.jsonl", None),
        ("x", None, 1, "2.jsonl", None),
        (None, None, 2, "2.jsonl", "[1]"),
    ]


def test_query_makes_rows_of_rows(tmp_path):
    (tmp_path / "1.csv").write_text("sku,price\na,1\nb,2\na,3\n")
    sql = "SELECT sku, max(CAST(price AS DOUBLE)) AS top FROM files GROUP BY sku ORDER BY sku; -- the best price"
    _, rows = read(tmp_path, files="1.csv", query=sql.replace("; --", " --"))
    assert rows == [("a", 3.0, 1, "1.csv"), ("b", 2.0, 2, "1.csv")]


def test_query_may_pass_on_where_its_rows_are_from(tmp_path):
    (tmp_path / "1.csv").write_text("sku\na\nb\n")
    _, rows = read(tmp_path, files="1.csv", query="SELECT * FROM files WHERE sku = 'b'")
    assert rows == [("b", 2, "1.csv")]


@pytest.mark.parametrize("name", ["headrace_row", "headrace_file", "Headrace_Left_Out"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_column_with_a_name_of_ours_is_refused(tmp_path, name, suffix):
    file = tmp_path / f"items.{suffix}"
    with open_duckdb() as connection:
        form = {"csv": "csv, HEADER", "jsonl": "json", "parquet": "parquet"}[suffix]
        connection.execute(f"COPY (SELECT 1 AS a, 7 AS {name}) TO '{file}' (FORMAT {form})")
    with pytest.raises(ConfigError, match=rf"`items.files`: a column is called `{name}`.*rename it"):
        read(tmp_path, files=file.name)

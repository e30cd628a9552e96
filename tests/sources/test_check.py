"""What `headrace source check` says of a shop's files, right and wrong."""

import json

import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from pipelines.commands.check_source import run_check
from pipelines.config import HeadraceConfig
from pipelines.errors import ConfigError
from pipelines.sources.check import check_mapping
from pipelines.stores.sql import open_duckdb
from tests.toys.catalogue import MAPPING, NOW, write_csv


def check(mapping, config=None):
    with open_duckdb() as connection:
        return check_mapping(connection, mapping, until=NOW, config=config or HeadraceConfig())


def remapped(tmp_path, *changes):
    mapping = write_csv(tmp_path)
    text = MAPPING
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    mapping.write_text(text)
    return mapping


def column(found, table, name):
    (table,) = [checked for checked in found.tables if checked.table == table]
    return next(checked for checked in table.columns if checked.column == name)


def test_it_tells_which_column_became_what(tmp_path):
    found = check(write_csv(tmp_path))
    assert found.problems == ()
    assert [(table.table, table.found, table.rows_sampled) for table in found.tables] == [
        ("items", "items.csv", 60),
        ("events", "sales.csv", 1_500),
        ("users", "customers.csv", 30),
    ]
    price = column(found, "items", "price")
    assert (price.origin, price.type, price.given, price.unreadable) == ("column `eur`", "VARCHAR", 1.0, 0.0)
    assert column(found, "items", "currency").origin == "constant `EUR`"
    assert column(found, "items", "available").origin == "default: true"
    assert column(found, "items", "description").origin == "absent"
    assert column(found, "events", "query").note == "search learns from titles only"


def test_rows_are_shown_in_contract_form_without_user_ids(tmp_path):
    _, events, users = check(write_csv(tmp_path)).tables
    assert len(events.sample) == len(users.sample) == 5
    assert (events.sample[0]["item_id"], events.sample[0]["value"]) == ("item-00", 1.0)
    assert {row["user_id"] for row in events.sample + users.sample} == {"(becomes a pseudonym)"}


def test_every_problem_is_told_not_only_the_first(tmp_path):
    mapping = remapped(
        tmp_path,
        ("title: name", "title: nam"),
        ("category: group", "category: gruop"),
        ("files: sales.csv", "files: nothing.csv"),
        ("users:", "customers: {}\nusers:\n  colums: {}"),
    )
    found = check(mapping)
    assert [problem.split(": ", 1)[1][:40] for problem in found.problems] == [
        "`customers` is not a table, did you mean",
        "`users.colums` is not known, did you mea",
        "`items.columns.title`: items.csv has no ",
        "`items.columns.category`: items.csv has ",
        "`events.files`: nothing matches nothing.",
    ]


def test_column_that_cannot_be_read_is_a_problem(tmp_path):
    found = check(remapped(tmp_path, ("price: eur", "price: name")))
    assert column(found, "items", "price").unreadable == 1.0
    (problem,) = found.problems
    assert "`price` (column `name`) cannot be read as a number in 100.0% of 60 sampled rows" in problem


def test_needed_column_that_is_mostly_empty_is_a_problem(tmp_path):
    mapping = write_csv(tmp_path)
    lines = (tmp_path / "items.csv").read_text().splitlines()
    lines[1:4] = [",".join(["", *line.split(",")[1:]]) for line in lines[1:4]]
    (tmp_path / "items.csv").write_text("\n".join(lines))
    assert check(mapping).problems == ()  # 3 of 60 rows are the 5 % that are allowed
    lines[4] = ",".join(["", *lines[4].split(",")[1:]])
    (tmp_path / "items.csv").write_text("\n".join(lines))
    (problem,) = check(mapping).problems
    assert "`item_id` (column `sku`) is needed and missing in 6.7% of 60 sampled rows" in problem


def test_rules_and_words_are_counted_on_the_sample(tmp_path):
    mapping = remapped(
        tmp_path,
        ("files: items.csv", "files: items.csv\n  reject: {the kitchen closed: aisle = '1'}"),
        ("files: sales.csv", "files: sales.csv\n  leave_out: {the first till: 'receipt = ''receipt-00-00'''}"),
    )
    sales = tmp_path / "sales.csv"
    sales.write_bytes(sales.read_bytes().replace(b",purchase,", b",Order,", 40).replace(b",purchase,", b",gift,", 2))
    items, events, _ = check(mapping).tables
    assert items.notes == ("rejected: the kitchen closed, 10 of the sampled rows",)
    assert events.notes[0] == "left out: the first till, 3 of the first 10,000 rows"
    assert [note for note in events.notes if "Order" in note or "gift" in note] == [
        "the event type `Order` (37 rows) is purchase",
        "the event type `gift` (2 rows) is no event type: its rows are set aside; give it in preparation.event_types",
    ]


def test_columns_that_nothing_speaks_of_are_named(tmp_path):
    items = check(remapped(tmp_path, ("brand: maker,", ""), ("[aisle]", "[]"))).tables[0]
    assert items.notes == ("not used: maker, aisle",)


def test_missing_arrival_is_explained(tmp_path):
    events = check(remapped(tmp_path, ("    created_timestamp: at\n", ""))).tables[1]
    assert events.arrival == (
        "no arrival column (`created_timestamp` is not mapped): read whole each time, what is known is left out"
    )


def test_command_prints_it_and_writes_nothing(tmp_path, monkeypatch):
    mapping = write_csv(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(cli, ["source", "check", str(mapping)])
    assert done.exit_code == 0
    assert "No problem found." in done.output
    assert "column `eur`" in done.output
    assert "customer 0" not in done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_command_exits_1_with_a_sentence_a_problem(tmp_path):
    mapping = remapped(tmp_path, ("title: name", "title: nam"), ("value: paid", "value: payed"))
    done = CliRunner().invoke(cli, ["source", "check", str(mapping)])
    assert done.exit_code == 1
    assert sum(line.startswith("Problem: ") for line in done.output.splitlines()) == 2


def test_json_is_one_object(tmp_path):
    done = CliRunner().invoke(cli, ["source", "check", str(write_csv(tmp_path)), "--json"])
    found = json.loads(done.output)
    assert found["problems"] == []
    assert found["tables"][0]["columns"][0]["column"] == "item_id"


@pytest.mark.slow
def test_the_embedded_source_is_checked_where_no_file_is_named(monkeypatch):
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    found = run_check(None)
    assert found.source == "completejourney"
    assert found.problems == ()
    assert {table.table for table in found.tables} == {"items", "events", "users"}


def test_settings_without_a_mapping_file_are_refused(tmp_path, monkeypatch):
    (tmp_path / "settings.yaml").write_text("source: {kind: tables}")
    monkeypatch.setenv("HEADRACE_CONFIG", str(tmp_path / "settings.yaml"))
    with pytest.raises(ConfigError, match=r"headrace source check mapping\.yaml"):
        run_check(None)

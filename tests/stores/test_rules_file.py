"""The file of business rules: what is read, and what is refused with which words."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.stores.rules_file import read_rules


def write(folder, text: str):
    path = folder / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_rules_are_read(tmp_path):
    book = read_rules(
        write(
            tmp_path,
            """
rules:
  - id: summer
    when: {calls: [recommend], starts: 2026-06-01, ends: 2026-09-01T00:00:00+02:00, context: {page: home}}
    items: {categories: [Fruit], max_price: 5}
    boost: 1.5
  - {id: two-a-brand, cap: {per: brand, most: 2}}
""",
        )
    )
    first, second = book.rules
    assert (first.id, first.action, first.boost, second.action) == ("summer", "boost", 1.5, "cap")
    assert first.when.starts == datetime(2026, 6, 1, tzinfo=UTC)
    assert first.items.max_price == 5


def test_an_empty_file_has_no_rules(tmp_path):
    assert read_rules(write(tmp_path, "# later\n")).rules == ()
    assert read_rules(write(tmp_path, "rules: []\n")).rules == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("rules: [", "are not valid YAML", id="no YAML"),
        pytest.param("- a\n", "hold list: write `rules:` and a list", id="a list"),
        pytest.param("rule: []", "the file: `rule` is not known .known: rules.", id="misspelt at the top"),
        pytest.param("rules: [5]", "rule number 1: .*valid dictionary", id="no mapping"),
        pytest.param("rules: [{boost: 2}]", "rule number 1: `id`: Field required", id="no id"),
        pytest.param("rules: [{id: a b, boost: 2}]", "rule 'a b': `id`: ", id="white space in an id"),
        pytest.param("rules: [{id: a}]", "rule 'a': a rule needs exactly one action of boost.*, found none", id="none"),
        pytest.param("rules: [{id: a, boost: 2, bury: true}]", "rule 'a': .*found boost and bury", id="two actions"),
        pytest.param("rules: [{id: a, bury: false}]", "rule 'a': `bury`: Input should be True", id="not buried"),
        pytest.param("rules: [{id: a, boost: 0}]", "rule 'a': `boost`: .*greater than 0 .found '0'", id="zero"),
        pytest.param("rules: [{id: a, boost: .inf}]", "rule 'a': `boost`: .*finite", id="infinite"),
        pytest.param("rules: [{id: a, pin: 1}]", "rule 'a': a pin needs `items.item_ids`", id="a pin of nothing"),
        pytest.param("rules: [{id: a, cap: {per: color, most: 1}}]", "rule 'a': `cap.per`: .*'brand' or", id="cap"),
        pytest.param("rules: [{id: a, cap: {per: brand, most: 0}}]", "rule 'a': `cap.most`: .*equal to 1", id="cap 0"),
        pytest.param(
            "rules: [{id: a, bost: 2}]", "rule 'a': `bost` is not known .known: id, when, items", id="misspelt"
        ),
        pytest.param(
            "rules: [{id: a, bury: true, items: {color: red}}]",
            "rule 'a': `items.color` is not known .known: categories",
            id="misspelt inside",
        ),
        pytest.param(
            "rules: [{id: a, bury: true, when: {starts: 2026-06-01T00:00:00}}]",
            "`when.starts`: .*timezone",
            id="no zone",
        ),
        pytest.param(
            "rules: [{id: a, bury: true, when: {starts: 2026-06-02, ends: 2026-06-01}}]",
            "rule 'a': `when.ends` must be later",
            id="over before it starts",
        ),
        pytest.param("rules: [{id: a, bury: true}, {id: a, boost: 2}]", "id 'a' is given to two rules", id="twice"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, text, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_rules(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_or_huge_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"do not exist: write the file, or leave `serving.rules_file` out"):
        read_rules(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="at most 1,048,576 are read"):
        read_rules(write(tmp_path, "#" * (2**20 + 1)))


def test_the_example_of_the_documentation_is_a_valid_file():
    docs = Path(__file__).parents[2] / "docs"
    book = read_rules(docs / "ordering-rules.yaml")
    assert sorted(rule.action for rule in book.rules) == ["boost", "bury", "cap", "exclude", "pin"]
    shown = (docs / "ordering.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    assert (docs / "ordering-rules.yaml").read_text(encoding="utf-8").endswith(shown)

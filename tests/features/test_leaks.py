import numpy as np
import pytest

from pipelines.features.leaks import ColumnCheck, check_histories, check_numbers, leak_in, separation

NAN = float("nan")
SIZES = np.array([1, 1, 3, 3])


@pytest.mark.parametrize(
    ("values", "label", "area"),
    [
        pytest.param([1, 2, 3, 4], [0, 0, 1, 1], 1.0, id="tells all"),
        pytest.param([4, 3, 2, 1], [0, 0, 1, 1], 1.0, id="tells all, the other way round"),
        pytest.param([1, 1, 1, 1], [0, 0, 1, 1], 0.5, id="says nothing"),
        pytest.param([1, 3, 2, 4], [0, 0, 1, 1], 0.75, id="three of four pairs"),
        pytest.param([1, 2, 2, 4], [0, 0, 1, 1], 0.875, id="a tie counts half"),
        pytest.param([NAN, NAN, 0, 0], [0, 0, 1, 1], 1.0, id="unknown is below all"),
        pytest.param([1, 2, 3, 4], [1, 1, 1, 1], 0.5, id="one class"),
    ],
)
def test_separation_is_the_area_under_the_roc_curve(values, label, area):
    assert separation(np.array(values, float), np.array(label, bool)) == area


def test_a_number_from_before_the_basket_is_no_leak():
    before, after = np.array([5.0, 5.0, 5.0, NAN]), np.array([6.0, 6.0, 8.0, 9.0])

    assert check_numbers(before, before, after, SIZES) == ColumnCheck(0.75, 1.0, changed=4, later=0)


def test_a_number_from_after_the_basket_is_counted():
    before, after = np.array([5.0, 5.0, 5.0, NAN]), np.array([6.0, 5.0, 8.0, 3.0])
    trained = np.array([6.0, 5.0, 5.0, 3.0])

    check = check_numbers(trained, before, after, SIZES)

    assert (check.changed, check.later) == (3, 2)


def history(*items: str) -> tuple[list[str], list[str], list[int]]:
    return list(items), ["purchase"] * len(items), list(range(len(items)))


def test_a_history_that_ends_with_the_basket_knew_it():
    before, after = [history("a"), history("b")], [history("a", "x", "y"), history("b", "z")]
    baskets = [frozenset("xy"), frozenset("z")]

    honest = check_histories(before, before, after, baskets)
    leaking = check_histories([before[0], after[1]], before, after, baskets)

    assert honest == ColumnCheck(association=0.0, association_after=1.0, changed=2, later=0)
    assert leaking == ColumnCheck(association=0.5, association_after=1.0, changed=2, later=1)


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        pytest.param(ColumnCheck(0.6, 0.7, changed=1000, later=10), "", id="a tiny share may be chance"),
        pytest.param(
            ColumnCheck(0.6, 0.7, changed=1000, later=11), "`spend` holds in 11 of 1,000 rows the value", id="later"
        ),
        pytest.param(ColumnCheck(0.95, 1.0, changed=0, later=0), "", id="just believable"),
        pytest.param(
            ColumnCheck(0.951, 1.0, changed=0, later=0), "`spend` alone tells the label in 500 rows", id="too good"
        ),
    ],
)
def test_what_counts_as_a_leak(check, sentence):
    found = leak_in("spend", check, rows=500, max_association=0.95, max_later_share=0.01)

    assert found.startswith(sentence) and bool(found) == bool(sentence)

"""The gain of one ranking over another and its standard error, worked out by hand."""

import numpy as np
import pytest

from pipelines.evaluation.paired_gain import mean_of_parts, paired_gain

NAN = float("nan")


def gain(differences, users):
    own = np.array(differences, np.float64)
    return paired_gain(own, np.where(np.isnan(own), NAN, 0.0), np.array(users))


def test_mean_of_parts_weighs_parts_alike():
    assert mean_of_parts(np.array([[1.0, NAN, NAN], [0.0, 0.5, 1.0]])) == pytest.approx(0.75)
    assert mean_of_parts(np.array([[NAN, NAN], [0.2, 0.4]])) == pytest.approx(0.3)
    assert mean_of_parts(np.full((2, 3), NAN)) == 0.0


def test_with_one_row_a_user_the_standard_error_is_the_ordinary_one():
    differences = np.array([0.3, -0.1, 0.0, 0.2])
    found = gain([differences], list("abcd"))
    assert found.mean == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(differences.std(ddof=1) / 2)
    assert found.is_clear


def test_rows_of_one_user_are_no_more_evidence_than_one():
    once, twice = gain([[0.3, -0.1]], ["a", "b"]), gain([[0.3, -0.1] * 5], ["a", "b"] * 5)
    assert twice.mean == pytest.approx(once.mean)
    assert twice.standard_error == pytest.approx(once.standard_error)
    assert gain([[0.3, -0.1] * 5], range(10)).standard_error < once.standard_error / 2


def test_a_row_that_counts_in_two_parts_is_one_row():
    differences = [0.3, -0.1, 0.0, 0.2]
    one, two = gain([differences], range(4)), gain([differences, differences], range(4))
    assert two.standard_error == pytest.approx(one.standard_error)


@pytest.mark.parametrize(
    ("differences", "is_clear"),
    [
        pytest.param([0.3, -0.2, 0.0], False, id="within the error"),
        pytest.param([0.3, 0.2, 0.1], True, id="every user gains"),
        pytest.param([-0.3, -0.2, -0.1], False, id="every user loses"),
        pytest.param([0.0, 0.0, 0.0], False, id="nothing changes"),
        pytest.param([0.3, NAN, NAN], False, id="one user alone"),
        pytest.param([NAN, NAN, NAN], False, id="nobody"),
    ],
)
def test_a_gain_is_clear_where_it_is_more_than_its_error(differences, is_clear):
    assert gain([differences, [NAN] * 3], range(3)).is_clear is is_clear

import pytest

from pipelines.evaluation.skew import compare_features

NAN = float("nan")


@pytest.mark.parametrize(
    ("served", "offline", "different"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.0], (), id="equal"),
        pytest.param([1.0, 2.0], [1.0, 2.1], (1,), id="different"),
        pytest.param([1e6], [1e6 + 0.5], (), id="within the tolerance of large numbers"),
        pytest.param([1e-9], [2e-9], (0,), id="small numbers differ as much as large ones"),
        pytest.param([0.0, 0.0], [0.0, 1e-12], (1,), id="zero is zero"),
        pytest.param([None, None, 0.0], [None, 0.0, None], (1, 2), id="null equals null only"),
        pytest.param([["a"], ["a", "b"]], [["a"], ["b", "a"]], (1,), id="lists in their order"),
        pytest.param([[], []], [[], ["a"]], (1,), id="an empty list"),
        pytest.param([], [], (), id="nothing"),
    ],
)
def test_what_counts_as_skew(served, offline, different):
    skew = compare_features({"x": served}, {"x": offline}, tolerance=1e-6)["x"]

    assert skew.different == different
    assert skew.rate == (len(different) / len(served) if served else 0)

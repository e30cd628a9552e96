"""Words of titles and queries."""

import pytest

from pipelines.retrieval.words import compounds, one_error_away, tokens_of, words_of


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("The Chips and a Dip", ["chip", "dip"], id="stop words and case"),
        pytest.param("berries boxes chips glass cactus", ["berry", "box", "chip", "glass", "cactus"], id="plurals"),
        pytest.param("7 oz x", ["7", "oz"], id="digits count, single letters do not"),
        pytest.param("the of", [], id="nothing left"),
    ],
)
def test_tokens(text, tokens):
    assert tokens_of(text) == tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("12x6 register", ["12", "x", "6", "register"], id="letters and digits part"),
        pytest.param("12 in. x 6 in. Registers", ["12", "x", "6", "register"], id="the same, spelt out"),
        pytest.param("2 gallons, 3 lbs, 5 feet", ["2", "gal", "3", "lb", "5", "ft"], id="measures"),
        pytest.param("snake_case Größe", ["snake", "case", "größe"], id="underscores part, letters of any script stay"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


def test_neighboring_words_are_joined_where_the_compound_is_known():
    assert compounds(["old", "door", "bell", "5"], {"doorbell", "bell5", "olddoor bell"}) == ["doorbell"]


def test_errors_of_one_letter():
    assert set(one_error_away("ab", "ac")) == {
        *("b", "a"),  # one too many
        "ba",  # swapped
        *("ab", "cb", "aa", "ac"),  # wrong, or right after all
        *("aab", "cab", "aab", "acb", "aba", "abc"),  # one missing
    }

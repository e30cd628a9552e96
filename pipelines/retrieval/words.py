"""Words of titles and queries, and what else a typed word may mean."""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

_TOKEN = re.compile(r"(?u)\b\w\w+\b|\b\d\b")
_RUN = re.compile(r"\d+|[^\W\d_]+")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)
"""Lucene's English stop words."""
_MEASURES = {
    **dict.fromkeys(("inch", "inches"), "in"),
    **dict.fromkeys(("foot", "feet"), "ft"),
    **dict.fromkeys(("pound", "pounds", "lbs"), "lb"),
    **dict.fromkeys(("gallon", "gallons"), "gal"),
    **dict.fromkeys(("ounce", "ounces"), "oz"),
    **dict.fromkeys(("yard", "yards"), "yd"),
    **dict.fromkeys(("quart", "quarts"), "qt"),
}
"""Measures that some write out and others shorten."""


def tokens_of(text: str) -> list[str]:
    """Split a text into lower-case words without stop words and without plural endings."""
    return [_singular(token) for token in _TOKEN.findall(text.lower()) if token not in _STOP_WORDS]


def words_of(text: str) -> list[str]:
    """Split a text into runs of letters and of digits: "12x6" and "12 in. x 6 in." give the same.

    Measures are shortened, stop words left out, plurals folded.
    """
    runs = (_MEASURES.get(run, run) for run in _RUN.findall(text.lower()))
    return [_singular(run) for run in runs if run not in _STOP_WORDS]


def _singular(token: str) -> str:
    """Fold English plurals, so that "chip" finds "chips".

    Source: the S stemmer of Harman, How effective is suffixing? (1991); here "es" goes after a hissing sound.
    """
    if len(token) < 4:
        return token
    if token.endswith("ies") and not token.endswith(("eies", "aies")):
        return token[:-3] + "y"
    if token.endswith(("ches", "shes", "sses", "xes", "zes")):
        return token[:-2]
    if token.endswith("es") and not token.endswith(("aes", "ees", "oes")):
        return token[:-1]
    if token.endswith("s") and not token.endswith(("us", "ss")):
        return token[:-1]
    return token


def compounds(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the neighboring words that are also written as one: "door bell" gives "doorbell" if that is known."""
    joined = (left + right for left, right in pairwise(words) if left.isalpha() and right.isalpha())
    return [word for word in joined if word in known]


def one_error_away(word: str, letters: str) -> Iterator[str]:
    """Yield what was meant if one letter is missing, too many, wrong, or two are swapped; with repetitions.

    Source: https://norvig.com/spell-correct.html, edits1.
    """
    for at in range(len(word) + 1):
        before, after = word[:at], word[at:]
        if after:
            yield before + after[1:]
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]
        for letter in letters:
            yield before + letter + after
            if after:
                yield before + letter + after[1:]

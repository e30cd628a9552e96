"""The script a text is written in: what can be said of its language without a model of languages.

It tells Russian from English and Chinese from both, but not English from German: those share a script.
"""

import unicodedata
from collections import Counter

_MERGED = {"CJK": "han", "HIRAGANA": "kana", "KATAKANA": "kana"}
NO_SCRIPT = "no letters"


def script_of(text: str) -> str:
    """Return the script of most letters, such as `latin`, `cyrillic`, `han`; `NO_SCRIPT` where there is no letter."""
    if text.isascii():
        return "latin" if any(map(str.isalpha, text)) else NO_SCRIPT
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else NO_SCRIPT


def _script(letter: str) -> str:
    word = unicodedata.name(letter, "UNKNOWN").split("-")[0].split()[0]
    return _MERGED.get(word, word.lower())

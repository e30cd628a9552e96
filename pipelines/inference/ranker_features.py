"""What the rankers read of a candidate, by name, in the order of their inputs.

`pipelines.ranking` computes them; a bundle is opened only if its rankers were trained on these.
"""

from collections.abc import Sequence

from pipelines.features.on_demand import CANDIDATE_FEATURES
from pipelines.retrieval.trends import TREND_FEATURES

OF_GENERATOR: tuple[str, ...] = ("relative", "strength", "rank", "recent", "newest")
"""What each generator says of a candidate."""
OF_PAIR: tuple[str, ...] = (
    "times_touched",
    "days_since_touched",
    "touched",
    "recent_touches",
    "touched_share",
    "overdue",
)
"""What is known of a user and a candidate, from the whole history."""
OF_USER: tuple[str, ...] = ("history_length", "days_since_newest", "hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
"""What is the same for all candidates of a request."""
SEARCH_FEATURES: tuple[str, ...] = (
    "cosine",
    "cosine_behind_best",
    "cosine_of_best",
    "dense_place",
    "lexical_of_best",
    "lexical_of_possible",
    "lexical_best",
    "lexical_place",
    "words_found",
    "idf_found",
    "rarest_missing",
    "first_word_found",
    "last_word_found",
    "numbers_found",
    "numbers",
    "neighbors_kept",
    "first_place_found",
    "ends_with_query_word",
    "title_idf_found",
    "title_words",
    "query_words",
    "unknown_words",
    "near_best_dense",
    "near_best_lexical",
    "near_best_fused",
)
"""What the ranker of search reads."""


def ranker_features(generators: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the ranker's features in the order of their columns.

    For each generator: `relative` (to the best item of this user), `strength` (ln(1 + 100 · score)), `rank`
    (1 / log2(2 + place among the candidates)), `recent` (newer events count more, relative), `newest` (only the
    events of the newest moment count, relative), and `best` (the strength of the user's best item: how much the
    generator knows of this user).
    """
    return (
        *(f"{name}.{part}" for name in generators for part in OF_GENERATOR),
        *(f"{name}.best" for name in generators),
        *TREND_FEATURES,
        *CANDIDATE_FEATURES,
        *OF_PAIR,
        *OF_USER,
    )

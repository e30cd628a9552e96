"""Golden queries: searches whose answers are known, asked of the packaged bundle as the service asks it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from pipelines.config import ServingConfig
from pipelines.errors import ConfigError
from pipelines.evaluation.ranked import top_items
from pipelines.inference.bundle import Bundle
from pipelines.ranking.answers import search
from pipelines.retrieval.dense import dense_scores
from pipelines.schemas import Finding

GOLDEN_TITLES, GOLDEN_VECTORS = "golden.titles", "golden.titles_by_vectors"
"""Share of the titles that find their item among the first ten: by search, and by vectors alone."""
_K = 10


class GoldenQuery(BaseModel):
    """One query, and what must be among the first `k` answers: any of the items, or an item of the category."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str = Field(min_length=1)
    items: tuple[str, ...] = ()
    category: str | None = None
    k: int = Field(default=_K, ge=1, le=100)

    @model_validator(mode="after")
    def _wants_something(self) -> "GoldenQuery":
        if not self.items and self.category is None:
            raise ValueError("`items` or `category` must say what is to be found")
        return self


def read_golden_queries(path: Path) -> list[GoldenQuery]:
    """Read a list of golden queries from YAML or JSON.

    Raises:
        ConfigError: the file is missing, or is not such a list.
    """
    try:
        return TypeAdapter(list[GoldenQuery]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(
            f"`evaluation.golden_queries` names {path}, which is not there: mend the path, or set it to null."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {str(error).splitlines()[0]}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            f"{path}: {where}: {first['msg']} (found {str(first['input'])[:80]!r}); a list of mappings with `query` "
            "and `items` or `category` is needed."
        ) from None


def ask_golden_queries(bundle: Bundle, golden: Sequence[GoldenQuery], serving: ServingConfig) -> list[Finding]:
    """Ask each query and say what was found."""
    return [_ask(bundle, wanted, serving) for wanted in golden]


def _ask(bundle: Bundle, wanted: GoldenQuery, serving: ServingConfig) -> Finding:
    rows = search(bundle, wanted.query, k=wanted.k, now_s=0.0, serving=serving).rows
    items = [bundle.item_ids[row] for row in rows]
    categories = bundle.items["category"].take(rows).to_pylist() if wanted.category is not None else []
    found = any(item in wanted.items for item in items) or (wanted.category in categories if categories else False)
    sought = [f"item {', '.join(wanted.items)}"] if wanted.items else []
    sought += [f"category {wanted.category}"] if wanted.category is not None else []
    place = f"{'among' if found else 'not among'} the first {wanted.k}"
    words = f"golden query {wanted.query!r}: {' or '.join(sought)} is {place}"
    if not found:
        words += f" (first: {', '.join(bundle.titles[row] for row in rows[:3]) or 'nothing'})"
    return Finding(name=f"golden query {wanted.query}", passed=found, words=words)


def golden_titles(bundle: Bundle, item_ids: Sequence[str], popularity: np.ndarray, most: int) -> list[str]:
    """Return distinct titles of the most popular items that the bundle has available.

    Args:
        popularity: float `(n_items,)` of `item_ids`.
    """
    rows = bundle.rows_of(item_ids)
    titles: dict[str, None] = {}
    for place in np.argsort(-popularity, kind="stable"):
        row = rows[place]
        if row >= 0 and bundle.available[row]:
            titles.setdefault(bundle.titles[row])
        if len(titles) >= most:
            break
    return list(titles)


def titles_found(bundle: Bundle, titles: Sequence[str], serving: ServingConfig) -> dict[str, float]:
    """Return the share of titles that find an item of that title, by search and by vectors alone.

    BM25 finds a title by its words, however bad the encoder is: only the second number notices an encoder that does
    not fit the item vectors. Titles that the bundle does not have do not count.
    """
    known = set(bundle.titles)
    asked = [title for title in titles if title in known]
    if not asked:
        return {}
    scores = dense_scores(bundle.encode_queries(asked), bundle.item_vectors)
    scores[:, ~bundle.available] = -np.inf
    scores[~np.isfinite(scores)] = -np.inf
    by_vectors = top_items(scores, _K)
    found = [search(bundle, title, k=_K, now_s=0.0, serving=serving).rows for title in asked]
    return {
        GOLDEN_TITLES: float(np.mean([_has(bundle, rows, title) for rows, title in zip(found, asked, strict=True)])),
        GOLDEN_VECTORS: float(
            np.mean([_has(bundle, rows, title) for rows, title in zip(by_vectors, asked, strict=True)])
        ),
    }


def _has(bundle: Bundle, rows: np.ndarray, title: str) -> bool:
    return any(bundle.titles[row] == title for row in rows if row >= 0)

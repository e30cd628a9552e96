"""What a search loses when a smaller tower reads the items: all of them, or a tenth that has just arrived.

The tower learns from nine tenths of the catalogue. The others stand for items that come in while the service runs: it
reads them, the full model has read the rest. Queries are those of the full model, products are exact, so that nothing
but the vectors of the items differs.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from pipelines.benchmarks.records import BenchmarkRecord
from pipelines.compression.measurement import HeldOutQueries, exact_first, quality, share_kept
from pipelines.compression.study import Study, build_variants
from pipelines.compression.variants import Variant
from pipelines.inference.text_encoder import TextEncoder, open_text_tower

READ_BY = "items by "
"""How the cases begin."""
ALL, ARRIVED, ASKED_FOR = "all", "a tenth new", "a tenth new, queries for them"
_ARRIVED_SHARE = 0.1
_SEED = 14
_SAMPLES = 1_000
_TIMED_ITEMS, _ROUNDS = 1_000, 3
_TOGETHER = 32
"""Items that the service reads together."""
Record = Callable[..., BenchmarkRecord]


def build_item_towers(study: Study, variants: Sequence[Variant], work: Path) -> dict[str, Path]:
    """Build towers that learn from nine tenths of the items, where `work` has none; return their folders by name."""
    seen = np.setdiff1d(np.arange(len(study.item_texts)), _arrived(study))
    return build_variants(study, variants, work, cache(lambda: study.item_lessons(seen)))


def item_tower_records(study: Study, folders: Mapping[str, Path], record: Record) -> Iterator[BenchmarkRecord]:
    """Yield what each tower keeps of a search when it reads items, how fast it is, and its size.

    Args:
        folders: What `build_item_towers` gave.
        record: Takes `case`, `metric`, `value`, `unit`, and `low` and `high` where there is an interval.
    """
    arrived = _arrived(study)
    towers = {name: open_text_tower(folder, study.full.max_tokens) for name, folder in folders.items()}
    speeds = items_per_s(towers, [study.item_texts[row] for row in arrived[:_TIMED_ITEMS]])
    for name, tower in towers.items():
        vectors = tower.encode(study.item_texts)
        cosines = (vectors * study.text_vectors).sum(axis=1)
        for kind, (own, reference, overlap) in kept_by_kind(study, vectors, arrived).items():
            case = f"{READ_BY}{name}, {kind}"
            kept, low, high = share_kept(own, reference, samples=_SAMPLES, seed=study.seed)
            yield record(case, "ndcg_kept", kept, "share", low=low, high=high)
            yield record(case, "recall@10", overlap, "share")
            yield record(case, "cosine", float((cosines if kind == ALL else cosines[arrived]).mean()), "")
            yield record(case, "items_per_s", speeds[name], "items/s")
            yield record(case, "size_mib", _size_mib(folders[name]), "MiB")
        study.progress.update("towers of items measured", 1, 1, name)


def items_per_s(towers: Mapping[str, TextEncoder], texts: Sequence[str]) -> dict[str, float]:
    """Return the items that each tower reads in a second of one thread's CPU time; the best of turns."""
    by_length = sorted(texts, key=len)
    best = dict.fromkeys(towers, 0.0)
    for _ in range(_ROUNDS):
        for name, tower in towers.items():
            began = time.process_time()
            for start in range(0, len(texts), _TOGETHER):
                tower.encode(by_length[start : start + _TOGETHER])
            best[name] = max(best[name], len(texts) / max(time.process_time() - began, 1e-9))
    return best


def _arrived(study: Study) -> np.ndarray:
    """Return the rows of the items that arrive, rising, int64."""
    n = len(study.item_texts)
    drawn = np.random.default_rng([study.seed, _SEED]).permutation(n)
    return np.sort(drawn[: max(1, round(_ARRIVED_SHARE * n))])


def kept_by_kind(
    study: Study, vectors: np.ndarray, arrived: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Return NDCG@10 of each query, that of the full model, and the mean share of its ten that are found, by kind."""
    queries = study.vectors_of(study.queries.queries, "held-out queries")
    wanted = exact_first(queries, study.item_vectors)
    reference = quality(wanted, study.queries, wanted)
    some = study.item_vectors.copy()
    some[arrived] = vectors[arrived]
    own = {
        kind: quality(exact_first(queries, items), study.queries, wanted)
        for kind, items in ((ALL, vectors), (ARRIVED, some))
    }
    kept = {kind: (found.ndcg, reference.ndcg, float(found.overlap.mean())) for kind, found in own.items()}
    asked = _asking_for(study.queries, arrived)
    part = own[ARRIVED]
    if len(asked):
        kept[ASKED_FOR] = part.ndcg[asked], reference.ndcg[asked], float(part.overlap[asked].mean())
    return kept


def _asking_for(queries: HeldOutQueries, rows: np.ndarray) -> np.ndarray:
    """Return the places of the queries that one of these items answers."""
    return np.array(
        [
            place
            for place, (items, gains) in enumerate(zip(queries.items, queries.gains, strict=True))
            if np.isin(items[gains > 0], rows).any()
        ],
        np.int64,
    )


def _size_mib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20

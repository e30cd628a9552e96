"""Which variant is served: the Pareto front, and the fastest one on it that is good enough."""

from collections.abc import Sequence

from pipelines.schemas import MeasuredVariant


def pareto_front(variants: Sequence[MeasuredVariant]) -> list[MeasuredVariant]:
    """Return those that no other one beats in both speed and quality, the fastest first."""
    front: list[MeasuredVariant] = []
    for variant in sorted(variants, key=lambda one: (one.encode_ms, -one.ndcg_kept)):
        if not front or variant.ndcg_kept > front[-1].ndcg_kept:
            front.append(variant)
    return front


def choose_variant(variants: Sequence[MeasuredVariant], min_ndcg_kept: float) -> MeasuredVariant:
    """Return the fastest that keeps so much of the full model's NDCG@10; the best one where none does."""
    good = [variant for variant in variants if variant.ndcg_kept >= min_ndcg_kept]
    if good:
        return min(good, key=lambda one: one.encode_ms)
    return max(variants, key=lambda one: one.ndcg_kept)

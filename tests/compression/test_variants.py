"""Names of query towers, and which of them the policy picks."""

import pytest

from pipelines.compression.policy import choose_variant, pareto_front
from pipelines.compression.variants import Variant, parse_variant
from pipelines.errors import ConfigError
from pipelines.schemas import MeasuredVariant


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("static", Variant("static")),
        ("2-layer  int8", Variant("2-layer int8", 2, "int8")),
        ("6-layer float16", Variant("6-layer float16", 6, "float16")),
        ("3-layer int8 domain vocabulary", Variant("3-layer int8 domain vocabulary", 3, "int8", True)),
    ],
)
def test_a_name_says_what_it_is(name, variant):
    assert parse_variant(name) == variant


@pytest.mark.parametrize("name", ["", "0-layer int8", "two layers", "2-layer int4", "static int8"])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match=r"There is no query tower .*ask for `static` or"):
        parse_variant(name)


def test_only_towers_with_fewer_layers_than_the_full_model_are_distilled():
    assert parse_variant("static").needs_distillation(6)
    assert parse_variant("2-layer int8").needs_distillation(6)
    assert not parse_variant("6-layer int8").needs_distillation(6)
    assert not parse_variant("6-layer int8").needs_distillation(2)


def measured(name, kept, milliseconds):
    return MeasuredVariant(
        name=name, ndcg=kept / 2, ndcg_kept=kept, recall=1, encode_ms=milliseconds, speedup=1, cpu_ms=1, size_mib=1
    )


FAST, MIDDLE, SLOW, WORSE = (
    measured("fast", 0.92, 0.1),
    measured("middle", 0.991, 0.5),
    measured("slow", 0.999, 2.0),
    measured("worse", 0.95, 1.0),
)


def test_what_another_beats_in_both_is_not_on_the_front():
    assert pareto_front([SLOW, WORSE, MIDDLE, FAST]) == [FAST, MIDDLE, SLOW]


@pytest.mark.parametrize(("min_kept", "picked"), [(0.9, FAST), (0.99, MIDDLE), (0.995, SLOW), (0.9999, SLOW)], ids=str)
def test_the_fastest_that_keeps_enough_is_picked_or_the_best(min_kept, picked):
    assert choose_variant([SLOW, WORSE, MIDDLE, FAST], min_kept) == picked

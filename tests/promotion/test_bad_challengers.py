"""Bundles that must never go live, each refused by the real steps for the right reason; a good one passes.

`make test-gate` runs this and shows the table.
"""

import shutil
import textwrap
from dataclasses import dataclass, field

import pytest

from pipelines.schemas import CompressedBundle, PromotionDecision, TrainingSet
from tests.toys import bad_challengers as bad
from tests.toys.gate_shop import EARLIER, LATER, GateShop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CHAMPION, GOOD = "champion", "good"


@dataclass
class Court:
    """A champion, a good challenger, and what the gate said of each."""

    shop: GateShop
    training_set: TrainingSet
    good: CompressedBundle
    decisions: dict[str, tuple[PromotionDecision, str]] = field(default_factory=dict)
    """Challenger -> decision, and the reason that counts."""

    def judge(
        self, name: str, compressed: CompressedBundle, wanted: str, training_set: TrainingSet | None = None
    ) -> PromotionDecision:
        """Return the decision, among whose reasons is one with these words."""
        decision = self.shop.promote(training_set or self.training_set, compressed)
        found = [words for words in decision.reasons if wanted in words]
        assert found, decision.reasons
        self.decisions[name] = (decision, found[0])
        return decision

    def table(self) -> str:
        lines = [f"{'challenger':<34} {'decision':<9} reason"]
        for name, (decision, reason) in self.decisions.items():
            others = len(decision.reasons) - 1
            start = f"{name:<34} {'promoted' if decision.promoted else 'refused':<9} "
            text = start + reason + (f" (and {others} more)" if others else "")
            lines += textwrap.wrap(text, 140, subsequent_indent=" " * len(start))
        return "\n".join(lines)


@pytest.fixture(scope="module")
def court(request, tmp_path_factory, empty_mlflow, tiny_encoder_folder):
    home = tmp_path_factory.mktemp("gate")
    (home / "mlflow").mkdir()
    shutil.copy(empty_mlflow / "mlflow.db", home / "mlflow" / "mlflow.db")
    shop = GateShop(home, tiny_encoder_folder)
    first = shop.train(CHAMPION, EARLIER)
    assert shop.promote(first, shop.pack(first)).promoted
    later = shop.train(GOOD, LATER)
    court = Court(shop, later, shop.pack(later))
    yield court
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{court.table()}\n")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        pytest.param(
            "shuffled weights",
            bad.shuffled_weights,
            "so not being worse is enough: it surely loses more than 1% of what the champion reaches",
            id="shuffled weights",
        ),
        pytest.param(
            "NaN weights",
            bad.nan_weights,
            "the challenger cannot be opened: user_tower.onnx of the bundle NaN weights gives a vector of shape (16,) "
            "and length nan",
            id="NaN weights",
        ),
        pytest.param(
            "NaN weights, in the ranker alone",
            bad.nan_ranker,
            "of the challenger's scores are not finite numbers",
            id="NaN ranker",
        ),
        pytest.param(
            "all popular",
            bad.all_popular,
            "as of a model that shows everybody the same items",
            id="all popular",
        ),
        pytest.param("ten times slower", bad.ten_times_slower, "times the champion's", id="ten times slower"),
        pytest.param(
            "wrong vocabulary",
            bad.wrong_vocabulary,
            "the encoder or its tokenizer does not fit the item vectors",
            id="wrong vocabulary",
        ),
        pytest.param(
            "int8 with saturated weights",
            bad.saturated_int8,
            "the encoder or its tokenizer does not fit the item vectors",
            id="saturated int8",
        ),
        pytest.param(
            "drops the tail",
            bad.without_tail,
            "slice tail items: tail items.recall@10",
            id="drops the tail",
        ),
    ],
)
def test_a_bad_challenger_is_refused_for_the_right_reason(court, name, change, reason):
    decision = court.judge(name, court.shop.changed(court.good, name, change), reason)
    assert (decision.promoted, decision.champion) == (False, CHAMPION)


def test_a_challenger_that_was_trained_on_the_test_window_is_refused(court):
    leaked = court.shop.train("leak", LATER, leaked=10)
    reason = (
        "trained on the test window: the receipt has rows up to 2026-03-01 19:58, and the window that it is measured "
        "on begins at 2026-02-22 00:00"
    )
    assert not court.judge("trained on the test window", court.shop.pack(leaked), reason, leaked).promoted
    # the same weights with tables of the same days, and the receipt of an honest run
    known = court.shop.pack(leaked.model_copy(update={"run": "known", "test_start": leaked.test_end}))
    honest = court.good.folder / "receipt.json"
    name = "the same with a forged receipt"
    forged = court.shop.changed(known, name, lambda folder: shutil.copy(honest, folder / "receipt.json"))
    assert not court.judge(name, forged, "the bundle knows the future: its trends count events of ").promoted


def test_a_good_challenger_passes(court):
    reason = "policy non_inferior: the challenger is fresher, so not being worse is enough"
    assert court.judge("a good one", court.good, reason).promoted
    assert court.shop.registry.champion().bundle == GOOD

"""What receipts say of a challenger."""

import pytest

from pipelines.promotion.receipts import is_fresher, receipt_findings
from pipelines.training.receipt import Receipt, RowsRead
from tests.toys.event_tables import day


def receipt(until, *, last=None, replayed_last=None, generation=0):
    read = RowsRead(
        fingerprint="f",
        new_rows=1,
        replayed_rows=0,
        first=day(0),
        last=day(until - 1 if last is None else last),
        replayed_first=None,
        replayed_last=None if replayed_last is None else day(replayed_last),
    )
    return Receipt(
        run="r",
        generation=generation,
        parent=None,
        since=day(0),
        until=day(until),
        tables_until=day(until + 8),
        replay_share=0,
        read=read,
        metrics={},
    )


@pytest.mark.parametrize(
    ("own", "champion", "objection"),
    [
        pytest.param(receipt(10), None, None, id="first"),
        pytest.param(receipt(10), receipt(9), None, id="newer window"),
        pytest.param(receipt(10), receipt(10), None, id="the same window, from zero"),
        pytest.param(None, receipt(9), "the bundle has no receipt", id="none"),
        pytest.param(
            receipt(8),
            receipt(9),
            "the receipt is not new: its receipt ends at 2026-01-09 00:00, the champion's at 2026-01-10 00:00; train",
            id="older window",
        ),
        pytest.param(
            receipt(9, generation=2),
            receipt(9),
            "the receipt is not new: its receipt ends at 2026-01-10 00:00, as the champion's at 2026-01-10 00:00, and",
            id="continued without anything new",
        ),
        pytest.param(
            receipt(10, last=12.5),
            receipt(9),
            "trained on the test window: the receipt has rows up to 2026-01-13 12:00, and the window that it is "
            "measured on begins at 2026-01-13 00:00",
            id="rows of the test window",
        ),
        pytest.param(receipt(10, replayed_last=12), receipt(9), "trained on the test window", id="replayed rows of it"),
    ],
)
def test_objections_to_a_receipt(own, champion, objection):
    findings = receipt_findings(own, champion, day(12))
    failed = [found.words for found in findings if not found.passed]
    assert len(failed) == (objection is not None)
    assert all(words.startswith(objection) for words in failed)


def test_a_later_window_is_fresher():
    assert is_fresher(receipt(10), receipt(9))
    assert not is_fresher(receipt(9), receipt(9))
    assert not is_fresher(receipt(10), None)
    assert not is_fresher(None, receipt(9))

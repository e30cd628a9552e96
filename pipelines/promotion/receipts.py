"""What the receipts of challenger and champion say: whether one is there, whether it is new, and what it has read."""

from datetime import datetime

from pipelines.schemas import Finding
from pipelines.training.receipt import Receipt

RECEIPT, LEAK = "receipt", "receipt: test window"


def receipt_findings(own: Receipt | None, champion: Receipt | None, test_start: datetime) -> list[Finding]:
    """Look at the challenger's receipt.

    Args:
        champion: None where there is no champion, or it left no receipt.
        test_start: Start of the window that both are measured on.
    """
    if own is None:
        words = "the bundle has no receipt, so what it has read is unknown: train it again with `headrace loop`"
        return [Finding(name=RECEIPT, passed=False, words=words)]
    return [_age(own, champion), _span(own, test_start)]


def is_fresher(own: Receipt | None, champion: Receipt | None) -> bool:
    """Whether the challenger has read a window that ends after the champion's."""
    return own is not None and champion is not None and own.until > champion.until


def _age(own: Receipt, champion: Receipt | None) -> Finding:
    window = f"its receipt ends at {own.until:%Y-%m-%d %H:%M}"
    if champion is None:
        return Finding(name=RECEIPT, passed=True, words=f"{window}, and there is none to compare it with")
    theirs = f"the champion's at {champion.until:%Y-%m-%d %H:%M}"
    if own.until < champion.until:
        return Finding(
            name=RECEIPT,
            passed=False,
            words=f"the receipt is not new: {window}, {theirs}; train it on the newest window with `headrace loop`",
        )
    if own.generation > 0 and own.until == champion.until:
        return Finding(
            name=RECEIPT,
            passed=False,
            words=f"the receipt is not new: {window}, as {theirs}, and it only continues an earlier model",
        )
    return Finding(name=RECEIPT, passed=True, words=f"{window}, {theirs}")


def _span(own: Receipt, test_start: datetime) -> Finding:
    newest = max((moment for moment in (own.read.last, own.read.replayed_last) if moment is not None), default=None)
    if newest is not None and newest >= test_start:
        return Finding(
            name=LEAK,
            passed=False,
            words=f"trained on the test window: the receipt has rows up to {newest:%Y-%m-%d %H:%M}, and the window "
            f"that it is measured on begins at {test_start:%Y-%m-%d %H:%M}",
        )
    return Finding(name=LEAK, passed=True, words=f"nothing that it read is from {test_start:%Y-%m-%d %H:%M} or later")

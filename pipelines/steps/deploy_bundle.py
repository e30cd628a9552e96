"""Step: make the running service answer from a bundle."""

from datetime import datetime
from pathlib import Path

import numpy as np

from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.ranking.answers import Ranking, recommend, search, similar
from pipelines.schemas import Deployment
from pipelines.stores.serving_pointer import ServingPointer, read_pointer, write_pointer

_ASKED = 5


def deploy_bundle(
    bundle_id: str, *, bundles_dir: Path, current_bundle: Path, serving: ServingConfig, now: datetime
) -> Deployment:
    """Check the bundle, ask it questions, then move the pointer that the service follows.

    The service notices within two seconds and swaps between two requests. Safe to run twice: a bundle that is live
    already is checked again and nothing moves.

    Raises:
        BundleError: the bundle is corrupt or gives bad answers; the live one stays.
    """
    folder = bundles_dir / bundle_id
    bundle = load_bundle(folder)
    checked = {
        "files": f"{len(bundle.manifest.files)} files have the SHA-256 of the manifest",
        **_ask(bundle, serving, now.timestamp()),
    }
    before = _live(current_bundle)
    if before is not None and before.bundle == bundle_id and before.folder == folder.resolve():
        return Deployment(bundle=bundle_id, previous=before.previous, checked=checked)
    previous = before.bundle if before is not None else None
    write_pointer(
        current_bundle,
        ServingPointer(bundle=bundle_id, folder=folder.resolve(), deployed_at=now, previous=previous),
    )
    return Deployment(bundle=bundle_id, previous=previous, checked=checked)


def _live(current_bundle: Path) -> ServingPointer | None:
    try:
        return read_pointer(current_bundle)
    except BundleError:
        return None  # a broken pointer is replaced


def _ask(bundle: Bundle, serving: ServingConfig, now_s: float) -> dict[str, str]:
    """Ask the bundle what users will ask; return what was asked and how much came back."""
    row = int(np.argmax(np.where(bundle.available, bundle.popularity, -1.0)))
    title, item_id = bundle.titles[row], bundle.item_ids[row]
    answers = {
        f"search {title!r}": search(bundle, title, k=_ASKED, now_s=now_s, serving=serving),
        "recommend to a stranger": recommend(bundle, None, k=_ASKED, now_s=now_s, serving=serving),
        f"recommend after {item_id}": recommend(
            bundle, None, k=_ASKED, now_s=now_s, serving=serving, seed_items=[item_id]
        ),
        f"similar to {item_id}": similar(bundle, item_id, k=_ASKED, serving=serving),
    }
    return {question: _judge(bundle, question, answer) for question, answer in answers.items()}


def _judge(bundle: Bundle, question: str, answer: Ranking) -> str:
    expected = min(_ASKED, max(1, int(bundle.available.sum()) - 1))
    if len(answer.rows) < expected or not np.isfinite(answer.scores).all():
        raise BundleError(
            f"The bundle {bundle.bundle_id} answers {question} with {len(answer.rows)} items and scores "
            f"{answer.scores.tolist()}; {expected} items with finite scores are needed. The live bundle stays; train "
            "another one."
        )
    return f"{len(answer.rows)} items"

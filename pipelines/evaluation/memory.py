"""How much memory a process takes up when it opens a bundle and answers: measured in a process of its own.

`python -m pipelines.evaluation.memory` reads the requests from its input and writes MiB to its output.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.evaluation.rows import EvaluationRows

_K = 10
_TIMEOUT_S = 300


@dataclass(frozen=True)
class _User:
    """User features as they come out of JSON."""

    item_ids: list[str]
    event_types: list[str]
    event_times: list[int]
    activity: dict[str, float | None] = field(default_factory=dict)


def bundle_memory_mib(
    folder: Path, rows: EvaluationRows, queries: Sequence[str], serving: ServingConfig, requests: int
) -> float:
    """Return by how many MiB a fresh process grows that opens the bundle and answers `requests` of each kind.

    Raises:
        BundleError: the process ended before it had answered.
    """
    asked = {
        "folder": str(folder),
        "serving": serving.model_dump(mode="json"),
        "users": [_as_json(rows, place % len(rows)) for place in range(requests)],
        "queries": list(queries[:requests]),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.evaluation.memory"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(
            f"The bundle {folder.name} did not answer {2 * requests} requests in {_TIMEOUT_S} s: use another bundle."
        ) from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise BundleError(
            f"A process that opens the bundle {folder.name} and answers ended with {done.returncode} ({reason}): "
            "use another bundle."
        )
    return float(done.stdout)


def _as_json(rows: EvaluationRows, place: int) -> dict[str, Any]:
    user = rows.features[place]
    features = {
        "item_ids": list(user.item_ids),
        "event_types": list(user.event_types),
        "event_times": list(user.event_times),
        "activity": dict(user.activity),
    }
    return {"now_s": float(rows.now_s[place]), "features": features}


def growth_mib(asked: Mapping[str, Any]) -> float:
    """Open the bundle, answer, and return the growth of this process, MiB; imports do not count."""
    import bm25s  # noqa: F401 - libraries are loaded first: they are not what the bundle costs
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401

    from pipelines.inference.bundle import load_bundle
    from pipelines.ranking.answers import recommend, search

    before = _resident_mib()
    bundle = load_bundle(Path(asked["folder"]))
    serving = ServingConfig.model_validate(asked["serving"])
    for user in asked["users"]:
        recommend(bundle, _User(**user["features"]), k=_K, now_s=user["now_s"], serving=serving)
    now_s = asked["users"][0]["now_s"]
    for query in asked["queries"]:
        search(bundle, query, k=_K, now_s=now_s, serving=serving)
    return _resident_mib() - before


def _resident_mib() -> float:
    """Return the memory of this process; where the system does not tell, the most it has held so far."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in status if line.startswith("VmRSS:")).split()[1]) / 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    sys.stdout.write(str(growth_mib(json.load(sys.stdin))))

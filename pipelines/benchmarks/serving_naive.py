"""The search of most templates: the PyTorch encoder, an exact float product, a full sort; one thread, no HTTP."""

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.inference.bundle import Bundle


def naive_rounds(
    bundle: "Bundle", queries: Iterator[str], *, rounds: int, requests: int
) -> list[tuple[np.ndarray, float]]:
    """Answer new queries in this process.

    Returns:
        For each round the latencies in ms, float64 `(requests,)`, and the processor time per request in ms; nothing
        where PyTorch or the encoder is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # an encoder that was trained from is on this machine
    try:
        import torch

        from pipelines.model.encoder import load_encoder, tokenize

        encoder, tokenizer = load_encoder(bundle.manifest.encoder)
    except (ImportError, ConfigError):
        return []
    torch.set_num_threads(1)
    encoder.eval()
    item_vectors = torch.from_numpy(np.ascontiguousarray(bundle.item_vectors, np.float32))

    def answer(query: str) -> list[dict[str, Any]]:
        with torch.inference_mode():
            ids, mask = tokenize(tokenizer, [query], bundle.preprocessing.max_tokens)
            scores = (item_vectors @ encoder(ids, mask)[0]).numpy()
        return [{**bundle.display[row], "score": float(scores[row])} for row in np.argsort(-scores)[:10]]

    answer(next(queries))
    found = []
    for _ in range(rounds):
        latencies, cpu = np.empty(requests), time.process_time()
        for index in range(requests):
            began = time.perf_counter()
            answer(next(queries))
            latencies[index] = 1e3 * (time.perf_counter() - began)
        found.append((latencies, 1e3 * (time.process_time() - cpu) / requests))
    return found

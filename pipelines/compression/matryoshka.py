"""Matryoshka vectors: a rotation after which the beginning of a vector does nearly what the whole vector does.

A rotation changes no cosine, so whole vectors search as before. It starts from the principal axes, which keep most of
the length in the first dimensions, and is trained so that every prefix ranks items as the whole vectors do.

Source: prefixes that are trained together as in Kusupati et al., Matryoshka representation learning
(https://arxiv.org/abs/2205.13147); here on top of a finished encoder.
"""

from collections.abc import Sequence

import numpy as np
import torch

from pipelines.compression.distillation import Lessons
from pipelines.config import DistillationConfig
from pipelines.progress import Progress


def principal_rotation(vectors: np.ndarray) -> np.ndarray:
    """Return the principal axes as columns, float32 `(dim, dim)`, orthogonal, the longest first.

    Args:
        vectors: float32 `(n, dim)`; they are not centered, for cosines are not either.
    """
    values, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    return np.ascontiguousarray(axes[:, np.argsort(-values)]).astype(np.float32)


def train_rotation(
    start: np.ndarray,
    lessons: Lessons,
    dims: Sequence[int],
    *,
    config: DistillationConfig,
    steps: int,
    batch: int = 256,
    learning_rate: float = 1e-3,
    seed: int,
    progress: Progress,
) -> np.ndarray:
    """Return a rotation, float32 `(dim, dim)`, whose prefixes rank the items of the lessons as whole vectors do.

    The loss is the mean over the prefixes of KL(whole vectors' ranking ‖ prefixes'); after each step the matrix is
    brought back to the nearest rotation.

    Args:
        start: float32 `(dim, dim)`, orthogonal.
        dims: Lengths of the prefixes.
    """
    rotation = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.Adam([rotation], lr=learning_rate)
    rng = np.random.default_rng([seed, 8])
    for step in range(steps):
        rows = rng.choice(len(lessons), min(batch, len(lessons)), replace=False)
        texts = torch.from_numpy(lessons.vectors[rows])
        places = rng.integers(0, lessons.found.shape[1], (len(rows), config.items_per_text))
        chosen = np.unique(np.take_along_axis(lessons.found[rows], places, axis=1))
        items = torch.from_numpy(lessons.item_vectors[chosen])
        wanted = torch.log_softmax(texts @ items.T / config.temperature, dim=1)
        losses = []
        for dim in dims:
            short, others = (torch.nn.functional.normalize(part @ rotation[:, :dim], dim=-1) for part in (texts, items))
            given = torch.log_softmax(short @ others.T / config.temperature, dim=1)
            losses.append((wanted.exp() * (wanted - given)).sum(1).mean())
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()
        optimizer.step()
        with torch.no_grad():
            left, _, right = torch.linalg.svd(rotation)
            rotation.copy_(left @ right)
        progress.update("rotation steps", step + 1, steps)
    return rotation.detach().numpy()


def prefixes(vectors: np.ndarray, rotation: np.ndarray, dim: int) -> np.ndarray:
    """Return the first `dim` numbers of rotated vectors, float32 `(n, dim)`, each row L2 norm 1."""
    short = vectors @ rotation[:, :dim]
    short /= np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
    return short.astype(np.float32)

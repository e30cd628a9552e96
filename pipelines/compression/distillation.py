"""Distillation: a small tower learns to put texts, queries or those of items, where the full model puts them.

Two losses. The embedding loss pulls each vector to the teacher's; the ranking loss asks for the teacher's order among
the items that the teacher finds for the texts of the batch, which is what a search needs.

Source: the embedding loss is 1 − cosine; the ranking loss is the Kullback-Leibler divergence of temperature-scaled
similarities, as in Hinton et al., Distilling the knowledge in a neural network (https://arxiv.org/abs/1503.02531).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.config import DistillationConfig
from pipelines.errors import DataError
from pipelines.progress import Progress
from pipelines.training.schedule import warmup_then_linear

Tokens = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Turns texts into input ids and attention mask, int64 `(n, t)`."""
_SEARCH_BLOCK = 256
_TOGETHER = 32
"""Texts that are padded to one length."""


@dataclass(frozen=True)
class Lessons:
    """`n` texts, and what the teacher makes of them."""

    texts: list[str]
    vectors: np.ndarray
    """float32 `(n, dim)`, the teacher's, each row L2 norm 1."""
    found: np.ndarray
    """int64 `(n, k)`, rows of the items that the teacher finds for each text, best first."""
    item_vectors: np.ndarray
    """float32 `(n_items, dim)`, each row L2 norm 1; the student never changes them."""
    min_count: int = 2
    """Times that a token occurs in the texts before a table of tokens gives it a vector."""

    def __len__(self) -> int:
        return len(self.texts)


def make_lessons(
    texts: Sequence[str], vectors: np.ndarray, item_vectors: np.ndarray, *, k: int, progress: Progress
) -> Lessons:
    """Look up which items the teacher finds for each text; O(n · n_items · dim).

    Args:
        vectors: float32 `(n, dim)`, the teacher's vectors of the texts.
        k: Items kept of each text; fewer where there are fewer.

    Raises:
        DataError: there is no text to learn from.
    """
    if not texts:
        raise DataError("There is no text to distil from: the catalogue is empty, or every text is held out.")
    k = min(k, len(item_vectors))
    found = np.empty((len(texts), k), np.int64)
    for start in range(0, len(texts), _SEARCH_BLOCK):
        scores = vectors[start : start + _SEARCH_BLOCK] @ item_vectors.T
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        found[start : start + len(scores)] = np.take_along_axis(best, order, axis=1)
        progress.update("items that the teacher finds", min(start + _SEARCH_BLOCK, len(texts)), len(texts))
    return Lessons(list(texts), vectors, found, item_vectors)


def distil(
    student: nn.Module,
    tokens: Tokens,
    lessons: Lessons,
    *,
    config: DistillationConfig,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    progress: Progress,
    stage: str = "distillation",
) -> dict[int, float]:
    """Train the student in place and return the loss by step.

    Args:
        student: Takes `(input_ids, attention_mask)` and gives float32 `(n, dim)`, each row L2 norm 1.
    """
    parameters = [weight for weight in student.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    rng = np.random.default_rng([seed, 7])
    losses: dict[int, float] = {}
    order = np.empty(0, np.int64)
    student.train()
    for step in range(steps):
        if len(order) < min(batch, len(lessons)):
            order = np.concatenate([order, rng.permutation(len(lessons))])
        rows, order = order[:batch], order[batch:]
        rate = warmup_then_linear(step, steps, config.warmup_share)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        torch.manual_seed(int(rng.integers(0, 2**31)))  # dropout
        rows = rows[np.argsort([len(lessons.texts[row]) for row in rows], kind="stable")]
        loss = distillation_loss(
            _embed(student, tokens, [lessons.texts[row] for row in rows]),
            torch.from_numpy(lessons.vectors[rows]),
            torch.from_numpy(_candidates(lessons, rows, config.items_per_text, rng)),
            temperature=config.temperature,
            ranking_weight=config.ranking_weight,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[step + 1] = loss.item()
        progress.update(f"{stage} steps", step + 1, steps, f"loss {loss.item():.4f}")
    student.eval()
    return losses


def _embed(student: nn.Module, tokens: Tokens, texts: Sequence[str]) -> Tensor:
    """Embed texts that come by length; so many at a time that little is padding."""
    parts = [student(*tokens(texts[start : start + _TOGETHER])) for start in range(0, len(texts), _TOGETHER)]
    return torch.cat(parts)


def distillation_loss(
    student: Tensor, teacher: Tensor, items: Tensor, *, temperature: float, ranking_weight: float
) -> Tensor:
    """Return the mean of 1 − cos(student, teacher) + weight · KL(teacher's ranking ‖ student's).

    Args:
        student: float32 `(n, dim)`, each row L2 norm 1.
        teacher: The same of the teacher.
        items: float32 `(c, dim)`, each row L2 norm 1: the items that are ranked.
        temperature: Divides similarities before the softmax.
    """
    embedding = 1 - (student * teacher).sum(1)
    wanted = torch.log_softmax(teacher @ items.T / temperature, dim=1)
    given = torch.log_softmax(student @ items.T / temperature, dim=1)
    ranking = (wanted.exp() * (wanted - given)).sum(1)
    return (embedding + ranking_weight * ranking).mean()


def _candidates(lessons: Lessons, rows: np.ndarray, per_text: int, rng: np.random.Generator) -> np.ndarray:
    """Return the vectors of the items that this batch ranks: some of what the teacher finds for each of its texts."""
    places = rng.integers(0, lessons.found.shape[1], (len(rows), per_text))
    chosen = np.unique(np.take_along_axis(lessons.found[rows], places, axis=1))
    vectors: np.ndarray = lessons.item_vectors[chosen]
    return vectors

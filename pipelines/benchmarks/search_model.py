"""The case `headrace` of the search bench: the encoder tuned on judged queries, words, and the ranker over both.

Most of the training queries tune the encoder; the others, which it has not seen, teach the ranker how far to believe
it. Validation queries choose the encoder's step, the ranker's epoch and the weights of the fusion. Vectors are those
of the int8 encoder that is served.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipelines.benchmarks.protocols import GradedQueries, SearchTask
from pipelines.compression.onnx_export import export_encoder, export_ranker
from pipelines.compression.quantization import quantize_int8
from pipelines.config import HeadraceConfig, SearchRankerConfig, TrainingConfig
from pipelines.evaluation.fusion_weights import relative
from pipelines.inference.ranker import Ranker
from pipelines.inference.sessions import open_session
from pipelines.inference.text_encoder import TextEncoder
from pipelines.model.encoder import SentenceEncoder, load_encoder, save_tokenizer
from pipelines.progress import Progress
from pipelines.ranking.search_candidates import GENERATORS, SearchCandidates, search_candidates, without_generator
from pipelines.ranking.search_ranker import RELEVANCE, behind, relative_scores
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.stores.files import replacing_file, replacing_folder
from pipelines.training.catalog import Catalog
from pipelines.training.encoder_tuning import tune_encoder
from pipelines.training.encoder_validation import encoder_quality
from pipelines.training.judged_queries import JudgedQueries
from pipelines.training.search_pairs import pair_source, rival_source
from pipelines.training.search_ranker_tuning import (
    SearchLists,
    choose_lexical_weight,
    fit_search_ranker,
    gain_over_fusion,
)

HEADRACE, DENSE, LEXICAL, LINEAR = "headrace", "headrace_dense", "headrace_lexical", "without ranker"
_LEFT_OUT: Mapping[str, str | None] = {HEADRACE: None, **{f"without {name}": name for name in GENERATORS}}
"""Cases with a ranker, and the generator of candidates that each goes without."""
CASES: tuple[str, ...] = (HEADRACE, DENSE, LEXICAL, LINEAR, *(case for case in _LEFT_OUT if case != HEADRACE))
_WEIGHT = "weight.json"
QueryScorer = Callable[[Sequence[str]], np.ndarray]
_RATE, _MAX_STEPS, _BATCH = 2e-4, 400, 64
"""Judged queries say more than made-up ones, so the encoder may follow them further."""
_PASSES = 5
"""Times that the encoder sees a judged query at most."""
_QUICK_STEPS = 10
_ENCODE_BATCH = 1_024
_BLOCK = 64


def fit_searcher(
    task: SearchTask,
    *,
    seed: int,
    work: Path,
    quick: bool,
    progress: Progress,
    config: HeadraceConfig | None = None,
) -> Mapping[str, QueryScorer]:
    """Tune, export, embed the corpus and learn to rank; each part that is in `work` already is read again.

    Args:
        config: Other settings than `recipe` gives.

    Returns:
        Full rankings of queries by case: what would be served, the encoder alone, words alone, the fusion without a
        ranker, and the ranker with each generator left out.

    """
    config = config or recipe(seed, len(task.train), quick=quick)
    _, held_out = _judged(task.train).divided(config.training.judged_holdout_share)
    lexical = LexicalIndex.build(task.texts)
    searcher = _Searcher(
        lexical, _item_vectors(task, lexical, config.training, work, progress), _text_encoder(work, config)
    )
    learned = work / "rankers"
    if not learned.is_dir():
        lists = {
            name: _lists(searcher, queries, config.search_ranker, name, progress)
            for name, queries in {"training": held_out, "validation": _judged(task.validation)}.items()
        }
        _learn(learned, lists["training"], lists["validation"], config, progress)
    searcher = replace(searcher, lexical_weight=json.loads((learned / _WEIGHT).read_text())["lexical"])
    cases: dict[str, QueryScorer] = {
        DENSE: searcher.dense_scores,
        LEXICAL: searcher.lexical_scores,
        LINEAR: searcher.fused_scores,
    }
    for case, left_out in _LEFT_OUT.items():
        ranker = _open_ranker(learned / f"{case}.onnx")
        cases[case] = partial(searcher.ranked_scores, ranker, config.search_ranker.candidates, left_out)
    return cases


def recipe(seed: int, n_queries: int, *, quick: bool) -> HeadraceConfig:
    """Return the settings: the defaults, with larger steps of the encoder, as many as the queries bear.

    Args:
        n_queries: Judged queries for training.
    """
    defaults = HeadraceConfig()
    tuned_on = n_queries * (1 - defaults.training.judged_holdout_share)
    steps = _QUICK_STEPS if quick else min(_MAX_STEPS, math.ceil(_PASSES * tuned_on / _BATCH))
    changes = {
        "seed": seed,
        "encoder_steps": steps,
        "encoder_batch": _BATCH,
        "encoder_learning_rate": _RATE,
        "validate_every": max(steps // 4, 1),
    }
    ranker = {"min_queries": 1, "epochs": 1} if quick else {}
    return defaults.model_copy(
        update={
            "training": defaults.training.model_copy(update=changes),
            "search_ranker": defaults.search_ranker.model_copy(update=ranker),
        }
    )


@dataclass(frozen=True)
class _Searcher:
    """What a bundle searches with."""

    lexical: LexicalIndex
    item_vectors: np.ndarray
    """float32 `(n_items, dim)`, each row L2 norm 1."""
    encoder: TextEncoder
    lexical_weight: float = 0.5
    """Weight of the lexical score, relative to the best item, beside a cosine of weight 1."""

    def dense_scores(self, queries: Sequence[str]) -> np.ndarray:
        scores: np.ndarray = self.encoder.encode(queries) @ self.item_vectors.T
        return scores

    def lexical_scores(self, queries: Sequence[str]) -> np.ndarray:
        return np.stack([self.lexical.scores(query) for query in queries])

    def fused_scores(self, queries: Sequence[str]) -> np.ndarray:
        weight = np.float32(self.lexical_weight)
        return self.dense_scores(queries) + weight * relative(self.lexical_scores(queries))

    def candidates(self, queries: Sequence[str], per_generator: int) -> list[SearchCandidates]:
        vectors = self.encoder.encode(queries)
        dense = vectors @ self.item_vectors.T
        return [
            search_candidates(query, vector, self.lexical, self.item_vectors, scores, per_generator=per_generator)
            for query, vector, scores in zip(queries, vectors, dense, strict=True)
        ]

    def ranked_scores(
        self, ranker: Ranker | None, per_generator: int, left_out: str | None, queries: Sequence[str]
    ) -> np.ndarray:
        """Return candidates by the ranker, where there is one, and everything else by what the generators say."""
        match left_out:
            case "dense":
                rest = relative(self.lexical_scores(queries))
            case "lexical":
                rest = self.dense_scores(queries)
            case _:
                rest = self.fused_scores(queries)
        if ranker is None:
            return rest
        rest = (rest - rest.min()) / max(float(np.ptp(rest)), 1e-9)
        ranked = []
        for scores, found in zip(rest, self.candidates(queries, per_generator), strict=True):
            kept = found if left_out is None else without_generator(found, left_out)
            ranked.append(behind(scores, kept.rows, relative_scores(ranker, kept)))
        return np.stack(ranked)


def _judged(queries: GradedQueries) -> JudgedQueries:
    return JudgedQueries(queries.queries, queries.items, queries.gains)


def _catalog(task: SearchTask) -> Catalog:
    """Return the corpus as training sees it; nothing is known of it but texts."""
    n = task.n_items
    nothing, zeros = np.zeros(n, np.int64), np.zeros(n, np.float32)
    return Catalog(task.item_ids, task.texts, task.titles, [""], nothing, [""], nothing, zeros, zeros, zeros)


def tuned_encoder(
    task: SearchTask, config: TrainingConfig, work: Path, progress: Progress, lexical: LexicalIndex | None = None
) -> tuple[SentenceEncoder, PreTrainedTokenizerBase]:
    """Tune the encoder on most of the training queries; what is in `work` already is gone on with.

    Args:
        lexical: Over the corpus, where the caller has it already.
    """
    judged, _ = _judged(task.train).divided(config.judged_holdout_share)
    catalog = _catalog(task)
    encoder, tokenizer = load_encoder(config.encoder)
    tune_encoder(
        encoder,
        tokenizer,
        catalog,
        config=config,
        checkpoint=work / "encoder.pt",
        progress=progress,
        pairs=pair_source(catalog, [], np.empty(0, np.int64), judged),
        rivals=rival_source(catalog, judged, config.hard_negatives, progress),
        quality=encoder_quality(
            _judged(task.validation),
            task.texts,
            lexical or LexicalIndex.build(task.texts),
            tokenizer=tokenizer,
            max_tokens=config.max_tokens,
            progress=progress,
        ),
    )
    return encoder, tokenizer


def _item_vectors(
    task: SearchTask,
    lexical: LexicalIndex,
    config: TrainingConfig,
    work: Path,
    progress: Progress,
) -> np.ndarray:
    """Tune the encoder, write it as `encoder/` and embed the corpus; float32 `(n_items, dim)`."""
    vectors = work / "item_vectors.npy"
    if not (work / "encoder").is_dir():
        encoder, tokenizer = tuned_encoder(task, config, work, progress, lexical)
        with replacing_folder(work / "encoder") as folder:
            save_tokenizer(tokenizer, folder, config.max_tokens)
            export_encoder(encoder, folder / "float.onnx")
            quantize_int8(folder / "float.onnx", folder / "encoder.onnx")
    if not vectors.exists():
        encoded = _encode(_text_encoder(work, config), task.texts, progress)
        with replacing_file(vectors) as temporary, temporary.open("wb") as file:
            np.save(file, encoded.astype(np.float16), allow_pickle=False)
    loaded: np.ndarray = np.load(vectors, allow_pickle=False)
    return loaded.astype(np.float32)


def _text_encoder(work: Path, config: TrainingConfig | HeadraceConfig) -> TextEncoder:
    training = config.training if isinstance(config, HeadraceConfig) else config
    folder = work / "encoder"
    return TextEncoder(open_session(folder / "encoder.onnx", "cpu"), folder / "tokenizer.json", training.max_tokens)


def _encode(encoder: TextEncoder, texts: Sequence[str], progress: Progress) -> np.ndarray:
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    parts = []
    for start in range(0, len(distinct), _ENCODE_BATCH):
        parts.append(encoder.encode(distinct[start : start + _ENCODE_BATCH]))
        progress.update("texts encoded in int8", min(start + _ENCODE_BATCH, len(distinct)), len(distinct))
    rows = {text: row for row, text in enumerate(distinct)}
    vectors: np.ndarray = np.concatenate(parts)[[rows[text] for text in texts]]
    return vectors


def _lists(
    searcher: _Searcher, judged: JudgedQueries, config: SearchRankerConfig, name: str, progress: Progress
) -> SearchLists:
    found: list[SearchCandidates] = []
    for start in range(0, len(judged), _BLOCK):
        found += searcher.candidates(judged.queries[start : start + _BLOCK], config.candidates)
        progress.update(f"candidates of {name} queries", len(found), len(judged))
    return SearchLists(found, judged.items, judged.gains)


def _learn(
    target: Path, train: SearchLists, validation: SearchLists, config: HeadraceConfig, progress: Progress
) -> None:
    """Write the weight of the fusion, a ranker with everything, and one without each generator.

    A ranker that is not clearly better (by one standard error) than the fusion on the validation queries, or has too
    few queries to learn from, is not written: the fusion is served then.
    """
    with replacing_folder(target) as folder:
        weight, _ = choose_lexical_weight(validation)
        (folder / _WEIGHT).write_text(json.dumps({"lexical": weight}), encoding="utf-8")
        for case, left_out in _LEFT_OUT.items():
            lists, judge = (part if left_out is None else part.without(left_out) for part in (train, validation))
            if len(lists.useful()) < config.search_ranker.min_queries or len(judge.useful()) == 0:
                continue
            fit = fit_search_ranker(
                lists, judge, config=config.search_ranker, seed=config.training.seed, progress=progress
            )
            if gain_over_fusion(fit.ranker, judge, choose_lexical_weight(judge)[0]).is_clear:
                export_ranker(fit.ranker, folder / f"{case}.onnx")


def _open_ranker(file: Path) -> Ranker | None:
    return Ranker(open_session(file, "cpu"), (RELEVANCE,), {RELEVANCE: 1.0}) if file.exists() else None

"""The concept study of one hook point as tables: features of concepts, fits on frequency, recall of the tail, and directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.concepts import direction_tables
from sae_pipeline.concepts.detection import DetectionCounts
from sae_pipeline.concepts.direction_tables import DIRECTION_FITS, DIRECTION_LATENTS, DIRECTIONS, OfSets, Reference, Written
from sae_pipeline.concepts.frequency_fit import logistic_fit, tail_recall
from sae_pipeline.concepts.text import ReadSet
from sae_pipeline.concepts.vocabulary import Keywords, MixText, Vocabulary, ranks
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.metrics.reconstruction import token_chunks
from sae_pipeline.progress import track
from sae_pipeline.saes.inference import InferenceSAE

FEATURES, FITS, TAIL = "concept_features", "concept_fits", "tail_recall"

TOKEN, KEYWORD = "token", "keyword"

COLUMNS: dict[str, dict[str, Any]] = {
    FEATURES: {"sae_id": "string", "kind": "string", "concept": "string", "token": "Int64", "rank": "Int64", "frequency": float}
    | {
        "occurrences": int,
        "judged_occurrences": int,
        "latent": "Int64",
        "f1": float,
        "precision": float,
        "recall": float,
        "has_feature": "boolean",
        "youden": float,
    },
    FITS: {"sae_id": "string", "kind": "string", "concepts": int, "with_feature": int, "slope": float, "low": float, "high": float}
    | dict.fromkeys(("frequency_half", "half_low", "half_high"), float)
    | {"youden_with_feature": int}
    | dict.fromkeys(("youden_slope", "youden_low", "youden_high"), float),
    TAIL: {"sae_id": "string", "rank_low": "Int64", "rank_high": "Int64", "tokens": int, "with_feature": int}
    | dict.fromkeys(("share", "low", "high"), float),
} | direction_tables.COLUMNS
"""Columns and types of each table, which an empty one has too."""


@dataclass(frozen=True)
class StudiedSae:
    """An SAE that is looked at."""

    mix: str
    expansion: float
    arm: str
    load: Callable[[], InferenceSAE]
    """Gives it on the device where it is to be read; called once, so that one is in memory at a time."""


def measure_concepts(
    folder: Path,
    *,
    sets: Sequence[ReadSet],
    saes: Mapping[str, StudiedSae],
    mixes: Mapping[str, tuple[Corpus, np.ndarray]],
    tokenizer: TextTokenizer,
    keywords: Mapping[str, Sequence[str]],
    directions: Mapping[str, Written | OfSets],
    token_concepts: int,
    min_occurrences: int,
    f1_cut: float,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Write the six tables of one hook point.

    Args:
        folder: where they are written.
        sets: the text that is read, with its activations.
        saes: by name.
        mixes: by name, the text of each SAE's training mix and how often each token id is in it, (vocab_size,) int64.
        tokenizer: the subject's.
        keywords: lists of words by name.
        directions: by name.
        token_concepts: tokens looked for at most.
        min_occurrences: least occurrences of a concept in either half of the documents.
        f1_cut: F1 from which a concept has a feature; Youden's J in the fit by that.
        confidence: level of the intervals.
        seed: of the draws.

    Returns:
        The summary: ``tokens``, ``documents``, ``judged_documents``, ``token_concepts``, ``keyword_concepts`` (those that
        are frequent enough to be judged), ``directions``, ``saes`` (names).
    """
    found = Keywords.of(keywords, tokenizer)
    texts = {name: MixText.of(corpus, counts, found) for name, (corpus, counts) in mixes.items()}
    vocabulary = Vocabulary.of(sets, texts, keywords, found, number=token_concepts, least=min_occurrences, seed=seed)
    chance_of = dict(zip(vocabulary.tokens.tolist(), vocabulary.chance.tolist(), strict=True))
    prepared = direction_tables.prepare(sets, directions, seed)
    names = np.array([*tokenizer.decode([[token] for token in vocabulary.tokens.tolist()]), *vocabulary.keywords], dtype=object)
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    rows[DIRECTIONS].append(direction_tables.direction_rows(prepared))
    references: dict[tuple[str, float, str], Reference] = {}
    with track("looking for concepts", len(saes), "SAEs") as progress:
        for sae_id, studied in saes.items():
            sae = studied.load()
            counts, means = _read(sae, sets, vocabulary, {name for each in prepared if isinstance(each.between, OfSets) for name in each.between})
            features = _feature_rows(counts, vocabulary, texts[studied.mix], names, min_occurrences, f1_cut)
            rows[FEATURES].append(features.assign(sae_id=sae_id))
            rows[FITS].append(_fit_rows(features, texts[studied.mix], f1_cut, confidence).assign(sae_id=sae_id))
            tokens = features[features["kind"] == TOKEN]
            recall = tail_recall(
                tokens["rank"].to_numpy(np.int64),
                tokens["frequency"].to_numpy() > 0,
                tokens["has_feature"].to_numpy(bool),
                tokens["token"].map(chance_of).to_numpy(float),
                confidence,
            )
            rows[TAIL].append(recall.assign(sae_id=sae_id))
            for each in prepared:
                if each.exists:
                    first = references.get((each.name, studied.expansion, studied.arm))
                    fits, nearest, squared = direction_tables.fit_rows(sae, each, means, first, confidence, seed)
                    references.setdefault((each.name, studied.expansion, studied.arm), Reference(sae_id, squared))
                    rows[DIRECTION_FITS].append(fits.assign(sae_id=sae_id))
                    rows[DIRECTION_LATENTS].append(nearest.assign(sae_id=sae_id))
            progress.advance(1)
    for name, columns in COLUMNS.items():
        frames = [frame for frame in rows[name] if len(frame)]
        table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))
        table.reindex(columns=list(columns)).astype(columns).to_parquet(folder / f"{name}.parquet", index=False)
    judged = vocabulary.present.min(0) >= min_occurrences
    return {
        "tokens": sum(int((read.document >= 0).sum()) for read in sets),
        "documents": sum(read.documents for read in sets),
        "judged_documents": sum(read.judged_documents for read in sets),
        "token_concepts": len(vocabulary.tokens),
        "keyword_concepts": int(judged[len(vocabulary.tokens) :].sum()),
        "directions": [each.name for each in prepared if each.exists],
        "saes": list(saes),
    }


@torch.inference_mode()
def _read(sae: InferenceSAE, sets: Sequence[ReadSet], vocabulary: Vocabulary, in_directions: set[str]) -> tuple[DetectionCounts, dict[str, Tensor]]:
    """What the latents do on the text: on its concepts, and means per document of the sets that directions need."""
    counts = DetectionCounts(vocabulary.size, sae.d_sae, sae.W_enc.device)
    means: dict[str, Tensor] = {}
    for read, marks in zip(sets, vocabulary.marks, strict=True):
        of_documents = torch.zeros(read.documents, sae.d_sae, dtype=torch.float64)
        for rows, x in read.batches():
            for chunk in token_chunks(len(rows), sae.d_sae, sae.W_enc.device):
                here = rows[chunk]
                latents = sae.encode(x[chunk].to(sae.W_enc))
                counts.update(latents, read.half[here], marks.among(here))
                if read.name in in_directions:
                    of_documents.index_add_(0, read.document[here], latents.cpu().double())
        if read.name in in_directions:
            means[read.name] = of_documents / read.lengths[:, None]
    return counts, means


# ------------------------------------------------------------------------------------------------ concepts


def _feature_rows(counts: DetectionCounts, vocabulary: Vocabulary, mix: MixText, names: np.ndarray, least: int, f1_cut: float) -> pd.DataFrame:
    """One row per concept that is frequent enough to be judged, without the SAE's name."""
    best, n_tokens, n_words = counts.best(), len(vocabulary.tokens), len(vocabulary.keywords)
    latent = pd.array(best.latent, dtype="Int64")
    latent[best.latent < 0] = pd.NA
    frame = pd.DataFrame(
        {
            "kind": [TOKEN] * n_tokens + [KEYWORD] * n_words,
            "concept": names,
            "token": pd.array([*vocabulary.tokens.tolist(), *[None] * n_words], dtype="Int64"),
            "rank": pd.array([*ranks(mix.counts)[vocabulary.tokens].tolist(), *[None] * n_words], dtype="Int64"),
            "frequency": vocabulary.frequency(mix),
            "occurrences": vocabulary.present.sum(0),
            "judged_occurrences": vocabulary.present[1],
            "latent": latent,
            "f1": best.f1,
            "precision": best.precision,
            "recall": best.recall,
            "has_feature": best.f1 >= f1_cut,
            "youden": best.youden,
        }
    )
    return frame[vocabulary.present.min(0) >= least].reset_index(drop=True)


def _fit_rows(features: pd.DataFrame, mix: MixText, cut: float, confidence: float) -> pd.DataFrame:
    """Has-a-feature against the logarithm of frequency, by F1 and by Youden's J, a row per kind of concept that the study looks for."""
    half_an_occurrence = 0.5 / max(int(mix.counts.sum()), 1) * 1e6  # so that what a mix does not hold has a logarithm
    rows = []
    for kind, here in features.groupby("kind", sort=False):
        frequency = np.log10(here["frequency"].to_numpy() + half_an_occurrence)
        having, by_youden = here["has_feature"].to_numpy(bool), here["youden"].to_numpy() >= cut
        fit, other = (logistic_fit(frequency, y, confidence) for y in (having, by_youden))
        with np.errstate(over="ignore"):
            halves = np.power(10.0, [fit.half, fit.half_low, fit.half_high])
        rows.append((kind, len(here), int(having.sum()), fit.slope, fit.low, fit.high, *halves, int(by_youden.sum()), *other[:3]))
    return pd.DataFrame(rows, columns=list(COLUMNS[FITS])[1:])

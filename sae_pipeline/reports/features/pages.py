"""What the page of an SAE says of its latents: where they fire, how strongly, on what text, and what is nearest in other SAEs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pandas as pd

from sae_pipeline.reports.blocks import Cell, FeaturePage, Latent, Passage, Table, number_cell, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.features.choice import LATENTS_IN_ALL, LATENTS_PER_SAE, Reasons, chosen_latents, kind_of, per_page
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.wording import NONE, counted, decimal

DECILES = tuple(f"q{share}" for share in range(10, 100, 10))
"""Columns of ``feature_stats``: deciles of the activation over the tokens it fires on."""

NEIGHBOURS = 8
"""Nearest latents of other SAEs shown, the most alike first."""


def feature_pages(frames: StudyFrames) -> tuple[FeaturePage, ...]:
    """A page per SAE with the latents chosen; none where the study keeps no text of its latents."""
    stats = frames.tables.feature_stats
    if frames.traces is None or frames.traces["top_contexts"].empty or stats.empty:
        return ()
    contexts = frames.traces["top_contexts"]
    traced = str(contexts["evaluation_set"].iloc[0])
    reasons = chosen_latents(frames, stats[stats["evaluation_set"] == traced])
    keys = pd.DataFrame(list(reasons), columns=["sae_id", "latent"])
    stats_of = _by_latent(stats, keys)
    passages = _passages(contexts.merge(keys, on=["sae_id", "latent"]), frames)
    near = {} if frames.matching is None else _by_latent(frames.matching["feature_neighbours"], keys)
    pages = []
    for sae in rows_of(frames.tables.saes):
        latents = sorted(latent for sae_id, latent in reasons if sae_id == sae.sae_id)
        if latents:
            shown = tuple(_latent(str(sae.sae_id), n, reasons, stats_of, passages, near) for n in latents)
            pages.append(
                FeaturePage(str(sae.sae_id), _sentences(sae, len(latents), len(frames.tables.saes), traced), _overview(shown, traced), shown)
            )
    return tuple(pages)


def _by_latent(frame: pd.DataFrame, keys: pd.DataFrame) -> dict[tuple[str, int], list[Any]]:
    """The rows of each latent shown."""
    rows: dict[tuple[str, int], list[Any]] = {}
    for row in rows_of(frame.merge(keys, on=["sae_id", "latent"])):
        rows.setdefault((str(row.sae_id), int(row.latent)), []).append(row)
    return rows


def _sentences(sae: Any, shown: int, saes: int, traced: str) -> tuple[str, ...]:
    return (
        f"{shown} of {counted(int(sae.d_sae), 'latent')}: dense ones, orphans, latents shared with other SAEs, and an even sample of the others that fire. "
        f"A page shows at most {per_page(saes)} (at most {LATENTS_PER_SAE} each, about {LATENTS_IN_ALL:,} in all); the warehouse holds every latent.",
        f"Texts are the strongest activations on {traced}, with the token itself marked. They show what drives a latent hardest and not all that it fires on.",
    )


# ------------------------------------------------------------------------------------------------ one latent


def _latent(
    sae_id: str,
    number: int,
    reasons: Reasons,
    stats: Mapping[Any, list[Any]],
    passages: Mapping[Any, tuple[Passage, ...]],
    near: Mapping[Any, list[Any]],
) -> Latent:
    key = (sae_id, number)
    tables = [_firing(number, stats[key])] if key in stats else []
    if key in near:
        tables.append(_neighbours(number, near[key], reasons))
    return Latent(number, tuple(reasons[key]), tuple(tables), passages.get(key, ()))


def _firing(number: int, rows: list[Any]) -> Table:
    """Where it fires and how strongly, a row per evaluation set."""
    deciles = [name for name in DECILES if hasattr(rows[0], name)]
    columns = ("evaluation set", "fires on (% of tokens)", "mean where it fires", *(f"{name[1:]} %" for name in deciles), "largest")
    body = tuple(
        text_row(
            r.evaluation_set, Cell(decimal(100 * r.density, 3), r.density), number_cell(getattr(r, "mean_active", None), 2),
            *(number_cell(getattr(r, name), 2) for name in deciles), number_cell(getattr(r, "max", None), 2),
        ) for r in rows
    )  # fmt: skip
    return Table(f"Latent {number}: firing and deciles of its activation where it fires", columns, body, sortable=False)


def _neighbours(number: int, rows: list[Any], shown: Reasons) -> Table:
    """The nearest latents of other SAEs; those that have a place on a page lead there."""
    nearest = sorted(rows, key=lambda row: -row.cosine)[:NEIGHBOURS]
    body = tuple(
        text_row(
            r.other_sae_id, Cell(str(int(r.other_latent)), link=_beside(r.other_sae_id, int(r.other_latent)) if (r.other_sae_id, int(r.other_latent)) in shown else None),
            Cell(decimal(r.cosine, 3)), "yes" if r.matched_one_to_one else "no",
        )
        for r in nearest
    )  # fmt: skip
    of = f", the nearest {len(body)} of {len(rows)} SAEs compared" if len(rows) > len(body) else ""
    return Table(
        f"Latent {number}: nearest decoder directions in other SAEs{of}", ("SAE", "latent", "cosine", "one-to-one partner"), body, sortable=False
    )


def _beside(sae_id: str, latent: int) -> str:
    """From one page to a latent of another."""
    return f"{quote(sae_id)}.html#latent-{latent}"


def _passages(contexts: pd.DataFrame, frames: StudyFrames) -> dict[Any, tuple[Passage, ...]]:
    """The text of the strongest activations by SAE and latent, the strongest first."""
    text = (frames.traces or {})["context_text"]
    told = contexts.merge(text.drop(columns="document"), on=["evaluation_set", "context", "position"])
    documents = frames.tables.baseline_sums
    if "source" in documents.columns:
        sources = documents[["evaluation_set", "document", "source"]].drop_duplicates(["evaluation_set", "document"])
        told = told.merge(sources, on=["evaluation_set", "document"], how="left")
    found: dict[Any, list[Passage]] = {}
    for r in rows_of(told.sort_values("place", kind="stable")):
        origin = getattr(r, "source", None)
        note = f"{decimal(r.activation, 2)}, {r.evaluation_set}" + (f", source {origin}" if isinstance(origin, str) else "")
        found.setdefault((r.sae_id, int(r.latent)), []).append(Passage(r.before, r.text, r.after, note))
    return {key: tuple(passages) for key, passages in found.items()}


def _overview(latents: tuple[Latent, ...], traced: str) -> Table:
    """Every latent of the page with why it is shown."""
    rows = []
    for latent in latents:
        density = next((row[1] for table in latent.tables[:1] for row in table.rows if row[0].text == traced), number_cell(None))
        strongest = latent.passages[0].text.strip() if latent.passages else NONE
        rows.append(
            text_row(
                Cell(str(latent.number), latent.number, link=f"#latent-{latent.number}"),
                density,
                strongest or NONE,
                ", ".join(map(kind_of, latent.reasons)),
            )
        )
    return Table("Latents of this page", ("latent", f"fires on (% of tokens of {traced})", "strongest token", "shown because"), tuple(rows))

"""The metric tables of one study, as plain data frames: everything the analysis and the report read.

The same frames are the tables of the study's warehouse, so a column documented here is a column of the user's SQL.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from sae_pipeline.errors import BadInput
from sae_pipeline.saes.arm import Arm

REQUIRED: dict[str, tuple[str, ...]] = {
    "saes": (
        "sae_id", "mix", "layer", "expansion", "d_sae", "architecture", "sparsity", "tokens", "init_seed", "data_seed", "batch_size", "learning_rate", "arm",
    ),
    "sae_metrics": ("sae_id", "evaluation_set", "kind"),
    "document_sums": ("sae_id", "evaluation_set", "document", "document_hash", "n", "sse"),
    "baseline_sums": ("evaluation_set", "layer", "document", "document_hash", "n", "sum_sq", "sum_x"),
    "feature_stats": ("sae_id", "evaluation_set", "latent", "density"),
}  # fmt: skip
"""Columns without which a table cannot be analysed; each table may hold more."""

MOSTLY = 0.5
"""Share of a set's text that an SAE's training mix must have for the set to be in-sample for it."""

WIDTH_RULE = "width rule"
"""Value of the design column ``rate`` for an SAE trained at 2e-4 / sqrt(d_sae / 2**14)."""

DESIGN = ("mix", "layer", "expansion", "architecture", "sparsity", "tokens", "batch_size", "rate", "variant", "replicate")
"""The settings that two SAEs must share, all but one, to be compared."""

SETTING = tuple(name for name in DESIGN if name != "replicate")
"""What SAEs that are seeds of each other share."""

_OWN_FACTOR = {"architecture", "k", "target_l0", "tokens", "init_seed", "data_seed", "batch_size", "learning_rate"}
VARIANT = tuple(field.name for field in fields(Arm) if field.name not in _OWN_FACTOR)
"""The arm's other settings, compared as one factor: a field added to :class:`Arm` keeps its SAEs apart from that day on."""


@dataclass(frozen=True, eq=False)
class StudyTables:
    """All metric tables of a study, to be read and never changed in place.

    saes: one row per SAE. ``sae_id``, ``mix``, ``layer`` (int), ``site``, ``expansion``, ``d_model``, ``d_sae``,
        ``architecture``, ``k``, ``target_l0``, ``sparsity`` (k or the target), ``tokens``, ``init_seed``, ``data_seed``,
        ``batch_size``, ``learning_rate``, ``arm`` (label), ``fingerprint``, ``path``, ``train_seconds``, ``final_loss``,
        ``final_l0``, and ``share_<source>`` (token share of its training mix) per source.
    sae_metrics: one row per SAE and evaluation set. ``sae_id``, ``evaluation_set``, ``kind``, ``shared_text`` (see
        :meth:`sae_pipeline.study.Study.shared_text`; not in tables made elsewhere), and one column per metric.
    document_sums: one row per SAE, evaluation set and document. ``document``, ``document_hash``, ``n`` (tokens) and float64
        sums over them: ``sse``, ``cosine``, ``l0``, ``l1``, ``ce_sae``, ``kl`` …
    baseline_sums: one row per evaluation set, layer, ``site`` and document: ``n``, ``sum_sq``, ``ce_clean`` … and ``sum_x``, an
        array (d_model,) in each row.
    feature_stats: one row per SAE, evaluation set and latent: ``latent``, ``fired``, ``density``, ``mean``, ``std``, ``max``.

    Raises:
        BadInput: a table lacks a column that the analysis reads.
    """

    saes: pd.DataFrame
    sae_metrics: pd.DataFrame
    document_sums: pd.DataFrame
    baseline_sums: pd.DataFrame
    feature_stats: pd.DataFrame

    def __post_init__(self) -> None:
        for field in fields(self):
            missing = [name for name in REQUIRED[field.name] if name not in getattr(self, field.name).columns]
            if missing:
                raise BadInput(
                    f"table {field.name}: expected the columns {', '.join(REQUIRED[field.name])}, found none named {', '.join(missing)}; add them"
                )

    @property
    def sites(self) -> list[str]:
        """The sites that SAEs were trained on; one nameless site where the table does not tell."""
        return list(dict.fromkeys(self.saes["site"])) if "site" in self.saes.columns else [""]

    def at_site(self, site: str) -> StudyTables:
        """The tables of one site. SAEs of different sites reconstruct different things and are never compared."""
        if "site" not in self.saes.columns:
            return self
        ids = set(self.saes.loc[self.saes["site"] == site, "sae_id"])
        frames = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {name: frame[frame["sae_id"].isin(ids)] for name, frame in frames.items() if "sae_id" in frame.columns}
        kept["baseline_sums"] = self.baseline_sums[self.baseline_sums["site"] == site]
        return StudyTables(**{name: frame.reset_index(drop=True) for name, frame in kept.items()})


def design(saes: pd.DataFrame) -> pd.DataFrame:
    """The SAEs with the settings they are matched on, sorted by ``sae_id``: columns ``sae_id``, ``d_sae`` and :data:`DESIGN`.

    Derived columns: ``replicate`` names the pair of seeds; ``rate`` is the learning rate as text, or :data:`WIDTH_RULE`,
    so that SAEs of different width trained by one rule still match; ``variant`` spells out the settings of :data:`VARIANT`
    as far as the table has them, after what a table made elsewhere tells in a column of that name. SAEs of one cell that
    share all of that are counted, in the order of their labels: in a table that lacks columns they differ out of sight.
    """
    table = saes.sort_values("sae_id", ignore_index=True)
    by_rule = 2e-4 / np.sqrt(table["d_sae"].astype(float) / 2**14)
    rate = table["learning_rate"].astype(float)
    follows_rule = rate.isna() | np.isclose(rate.fillna(0.0), by_rule, rtol=1e-6)
    table["rate"] = [WIDTH_RULE if rule else f"{value:g}" for rule, value in zip(follows_rule, rate, strict=True)]
    table["replicate"] = [f"s{init}d{data}" for init, data in zip(table["init_seed"], table["data_seed"], strict=True)]
    told = [table["variant"]] if "variant" in table.columns else []
    spelled = told + [name + " " + table[name].map(str) for name in VARIANT if name in table.columns]
    table["variant"] = [", ".join(row) for row in zip(*spelled, strict=True)] if spelled else ""
    in_label_order = table.assign(length=table["arm"].str.len()).sort_values(["length", "arm"], kind="stable")
    repeats = in_label_order.groupby(list(DESIGN), sort=False).cumcount().sort_index()
    table["variant"] += [f" #{n + 1}" if n else "" for n in repeats]
    return table[["sae_id", "d_sae", *DESIGN]]


def regime(expansion: float) -> str:
    """``undercomplete`` below an expansion factor of 1, otherwise ``overcomplete``; the two are never ranked together."""
    return "undercomplete" if expansion < 1 else "overcomplete"


def evaluation_sets(tables: StudyTables, kind: str | None = None) -> list[str]:
    """Names of the evaluation sets, of one kind or of all, sorted."""
    metrics = tables.sae_metrics
    chosen = metrics if kind is None else metrics[metrics["kind"] == kind]
    return sorted(chosen["evaluation_set"].unique())


def in_sample(sae_metrics: pd.DataFrame) -> pd.Series:
    """Bool, whether the set of each row is text like that which its SAE was trained on.

    A study declares a set's kind once, and its mixes may differ: the set of one source is in-sample for the SAEs of that source
    and not for those that never saw it. So the kind has to be in_sample and most of the text has to be shared, as far as it is known.
    """
    own: pd.Series = sae_metrics["kind"] == "in_sample"
    return own & ~(sae_metrics["shared_text"] < MOSTLY) if "shared_text" in sae_metrics.columns else own

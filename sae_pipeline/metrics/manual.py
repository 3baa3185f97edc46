"""The manual page of the metrics, written from the registry: ``python -m sae_pipeline.metrics.manual > docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from sae_pipeline.metrics.definition import Metric
from sae_pipeline.metrics.registry import METRICS

INTRODUCTION = """# Metrics

Every metric of the table `sae_metrics`; written from the registry by `python -m sae_pipeline.metrics.manual`.

All are computed on held-out documents in raw model units, with any input normalisation folded into the SAE and with the rule it
is used with: TopK takes the k largest of each token, BatchTopK, Matryoshka and JumpReLU use their thresholds, so no token's
latents depend on what else is in a batch. Tokens that belong to no document (BOS, separators, control tokens) are left out
everywhere.

- **Sums before ratios.** Reconstruction and loss metrics are float64 sums per document (`document_sums`, `baseline_sums`), added
  up first and divided once; so any subset or bootstrap sample of documents gives the metric it would have had. Ratios are never
  averaged and nothing is clamped, except under `legacy.`, where other tools do.
- **Per position.** `position_sums` and `baseline_position_sums` hold the same sums by position in the context, with the explained
  variance around each position's own mean.
- **Per latent.** `feature_stats` holds how often and how strongly each latent fires, with deciles; `top_contexts` and
  `context_text` where. The ids above the cuts of `dense_share@…` are in `dense_latents.json` beside the warehouse.
- **Dead latents** are a matter of the window. `dead_share`, `dead_share_lt5` and `dead_share_5e4` look at the evaluation set and
  its `n_tokens`; the share of latents that were silent for an arm's window of training (`dead_window_share` of its tokens) is
  `dead_share` in the table `training`.
- **Not applicable** is null, for the reason in the row *missing when*. Cross-entropies of an encoder are null, for it predicts no
  next token.
- **Names.** Ids that hold an `@` or a `.` are quoted in SQL: `SELECT "legacy.sparsify.fvu" FROM sae_metrics`.

In the formulas x is an activation, x_hat its reconstruction, f the latents, W_dec_i the decoder row of latent i, n the tokens of
the set, mu their mean activation, |.| the Euclidean norm and sums run over tokens where nothing else is said.
"""

LEGACY = """## Other tools' formulas

What other tools print under these names, on the same tokens, so that published numbers can be reconciled with ours. No verdict uses them.
"""


def page() -> str:
    """The whole page in Markdown."""
    own = [name for name in METRICS if not name.startswith("legacy.")]
    rivals = [name for name in METRICS if name not in own]
    sections = [line for names, opening in ((own, "## Ids\n"), (rivals, LEGACY)) for line in (opening, *_entries(names))]
    return "\n".join([INTRODUCTION, *sections])


def _entries(names: list[str]) -> Iterator[str]:
    for name in names:
        yield f"### `{name}`\n"
        yield f"{METRICS[name].description[0].upper()}{METRICS[name].description[1:]}.\n"
        yield "| | |"
        yield "|---|---|"
        yield from (f"| {title} | {_cell(text)} |" for title, text in _rows(METRICS[name]) if text)
        yield ""


def _rows(metric: Metric) -> Iterator[tuple[str, str]]:
    yield "formula", f"`{metric.formula}`"
    yield "unit", "pure number" if metric.unit == "1" else metric.unit
    yield "range", f"{_bound(metric.range[0])} to {_bound(metric.range[1])}"
    yield "better", f"{metric.better} at equal sparsity" if metric.better else "neither end in itself"
    yield "missing when", metric.null_when
    yield "source", metric.source
    yield "elsewhere", metric.elsewhere
    yield "mind", metric.pitfalls


def _bound(value: float) -> str:
    return {inf: "unbounded", -inf: "unbounded below"}.get(value, f"{value:g}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")

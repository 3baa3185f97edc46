"""The registry names every metric that an evaluation gives, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import torch
from metrics_toys import LinearModel, MemoryShards, evaluated, random_corpus, random_sae

from sae_pipeline.metrics.registry import METRICS, registry_frame


def test_an_evaluation_gives_exactly_the_registered_metrics_in_order_and_in_range() -> None:
    """A metric without a description, or a description without a metric, would show up here."""
    generator = torch.Generator().manual_seed(0)
    corpus = random_corpus(10, 12, 5, generator)
    model = LinearModel(torch.randn(5, 4, generator=generator), torch.randn(4, 5, generator=generator))
    shards = MemoryShards(model.embedding[corpus.tokens.long()].flatten(0, 1), corpus.document.flatten())
    metrics = evaluated({"sae": random_sae(4, 8, "topk", generator)}, shards, corpus, model)["sae"].metrics
    assert list(metrics) == list(METRICS)
    for name, value in metrics.items():
        low, high = METRICS[name].range
        assert value is None or low <= value <= high, name
    missing = ["dead_share_5e4", "fake_feature_ratio", "first_letter_absorption", "first_letter_absorption_full"]
    assert [name for name, value in metrics.items() if value is None] == missing


def test_the_registry_as_a_table_says_of_every_metric_what_it_is() -> None:
    """One row per metric, in order; ids and words are there for all, a direction only where one end is better."""
    table = registry_frame().set_index("id")
    assert list(table.index) == list(METRICS)
    assert (table[["description", "formula", "unit", "null_when"]].map(len) > 0).all(axis=None)
    assert (table["minimum"] < table["maximum"]).all()
    assert table.loc["explained_variance", ["unit", "minimum", "maximum", "better"]].tolist() == ["1", float("-inf"), 1, "higher"]
    assert table.loc["l2_ratio", "better"] is None
    assert set(table["better"].dropna()) == {"higher", "lower"}


def test_the_registry_and_the_ratios_import_no_torch() -> None:
    """Reports and definitions read them without paying for torch."""
    code = "import sys, sae_pipeline.metrics.registry, sae_pipeline.metrics.ratios; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

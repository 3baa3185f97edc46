"""What the report says of recall by rank is the estimate for all tokens, not the share of the draw."""

from __future__ import annotations

import numpy as np
import synthetic_concepts as made_up

from sae_pipeline.reports.concepts import concepts_section


def test_the_shares_by_rank_in_words_are_the_estimated_ones() -> None:
    """Half of the tokens drawn at ranks 100 to 999 have a feature; the estimates are 10 % in one mix and 30 % in the other."""
    tables = made_up.tables()
    recall = tables["tail_recall"].copy()
    last = recall["rank_low"].eq(100).fillna(False)
    recall.loc[last, "with_feature"] = 1
    recall.loc[last, "share"] = np.resize([0.1, 0.1, 0.3, 0.3], int(last.sum()))
    plots = concepts_section(tables | {"tail_recall": recall}, made_up.saes(), 0.95).plots
    title = next(plot.title for plot in plots if plot.name == "concepts-tail")
    assert title == "100 % of the tokens at ranks 1 to 9 and 20 % of the tokens at ranks 100 to 999 have a feature"

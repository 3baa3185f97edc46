"""The section on the text: what each corpus holds, what it holds twice, whether it is enough, and how its tokens are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.corpora.adequacy import ABOVE, ADEQUATE, BELOW, OPTIMAL, size_adjustments
from sae_pipeline.corpora.near_duplicates import THRESHOLD
from sae_pipeline.corpora.statistics import WHOLE
from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Plot, Section, Table, number_cell, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.style import markers, named_colours, styled
from sae_pipeline.reports.wording import NONE, counted, listed, percent

MARK_OF = {OPTIMAL: "good", ADEQUATE: "acceptable", ABOVE: "warning", BELOW: "poor"}
"""Colour of each verdict of the adequacy check, as for health marks."""

TOP_RANK = 100
"""The statement over the figure is about this many tokens: mostly function words and punctuation in any text."""


def corpora_section(
    statistics: pd.DataFrame,
    duplicates: pd.DataFrame,
    adequacy: pd.DataFrame,
    ranks: pd.DataFrame,
    left_out: pd.DataFrame,
    *,
    mixes: Sequence[str],
    sources: Sequence[str],
) -> Section:
    """What the text of a study is.

    Args:
        statistics: columns ``corpus`` and :data:`~sae_pipeline.corpora.statistics.STATISTICS_COLUMNS`, of mixes and evaluation sets.
        duplicates: columns :data:`~sae_pipeline.corpora.near_duplicates.DUPLICATE_COLUMNS`.
        adequacy: columns ``corpus`` and :data:`~sae_pipeline.corpora.adequacy.ADEQUACY_COLUMNS`, of the training mixes.
        ranks: columns ``corpus`` and :data:`~sae_pipeline.corpora.token_frequencies.RANK_COLUMNS`.
        left_out: columns ``corpus`` and :data:`~sae_pipeline.corpora.statistics.LEFT_OUT_COLUMNS`.
        mixes: training mixes in the order of the study.
        sources: sources in the order of the study, so that a source has one colour whichever corpus it is in.
    """
    if statistics.empty:
        return Section("text", "Text", ("No corpus of this study has been described.",))
    sentences = (_prefixes(statistics), *_found_twice(duplicates, mixes), *_enough(adequacy))
    tables = (
        statistics_table(statistics),
        *(
            table
            for table in (within_table(duplicates), crossing_table(duplicates, mixes), adequacy_table(adequacy), left_out_table(left_out))
            if table.rows
        ),
    )
    largest = in_largest_corpus(ranks, statistics, mixes, sources)
    plots = (rank_plot(largest, sources),) if len(largest) else ()
    return Section("text", "Text", sentences, plots=plots, tables=tables)


# ------------------------------------------------------------------------------------------------ sentences


def _prefixes(statistics: pd.DataFrame) -> str:
    known = statistics["prefix_words"]
    size = (
        f"the first {int(known.max()):,} words" if known.nunique() == 1 else f"the first words, {int(known.min()):,} to {int(known.max()):,} of them"
    )
    return (
        f"Type-token ratio and 3-gram diversity are taken over {size} of each row; both fall as a text gets longer, so compare only rows over "
        "equally many words. A lower zlib ratio means more repetition."
    )


def _found_twice(duplicates: pd.DataFrame, mixes: Sequence[str]) -> list[str]:
    """Whether held-out text is in the training text, in words."""
    crossed = duplicates[duplicates["against"].isin(list(mixes)) & (duplicates["corpus"] != duplicates["against"])]
    if crossed.empty:
        return []
    near = f"near-duplicate (estimated Jaccard similarity of word 5-grams at or above {THRESHOLD:g})"
    copied = crossed[crossed["exact"] > 0]
    said = [
        "No held-out document is in a training mix word for word."
        if copied.empty
        else f"Held-out text is in the training text word for word: {listed([f'{r.exact:,} of {r.corpus} in {r.against}' for r in rows_of(copied)])}."
    ]
    close = crossed[crossed["near"] > 0]
    if close.empty:
        said.append(f"No held-out document has a {near} in a training mix.")
    else:
        most = close.sort_values("near_share", ascending=False, kind="stable").iloc[0]
        said.append(
            f"Of {most['corpus']}, {int(most['near']):,} of {counted(int(most['documents']), 'document')} have a {near} in {most['against']}, "
            "the largest share of any evaluation set and mix: on those documents held-out figures are closer to figures on training text."
        )
    return said


def _enough(adequacy: pd.DataFrame) -> list[str]:
    if adequacy.empty:
        return []
    name = adequacy["requirements"].iloc[0]
    short = adequacy[adequacy["verdict"] == BELOW]
    if short.empty:
        said = [f"No mix falls below a minimum of {name}."]
    else:
        by_quantity = [f"{_words(str(q))} ({listed(list(rows['corpus']))})" for q, rows in short.groupby("quantity", sort=False)]
        said = [f"Below the minimum of {name}: {listed(by_quantity)}."]
    contexts = adequacy[adequacy["quantity"] == "contexts"]
    sized = {r.corpus: size_adjustments(int(r.found)) for r in rows_of(contexts)}
    classes = {corpus: table[table["applies"]].iloc[0] for corpus, table in sized.items()}
    for size in dict.fromkeys(row["size_class"] for row in classes.values()):
        corpora = [corpus for corpus, row in classes.items() if row["size_class"] == size]
        said.append(_adjustment(corpora, classes[corpora[0]]))
    return said


def _adjustment(corpora: list[str], row: pd.Series) -> str:
    """The rule of thumb for corpora of one size."""
    settings = [(name, row[name]) for name in ("learning_rate", "batch_size", "epochs", "regularisation")]
    changed = [f"{_words(name)} ×{value:g}" for name, value in settings if value != 1]
    advice = f"a rule of thumb, not applied, is {listed(changed)}" if changed else "the usual settings"
    dead = (
        f", with {100 * row['dead_share_low']:.0f} to {100 * row['dead_share_high']:.0f} % dead latents expected" if row["dead_share_low"] > 0 else ""
    )
    return f"By size (contexts: {row['contexts']}), {listed(corpora)} {'is' if len(corpora) == 1 else 'are'} {row['size_class']}: {advice}{dead}."


def _words(name: str) -> str:
    return name.replace("_", " ")


# ------------------------------------------------------------------------------------------------ tables


def statistics_table(statistics: pd.DataFrame) -> Table:
    """One row per corpus and scope."""
    columns = (
        "corpus", "text", "documents", "tokens", "token share", "words per document", "type-token ratio", "3-gram diversity", "zlib ratio",
        "refusals (share of documents)", "exact duplicates left out", "near-duplicates (share of documents)",
    )  # fmt: skip
    rows = tuple(
        text_row(
            r.corpus, r.scope, _count(r.documents), _count(r.tokens), Cell(percent(r.share), r.share), _decimal(r.mean_words_per_document, 1),
            _decimal(r.type_token_ratio, hint=f"over {int(r.prefix_words):,} words"), _decimal(r.trigram_diversity, hint=f"over {int(r.prefix_words):,} words"),
            _decimal(r.zlib_ratio), _decimal(r.refusal_rate, 4), _count(r.exact_duplicates), _decimal(r.near_duplicate_rate, 4),
        ) for r in rows_of(statistics)
    )  # fmt: skip
    return Table("What each corpus holds, as a whole and by source", columns, rows, folded=len(rows) > FOLD_ROWS)


def within_table(duplicates: pd.DataFrame) -> Table:
    """Repeats within each corpus."""
    here = duplicates[duplicates["corpus"] == duplicates["against"]]
    columns = ("corpus", "documents", "same text as an earlier one", "near-duplicate of another", "share")
    rows = tuple(text_row(r.corpus, _count(r.documents), _count(r.exact), _count(r.near), _decimal(r.near_share, 4)) for r in rows_of(here))
    return Table("Duplicates within each corpus (beyond the first of each group)", columns, rows, folded=len(rows) > FOLD_ROWS)


def crossing_table(duplicates: pd.DataFrame, mixes: Sequence[str]) -> Table:
    """Held-out documents with a near-duplicate in each training mix: evaluation sets down, mixes across."""
    crossed = duplicates[duplicates["against"].isin(list(mixes)) & (duplicates["corpus"] != duplicates["against"])]
    shown = [mix for mix in mixes if mix in set(crossed["against"])]
    rows = []
    for corpus, here in crossed.groupby("corpus", sort=False):
        cells: Mapping[str, Cell] = {
            r.against: Cell(
                f"{r.near:,} ({percent(r.near_share)})", r.near_share, "poor" if r.exact else "warning" if r.near else "good",
                f"{r.near:,} of {counted(int(r.documents), 'document')}, {r.exact:,} of them word for word",
            ) for r in rows_of(here)
        }  # fmt: skip
        rows.append((Cell(str(corpus)), *(cells.get(mix, Cell(NONE)) for mix in shown)))
    return Table("Held-out documents with a near-duplicate in each training mix", ("evaluation set", *shown), tuple(rows))


def adequacy_table(adequacy: pd.DataFrame) -> Table:
    """Each training mix against the requirements, with marks."""
    columns = ("mix", "quantity", "found", "minimum", "optimal", "maximum", "verdict", "what follows")
    rows = tuple(
        text_row(
            r.corpus, f"{_words(r.quantity)} ({r.unit})" if r.quantity != r.unit else r.quantity, _count(r.found), Cell(_limit(r.minimum), r.minimum),
            Cell(f"{_limit(r.optimal_low)} to {_limit(r.optimal_high)}", r.optimal_low), Cell(_limit(r.maximum), r.maximum),
            Cell(r.verdict, mark=MARK_OF[r.verdict]), r.follows or NONE,
        ) for r in rows_of(adequacy)
    )  # fmt: skip
    return Table("Each training mix against the requirements", columns, rows, folded=len(rows) > FOLD_ROWS)


def left_out_table(left_out: pd.DataFrame) -> Table:
    """Records that were read and are not in a corpus, by reason."""
    rows = tuple(text_row(r.corpus, r.source, _words(r.reason), _count(r.records)) for r in rows_of(left_out))
    return Table("Records left out while the text was read", ("corpus", "source", "reason", "records"), rows, folded=True)


def _count(value: float) -> Cell:
    return Cell(f"{int(value):,}", float(value))


def _limit(value: float) -> str:
    """``1,024``, ``500M``: limits below ten thousand in full."""
    return f"{value:,.0f}" if value < 10_000 else compact(value)


def _decimal(value: float, digits: int = 3, hint: str = "") -> Cell:
    return replace(number_cell(value, digits), hint=hint)


# ------------------------------------------------------------------------------------------------ figure


def in_largest_corpus(ranks: pd.DataFrame, statistics: pd.DataFrame, mixes: Sequence[str], sources: Sequence[str]) -> pd.DataFrame:
    """Ranks of each source in the training mix that holds most of its tokens (mixes hold prefixes of one stream), sources in the given order."""
    held = statistics[statistics["corpus"].isin(list(mixes)) & statistics["scope"].isin(list(sources)) & (statistics["scope"] != WHOLE)]
    parts = []
    for source in sources:
        mine = held[held["scope"] == source]
        if len(mine):
            corpus = mine.sort_values("tokens", ascending=False, kind="stable")["corpus"].iloc[0]
            parts.append(ranks[(ranks["source"] == source) & (ranks["corpus"] == corpus)])
    return pd.concat(parts, ignore_index=True) if parts else ranks.iloc[:0]


def rank_plot(ranks: pd.DataFrame, sources: Sequence[str]) -> Plot:
    """The rank-frequency figure under a statement about the most frequent tokens."""
    top = ranks[ranks["rank"] <= TOP_RANK].groupby("source", sort=False)["cumulative_share"].max()
    low, high = str(top.idxmin()), str(top.idxmax())
    said = (
        f"between {percent(top[low])} ({low}) and {percent(top[high])} ({high}) of a source's text"
        if low != high
        else f"{percent(top[low])} of {low}"
    )
    title = f"The {TOP_RANK} most frequent tokens make up {said}"
    caption = (
        "Share of a source's tokens against the token's rank in that source, both on logarithmic axes; text that follows Zipf's law runs along the dotted slope. "
        "Each source as it is in the training mix that holds most of it."
    )
    return Plot("text", title, caption, ranks, partial(rank_frequency, ranks, title, sources=sources))


def rank_frequency(ranks: pd.DataFrame, title: str, *, sources: Sequence[str]) -> Figure:
    """Share against rank, a line per source.

    Args:
        ranks: columns source, rank, share.
        title: the statement the figure supports.
        sources: all sources of the study in its order, so that a source has one colour in every figure.
    """
    colours, shapes = named_colours(sources), markers(sources)
    with styled():
        fig = Figure(figsize=(6.8, 4.6), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        ax = fig.subplots()
        for source, line in ranks.groupby("source", sort=False):
            every = max(len(line) // 8, 1)
            ax.plot(line["rank"], line["share"], color=colours[str(source)], marker=shapes[str(source)], markevery=every, markersize=5, label=source)
        ends = [1.0, float(ranks["rank"].max())]
        highest = float(ranks["share"].max())
        ax.plot(ends, [highest / end for end in ends], color="#555555", linestyle=":", linewidth=1.2, label="slope −1 (Zipf)")
        ax.set(xscale="log", yscale="log", xlabel="rank of the token in its source (log scale)", ylabel="share of the source's tokens (log scale)")
        ax.set_ylim(bottom=float(ranks["share"].min()) / 2)
        ax.legend(title="source", alignment="left", fontsize=9, title_fontsize=9)
        return fig

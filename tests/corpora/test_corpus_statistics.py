"""Claims about the statistics of text: hand counts, bounded prefixes, and nothing that depends on how text is cut."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed_toy import toy, toy_of

from sae_pipeline.corpora.near_duplicates import signatures
from sae_pipeline.corpora.statistics import (
    LEFT_OUT_COLUMNS,
    PREFIX_WORDS,
    STATISTICS_COLUMNS,
    TEXT_COLUMNS,
    corpus_statistics,
    left_out,
)

WORDS = st.lists(st.lists(st.sampled_from("abcde"), max_size=12).map(" ".join), max_size=8)


def whole(texts: list[str], prefix_words: int = PREFIX_WORDS) -> dict[str, float]:
    """The row of the published table for a corpus of these texts."""
    table = corpus_statistics(toy_of(texts), signatures(texts), prefix_words=prefix_words)
    return table.iloc[0].to_dict()


def test_hand_count_of_two_short_documents() -> None:
    found = whole(["a b a b a", "A  b\nc"])
    # words a b a b a | a b c; 3-grams aba bab aba | abc
    assert found["documents"] == 2
    assert found["words"] == found["prefix_words"] == 8
    assert found["mean_words_per_document"] == 4
    assert found["type_token_ratio"] == 3 / 8
    assert found["trigram_diversity"] == 3 / 4
    assert found["refusal_rate"] == 0


@given(WORDS, st.integers(1, 40))
def test_variety_agrees_with_sets_of_the_first_words(texts: list[str], limit: int) -> None:
    words, trigrams, room = [], [], limit
    for text in texts:
        taken = text.split()[:room]
        room -= len(taken)
        words += taken
        trigrams += list(zip(taken, taken[1:], taken[2:], strict=False))
    found = whole(texts, prefix_words=limit)
    assert found["prefix_words"] == len(words)
    assert found["type_token_ratio"] == pytest.approx(len(set(words)) / len(words) if words else math.nan, nan_ok=True)
    assert found["trigram_diversity"] == pytest.approx(len(set(trigrams)) / len(trigrams) if trigrams else math.nan, nan_ok=True)


@given(WORDS)
def test_order_of_documents_changes_no_count_taken_over_the_whole_text(texts: list[str]) -> None:
    one, other = whole(texts), whole(texts[::-1])
    for name in TEXT_COLUMNS:
        if name != "zlib_ratio":
            assert one[name] == pytest.approx(other[name], nan_ok=True)


def test_words_beyond_the_prefix_count_as_words_but_not_for_variety() -> None:
    found = whole(["a b c d", "a a a a"], prefix_words=4)
    assert (found["words"], found["prefix_words"], found["type_token_ratio"], found["trigram_diversity"]) == (8, 4, 1, 1)


def test_zlib_ratio_is_that_of_zlib_on_the_joined_text() -> None:
    texts = ["one line of text", "and another one", "é" * 50]
    raw = "".join(text + "\n" for text in texts).encode()
    assert whole(texts)["zlib_ratio"] == len(zlib.compress(raw, 6)) / len(raw)


def test_zlib_ratio_does_not_depend_on_how_text_is_cut_into_documents_beyond_the_line_ends() -> None:
    generator = np.random.default_rng(0)
    lines = [" ".join(map(str, generator.integers(0, 1000, 200))) for _ in range(3000)]  # over 2 MB: three chunks
    joined = whole(["\n".join(lines)])["zlib_ratio"]
    assert whole(lines)["zlib_ratio"] == joined
    raw = ("\n".join(lines) + "\n").encode()
    assert joined == sum(len(zlib.compress(raw[at : at + 2**20], 6)) for at in range(0, len(raw), 2**20)) / len(raw)


def test_repeated_text_compresses_better_than_random_text() -> None:
    generator = np.random.default_rng(0)
    random = " ".join(map(str, generator.integers(0, 10**6, 5000)))
    assert whole(["again and again " * 2000])["zlib_ratio"] < 0.02 < 0.4 < whole([random])["zlib_ratio"]


def test_nothing_read_gives_no_ratio_rather_than_an_error() -> None:
    found = whole([])
    assert found["documents"] == found["words"] == 0
    assert all(math.isnan(found[name]) for name, (_, unit) in TEXT_COLUMNS.items() if unit == "share")


def test_half_a_surrogate_pair_is_counted_like_any_character() -> None:
    assert whole(["a \ud800 b"])["words"] == 3


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("As an AI language model, I have no opinion.", True),
        ("I\u2019m sorry, but I must stop here.", True),
        ("Sadly, I\n  cannot\tassist with that.", True),
        ("I'm sorry, said the captain; I cannot leave the ship.", False),
        ("such as an aide", False),
        ("Was an AI built?", False),
        ("", False),
    ],
)
def test_refusals_are_phrases_of_a_model_that_declines_and_not_of_ordinary_prose(text: str, refuses: bool) -> None:
    assert whole([text])["refusal_rate"] == float(refuses)


def test_table_of_a_corpus_has_the_hand_counted_figures() -> None:
    corpus = toy()
    table = corpus_statistics(corpus, signatures(corpus.texts()))
    assert list(table.columns) == list(STATISTICS_COLUMNS)
    assert list(table["scope"]) == ["whole corpus", "chat", "prose"]
    rows = table.set_index("scope")
    assert list(rows["contexts"]) == [4, 1, 3]
    assert list(rows["tokens"]) == [15, 4, 11]
    assert list(rows["share"]) == [1, 0.25, 0.75]
    assert list(rows["documents"]) == [4, 2, 2]
    assert list(rows["words"]) == [24, 12, 12]
    assert list(rows["refusal_rate"]) == [0.25, 0.5, 0]
    # prose: the cat sat on mat hat; chat: as an ai, i cannot say + the cat sat on mat
    assert list(rows["type_token_ratio"]) == [12 / 24, 11 / 12, 6 / 12]
    # 3-grams, four a document: the two of prose differ in the last one only
    assert list(rows["trigram_diversity"]) == [9 / 16, 8 / 8, 5 / 8]
    assert list(rows["exact_duplicates"]) == [5, 0, 5]
    # "the cat sat on the mat" is a document of both sources
    assert list(rows["shared_documents"]) == [2, 1, 1]
    assert list(rows["near_duplicates"]) == [1, 0, 0]
    assert list(rows["near_duplicate_rate"]) == [0.25, 0, 0]


def test_a_source_of_a_corpus_has_the_figures_of_its_text_alone() -> None:
    corpus = toy()
    table = corpus_statistics(corpus, signatures(corpus.texts())).set_index("scope")
    for scope, texts in {"prose": corpus.held[:2], "chat": corpus.held[2:]}.items():
        alone = whole(texts)
        for name in TEXT_COLUMNS:
            assert table.loc[scope, name] == alone[name], name


def test_records_left_out_are_listed_by_source_and_reason() -> None:
    table = left_out(toy())
    assert list(table.columns) == list(LEFT_OUT_COLUMNS)
    assert table.to_numpy().tolist() == [["prose", "duplicate", 5], ["prose", "empty", 2]]

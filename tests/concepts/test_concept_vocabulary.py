"""The text and the concepts in it: halves, documents read once, tokens drawn by rank, words found by hand and by regex."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from concept_toys import PIECES, HeldShards, PieceTokenizer, corpus_of

from sae_pipeline.concepts.text import FITTED, JUDGED, UNREAD, half_of, read_sets
from sae_pipeline.concepts.vocabulary import Keywords, MixText, Vocabulary, pattern, ranks, sample_tokens, token_texts
from sae_pipeline.corpora.tokenization import TextTokenizer


def spelt(*contexts: str) -> list[list[int]]:
    """Ids of contexts written as pieces separated by bars; each begins with BOS."""
    return [[0, *(PIECES.index(piece) for piece in context.split("|"))] for context in contexts]


def found_in(tokens: list[list[int]], document: list[list[int]], **words: list[str]) -> list[tuple[int, int, bool]]:
    keywords = Keywords.of(words, PieceTokenizer())
    marks = keywords.find(corpus_of(tokens, document), len(tokens))
    return list(zip(marks.row.tolist(), marks.concept.tolist(), marks.present.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------ text


def test_special_tokens_are_not_read_and_a_shared_document_is_read_in_the_first_set() -> None:
    first = corpus_of([[0, 1, 2, 3]], [[-1, 0, 0, 1]], ["one", "two"])
    second = corpus_of([[0, 3, 4, 5], [0, 5, 6, 7]], [[-1, 0, 1, 1], [-1, 1, 1, 1]], ["two", "three"])
    one, two = read_sets({"a": (first, HeldShards(torch.zeros(4, 2))), "b": (second, HeldShards(torch.zeros(8, 2)))}, tokens=1_000)
    assert one.half.tolist() == [UNREAD, half_of("one"), half_of("one"), half_of("two")]
    assert two.half.tolist() == [UNREAD, UNREAD, half_of("three"), half_of("three"), UNREAD, *[half_of("three")] * 3]
    assert two.document.tolist() == [-1, -1, 0, 0, -1, 0, 0, 0]
    assert (one.documents, two.documents) == (2, 1)
    assert [rows.tolist() for rows, _ in two.batches()] == [[2, 3, 5, 6, 7]]


def test_no_more_contexts_are_read_than_hold_the_tokens() -> None:
    corpus = corpus_of([[0, 1]] * 5, [[-1, n] for n in range(5)])
    (read,) = read_sets({"a": (corpus, HeldShards(torch.zeros(10, 2)))}, tokens=5)
    assert (read.contexts, read.documents) == (3, 3)
    assert torch.cat([rows for rows, _ in read.batches()]).tolist() == [1, 3, 5]


def test_halves_are_halves() -> None:
    fitted = sum(half_of(f"document {n}") == FITTED for n in range(4_000))
    assert abs(fitted - 2_000) < 4 * np.sqrt(1_000)


# ------------------------------------------------------------------------------------------------ tokens


def test_tokens_are_drawn_log_uniformly_over_ranks() -> None:
    """Over many seeds the first of 200 ids is drawn first with chance 1 / (1 + 1/2 + … + 1/200), the second with half of it."""
    frequency = np.arange(200, 0, -1)
    first = np.array([sample_tokens(np.ones(200, bool), frequency, 1, seed).tokens[0] for seed in range(4_000)])
    expected = 1 / np.arange(1, 201) / (1 / np.arange(1, 201)).sum()
    found = np.bincount(first, minlength=200) / 4_000
    assert np.abs(found[:5] - expected[:5]).max() < 4 * np.sqrt(expected[0] / 4_000)


def test_weights_of_one_over_the_chance_of_a_draw_give_counts_of_the_vocabulary_without_bias() -> None:
    """Ids at ranks 1 to 9 and 10 to 299, counted from draws of 10: right up to four standard errors, for every third id as for all."""
    frequency, every_third = np.arange(299, 0, -1), np.arange(299) % 3 == 0
    for eligible in (np.ones(299, bool), every_third):
        draws = [sample_tokens(eligible, frequency, 10, seed) for seed in range(400)]
        for ids in (np.arange(9), np.arange(9, 299)):
            counted = np.array([(1 / draw.chance)[np.isin(draw.tokens, ids)].sum() for draw in draws])
            assert abs(counted.mean() - eligible[ids].sum()) < 4 * counted.std(ddof=1) / np.sqrt(len(draws))


def test_only_eligible_tokens_are_drawn_each_once_and_the_most_frequent_first() -> None:
    eligible = np.arange(50) % 3 == 0
    drawn, chance = sample_tokens(eligible, np.arange(50), 100, seed=0)
    assert chance.tolist() == [1.0] * len(drawn)
    assert sorted(drawn) == np.flatnonzero(eligible).tolist()
    assert drawn.tolist() == sorted(drawn, reverse=True)
    assert ranks(np.array([5, 9, 5])).tolist() == [2, 1, 3]


def test_concepts_are_marked_where_they_are_and_counted_in_either_half() -> None:
    tokens = spelt(" the| cat|.", " cat| cat| the")
    names = [next(f"document {n}" for n in range(99) if half_of(f"document {n}") == half) for half in (FITTED, JUDGED)]
    corpus = corpus_of(tokens, [[-1, 0, 0, 0], [-1, 1, 1, 1]], names)
    (read,) = read_sets({"set": (corpus, HeldShards(torch.zeros(8, 2)))}, tokens=100)
    words = {"animals": ["cat"]}
    keywords = Keywords.of(words, PieceTokenizer())
    counts = np.bincount([8] * 5 + [5] * 2, minlength=len(PIECES))
    mix = MixText.of(corpus, counts, keywords)
    vocabulary = Vocabulary.of([read], {"MIX": mix}, words, keywords, number=9, least=1, seed=0)
    the, cat = PIECES.index(" the"), PIECES.index(" cat")
    assert vocabulary.tokens.tolist() == [the, cat]  # each in both halves, the full stop in one
    assert vocabulary.present.tolist() == [[1, 1, 1], [1, 2, 2]]
    marks = vocabulary.marks[0]
    assert list(zip(marks.row.tolist(), marks.concept.tolist(), strict=True)) == [(1, 0), (2, 1), (2, 2), (5, 1), (5, 2), (6, 1), (6, 2), (7, 0)]
    assert vocabulary.frequency(mix) == pytest.approx([5 / 7 * 1e6, 2 / 7 * 1e6, 3 / 6 * 1e6])


# ------------------------------------------------------------------------------------------------ words


def test_a_word_of_several_tokens_is_present_on_its_last_and_the_others_are_left_out() -> None:
    found = found_in(spelt(" the| che|mist|ry|."), [[-1, 0, 0, 0, 0, 0]], chemistry=["chemistry"])
    assert found == [(2, 0, False), (3, 0, False), (4, 0, True)]


def test_whole_words_are_found_in_either_case_and_phrases_with_their_space() -> None:
    tokens = spelt(" the| cat|s|.|Cat|.", "Cat| black| cat|s|.|.")
    documents = [[-1, *[n] * 6] for n in range(2)]
    assert found_in(tokens, documents, cats=["cat"], pairs=["cat black", "cats"]) == [
        (2, 1, False),
        (3, 1, True),
        (5, 0, True),
        (8, 0, True),
        (8, 1, False),
        (9, 1, True),
        (10, 1, False),
        (11, 1, True),
    ]


def test_no_word_reaches_across_documents() -> None:
    tokens = spelt(" che|mist|ry", " che|mist|ry")
    assert found_in(tokens, [[-1, 0, 0, 1], [-1, 2, -1, 2]], chemistry=["chemistry"], part=["chemist"]) == [(1, 1, False), (2, 1, True)]


def test_words_are_what_a_regex_finds_in_the_text() -> None:
    assert [bool(pattern(["big cat", "c++x"]).search(text)) for text in ("a Big\n Cat.", "big cats", "C++x!", "bigcat")] == [True, False, True, False]


@pytest.mark.parametrize("checkpoint", ["tiny_llama", "tiny_bert"])
def test_the_texts_of_tokens_put_together_are_the_text(checkpoint: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(checkpoint)
    tokenizer = TextTokenizer.load(folder)
    texts = token_texts(tokenizer)
    line = "then the dog ran home and saw golden butter while rain fell"
    (ids,) = tokenizer.encode([line])
    assert re.sub(r"\s+", " ", "".join(texts[token] for token in ids)).strip() == line
    marks = Keywords.of({"food": ["butter"]}, tokenizer).find(corpus_of([[tokenizer.bos_id, *ids]], [[-1, *[0] * len(ids)]]), 1)
    last = int(marks.row[marks.present])
    assert tokenizer.decode([ids[:last]])[0].endswith("golden butter")

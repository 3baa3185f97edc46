"""Claims about near-duplicates: the estimate against exact Jaccard, grouping and crossing against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_pipeline.corpora import near_duplicates
from sae_pipeline.corpora.documents import document_hash
from sae_pipeline.corpora.near_duplicates import (
    DUPLICATE_COLUMNS,
    N_HASHES,
    Sketch,
    crossing,
    duplicate_counts,
    estimated_jaccard,
    near_duplicate_groups,
    on_both_sides,
    redundant,
    signatures,
)


def shingles(text: str) -> set[tuple[str, ...]]:
    """The definition, in Python sets."""
    words = text.lower().split()
    return {tuple(words[at : at + 5]) for at in range(max(len(words) - 4, 1))}


def jaccard(a: str, b: str) -> float:
    """Exact Jaccard similarity of the shingles of two texts."""
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def edited(words: list[str], changes: int, generator: np.random.Generator) -> str:
    """The words with some of them replaced."""
    words = list(words)
    for place in generator.choice(len(words), changes, replace=False):
        words[place] = f"new{generator.integers(10**9)}"
    return " ".join(words)


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[str]]:
    """Pairs of texts of 100 to 400 words over the whole range of similarity."""
    generator = np.random.default_rng(0)
    originals = [[f"w{n}" for n in generator.integers(0, 5000, generator.integers(100, 400))] for _ in range(400)]
    return [" ".join(words) for words in originals], [edited(words, generator.integers(0, 25), generator) for words in originals]


def test_error_of_the_estimate_is_that_of_theory(pairs: tuple[list[str], list[str]]) -> None:
    a, b = pairs
    exact = np.array([jaccard(x, y) for x, y in zip(a, b, strict=True)])
    error = estimated_jaccard(signatures(a), signatures(b)) - exact
    expected = exact * (1 - exact) / N_HASHES
    assert np.sqrt((error**2).mean()) < 1 / np.sqrt(N_HASHES)
    # mean and variance of 400 independent estimates: four standard errors
    assert abs(error.mean()) < 4 * np.sqrt(expected.mean() / len(exact))
    assert (error**2).sum() / expected.sum() == pytest.approx(1, abs=4 * np.sqrt(2 / len(exact)))


def test_hash_functions_err_independently(pairs: tuple[list[str], list[str]]) -> None:
    equal = signatures(pairs[0]) == signatures(pairs[1])
    exact = np.array([jaccard(x, y) for x, y in zip(*pairs, strict=True)])
    residual = (equal - exact[:, None]) / np.sqrt(np.maximum(exact * (1 - exact), 1e-9))[:, None] * (exact < 1)[:, None]
    correlation = (residual.T @ residual / (exact < 1).sum())[np.triu_indices(N_HASHES, 1)]
    assert abs(correlation.mean()) < 0.01


@given(st.lists(st.text("ab \n", max_size=40), max_size=12), st.integers(0, 12))
def test_signature_depends_on_nothing_but_the_words_of_the_document(texts: list[str], cut: int) -> None:
    whole = signatures(texts)
    assert whole.shape == (len(texts), N_HASHES)
    assert np.array_equal(whole, np.concatenate([signatures(texts[:cut]), signatures(texts[cut:])]))
    assert np.array_equal(whole, signatures([f" {text.upper()}\n" for text in texts]))


def test_signature_does_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch, pairs: tuple[list[str], list[str]]) -> None:
    texts = ["", "one", "two words", "a b c d e", *pairs[0][:40]]
    whole = signatures(texts)
    monkeypatch.setattr(near_duplicates, "WORDS_AT_ONCE", 37)  # documents longer than a batch as well
    assert np.array_equal(whole, signatures(texts))


def test_estimate_is_exact_at_both_ends() -> None:
    same, other = signatures(["a b c d e f g", "h i j k l m n o p"])
    assert estimated_jaccard(same, signatures(["A b c d  e f g"])[0]) == 1
    assert estimated_jaccard(same, other) == 0


def test_order_of_words_matters_also_in_documents_shorter_than_a_shingle() -> None:
    short = signatures(["a b", "b a", "a b ", "a", ""])
    agree = estimated_jaccard(short[:, None], short[None])
    assert np.array_equal(agree == 1, [[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])


def random_signatures(seed: int, count: int) -> np.ndarray:
    """Signatures in families around the threshold."""
    generator = np.random.default_rng(seed)
    roots = generator.integers(0, 50, (max(count // 5, 1), N_HASHES), np.uint32)
    made = roots[generator.integers(0, len(roots), count)]
    changed = generator.random(made.shape) < generator.uniform(0, 0.2, (count, 1))
    return np.where(changed, generator.integers(100, 2**32, made.shape, np.uint32), made).astype(np.uint32)


def components(close: np.ndarray) -> np.ndarray:
    """First row of each connected component, by spreading labels until nothing changes."""
    label = np.arange(len(close))
    while not np.array_equal(label, new := np.array([label[row | (np.arange(len(close)) == n)].min() for n, row in enumerate(close)])):
        label = new
    return label


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([0.5, 0.75, 0.8, 0.9, 1.0]))
def test_groups_and_crossings_are_those_of_comparing_all_signatures(seed: int, count: int, threshold: float) -> None:
    made = random_signatures(seed, count)
    close = (made[:, None] == made[None]).mean(-1) >= threshold
    assert np.array_equal(near_duplicate_groups(made, threshold), components(close))
    half = count // 2
    assert np.array_equal(crossing(made[:half], made[half:], threshold), close[half:, :half].any(1))


def test_pairs_exactly_at_the_threshold_are_found() -> None:
    base = np.arange(128, dtype=np.uint32)
    for differing, near in ((25, True), (26, False)):  # 103 of 128 are 0.805, 102 are 0.797
        for places in (np.arange(differing), np.linspace(0, 127, differing).astype(int)):
            other = base.copy()
            other[places] += 1000
            assert (redundant(np.stack([base, other])) == 1) is near
            assert crossing(base[None], other[None])[0] == near


def test_near_duplicates_in_text_are_found_and_unrelated_texts_are_not(pairs: tuple[list[str], list[str]]) -> None:
    a, b = pairs
    exact = np.array([jaccard(x, y) for x, y in zip(a, b, strict=True)])
    found = crossing(signatures(a), signatures(b))
    # four standard deviations of the estimate around the threshold are left aside
    assert found[exact > 0.92].all()
    assert not found[exact < 0.65].any()
    assert redundant(signatures(a)) == 0


def test_a_text_repeated_ten_thousand_times_is_one_group() -> None:
    made = np.repeat(signatures(["one text", "another text here"]), 10_000, axis=0)
    assert np.array_equal(np.unique(near_duplicate_groups(made)), [0, 10_000])
    assert redundant(made) == 19_998
    assert crossing(made, made).all()


def test_empty_corpora_have_no_duplicates() -> None:
    none = signatures([])
    assert near_duplicate_groups(none).shape == (0,)
    assert redundant(none) == 0
    assert crossing(none, signatures(["a"])).tolist() == [False]
    assert crossing(signatures(["a"]), none).shape == (0,)


def test_duplicates_are_counted_within_each_corpus_and_across_the_split() -> None:
    generator = np.random.default_rng(1)
    texts = [" ".join(map(str, generator.integers(0, 10**6, 200))) for _ in range(4)]
    nearly = texts[0] + " end"  # 196 of 197 shingles are shared

    def sketch(held: list[str]) -> Sketch:
        return Sketch([document_hash(text) for text in held], signatures(held))

    training = {"A": sketch([texts[0], texts[1], texts[1]]), "B": sketch([texts[2]])}
    table = duplicate_counts(training, {"held_out/x": sketch([nearly, texts[3]]), "held_out/y": sketch([texts[2]])})
    assert list(table.columns) == list(DUPLICATE_COLUMNS)
    assert table.to_numpy().tolist() == [
        ["A", "A", 3, 1, 1, 1 / 3],
        ["B", "B", 1, 0, 0, 0.0],
        ["held_out/x", "held_out/x", 2, 0, 0, 0.0],
        ["held_out/y", "held_out/y", 1, 0, 0, 0.0],
        ["held_out/x", "A", 2, 0, 1, 0.5],
        ["held_out/x", "B", 2, 0, 0, 0.0],
        ["held_out/y", "A", 1, 0, 0, 0.0],
        ["held_out/y", "B", 1, 1, 1, 1.0],
    ]


def test_a_document_in_several_sets_and_mixes_is_on_both_sides_once() -> None:
    def sketch(*hashes: str) -> Sketch:
        return Sketch(list(hashes), signatures([]))

    training, held_out = [sketch("a", "b", "c"), sketch("a", "d")], [sketch("a", "x"), sketch("a", "d", "d")]
    assert on_both_sides(training, held_out) == 2
    assert on_both_sides(training, [sketch("x")]) == 0

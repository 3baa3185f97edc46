"""Absorption that is planted, so that its size is known; and words whose spelling a model must know."""

from __future__ import annotations

from dataclasses import replace
from string import ascii_lowercase

import numpy as np
import pytest
import torch

from sae_pipeline.metrics.spelling.absorption import Absorption, NotApplicable, WordActivations, absorbed, first_letter_absorption
from sae_pipeline.saes.inference import InferenceSAE

PER_LETTER = 10
WORDS = tuple(f"{letter}{ascii_lowercase[n]}" for letter in ascii_lowercase for n in range(PER_LETTER))
HELD_OUT = torch.arange(len(WORDS)) % PER_LETTER >= PER_LETTER - 4


def _words(letters: int = 26) -> WordActivations:
    """A word is its letter's direction plus a direction of its own; four of every ten are held out."""
    n = letters * PER_LETTER
    x = torch.zeros(n, 26 + len(WORDS))
    x[torch.arange(n), torch.arange(n) // PER_LETTER] = 1
    x[torch.arange(n), 26 + torch.arange(n)] = 1
    return WordActivations(WORDS[:n], x, HELD_OUT[:n], spelling_accuracy=1.0)


def _sae(absorbed_words: list[str], leaves: float = 0.0) -> InferenceSAE:
    """A latent per letter, and one per absorbed word that writes letter and word and lets the letter's latent keep ``leaves``."""
    numbers = [WORDS.index(word) for word in absorbed_words]
    d_model, d_sae = 26 + len(WORDS), 26 + len(numbers)
    W_enc, W_dec = torch.zeros(d_model, d_sae), torch.zeros(d_sae, d_model)
    W_enc[range(26), range(26)] = 1
    W_dec[range(26), range(26)] = 1
    for latent, number in enumerate(numbers, 26):
        W_enc[26 + number, latent] = 1
        W_enc[26 + number, number // PER_LETTER] = leaves - 1
        W_dec[latent, 26 + number] = 1
        W_dec[latent, number // PER_LETTER] = 1 - leaves
    return InferenceSAE(W_enc, torch.zeros(d_sae), W_dec, torch.zeros(d_model), "relu")


def _measured(sae: InferenceSAE, words: WordActivations | None = None) -> Absorption:
    absorption = first_letter_absorption(sae, words or _words())
    assert isinstance(absorption, Absorption)
    return absorption


def test_an_sae_without_absorption_measures_none() -> None:
    """Every letter is represented, has one latent of its own, and that latent is on at every word."""
    absorption = _measured(_sae([]))
    assert absorption.absorption_fraction == 0
    assert absorption.full_absorption == 0
    assert absorption.letters["letter"].tolist() == list(ascii_lowercase)
    assert absorption.letters["main_latents"].tolist() == [[n] for n in range(26)]
    assert (absorption.letters[["probe_f1", "main_f1"]] == 1).all(axis=None)
    assert (absorption.letters["words"] == 4).all()


def test_planted_absorption_is_found_word_by_word() -> None:
    """Two of the four held-out words with a and one with b are absorbed: shares 1/2 and 1/4 of these letters, means over 26."""
    absorption = _measured(_sae(["ag", "aj", "bh"]))
    assert absorption.full_absorption == pytest.approx((1 / 2 + 1 / 4) / 26)
    assert absorption.absorption_fraction == pytest.approx((1 / 2 + 1 / 4) / 26)
    full = absorption.words[absorption.words["full_absorption"]]
    assert list(zip(full["word"], full["latent"], strict=True)) == [("ag", 26), ("aj", 27), ("bh", 28)]
    assert (absorption.words.loc[~absorption.words["full_absorption"], "absorption_fraction"] == 0).all()


def test_a_latent_that_takes_half_of_the_letter_absorbs_half() -> None:
    """The letter's latent keeps a half, so nothing is fully absorbed, and half of one word in four is."""
    absorption = _measured(_sae(["cg"], leaves=0.5))
    assert absorption.full_absorption == 0
    assert absorption.absorption_fraction == pytest.approx(1 / 2 / 4 / 26, rel=1e-3)


def test_a_letter_split_over_two_latents_has_both_of_them_and_is_not_absorbed() -> None:
    """Half of the words with d have one latent, half another: the second adds more than the jump in F1."""
    whole = _sae([])
    d_model = whole.d_model
    first = [26 + WORDS.index(f"d{ascii_lowercase[n]}") for n in range(0, PER_LETTER, 2)]
    second = [26 + WORDS.index(f"d{ascii_lowercase[n]}") for n in range(1, PER_LETTER, 2)]
    W_enc = torch.cat([whole.W_enc, torch.zeros(d_model, 1)], dim=1)
    W_enc[second, 3] = -1
    W_enc[3, 26] = 1
    W_enc[first, 26] = -1
    W_dec = torch.cat([whole.W_dec, whole.W_dec[3:4]])
    absorption = _measured(replace(whole, W_enc=W_enc, W_dec=W_dec, b_enc=torch.zeros(27)))
    assert sorted(absorption.letters["main_latents"][3]) == [3, 26]
    assert absorption.absorption_fraction == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_latents_and_their_scale_against_the_decoder_do_not_matter(seed: int) -> None:
    sae, generator = _sae(["ag", "bh"], leaves=0.25), torch.Generator().manual_seed(seed)
    order = torch.randperm(sae.d_sae, generator=generator)
    scale = 2.0 ** torch.randint(-6, 7, (sae.d_sae,), generator=generator)
    other = replace(sae, W_enc=(sae.W_enc * scale)[:, order], W_dec=(sae.W_dec / scale[:, None])[order])
    words = _words()
    expected, found = _measured(sae, words), _measured(other, words)
    assert found.absorption_fraction == pytest.approx(expected.absorption_fraction, rel=1e-9)
    assert found.full_absorption == expected.full_absorption
    assert [[order[n].item() for n in main] for main in found.letters["main_latents"]] == expected.letters["main_latents"].tolist()


def test_scale_of_the_model_does_not_matter() -> None:
    sae, words = _sae(["ag", "bh"], leaves=0.25), _words()
    larger = _measured(replace(sae, W_dec=64 * sae.W_dec, W_enc=sae.W_enc / 64), replace(words, activations=64 * words.activations))
    expected = _measured(sae, words)
    assert larger.absorption_fraction == pytest.approx(expected.absorption_fraction, rel=1e-9)


def test_too_few_represented_letters_are_not_applicable() -> None:
    """Nineteen letters with words; or words that hold nothing of their letter."""
    found = first_letter_absorption(_sae([]), _words(letters=19))
    assert found == NotApplicable(
        "a linear probe recognises the first letter of held-out words (F1 above 0.6) for 19 letters of the alphabet, "
        "and 20 are needed for a mean over letters"
    )
    words = _words()
    assert isinstance(
        first_letter_absorption(_sae([]), replace(words, activations=words.activations.clone().index_fill_(1, torch.arange(26), 0))), NotApplicable
    )


def test_absorbed_share_of_single_words_by_hand() -> None:
    """One main latent (0) and four others; <x, p> = 10 in every word."""
    cosines = np.array([0.9, 0.5, 0.5, 0.5, 0.05])
    along = np.array(
        [
            [10.0, 9, 0, 0, 0],  # the main latent carries everything
            [6, 3.9, 0, 0, 0],  # others carry less than 40 %
            [6, 5, 0, 0, 0],  # 4 are missing, so of the 5 only 4 count
            [4, 2, 1.5, 1, 0],  # three together
            [0, 4, 0, 0, 0],  # one instead of the main latent
            [0, 2, 2, 0, 0],  # two instead of it
            [0, 0, 0, 0, 8],  # a latent that is hardly aligned
        ]
    )
    fraction, full, strongest = absorbed(np.abs(along), along, cosines, np.full(7, 10.0), np.array([0]))
    assert fraction.tolist() == pytest.approx([0, 0, 4 / 10, 4.5 / 8.5, 1, 1, 0])
    assert full.tolist() == [False, False, False, False, True, False, True]
    assert strongest.tolist() == [0, 0, 0, 0, 1, 1, 4]


def test_absorbed_share_of_random_words_equals_saebench() -> None:
    """What the feature absorption calculator of SAEBench 0.6.0 finds for these random latents, decoder and direction."""
    generator = np.random.default_rng(5)
    W_dec = generator.standard_normal((12, 6))
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    direction = generator.standard_normal(6)
    cosines = W_dec @ (direction / np.linalg.norm(direction))
    latents = generator.random((16, 12)) * (generator.random((16, 12)) < 0.4) * 4
    main = np.argsort(-cosines)[:2]
    latents[::2, main] = 0
    x = latents @ W_dec + 0.4 * generator.standard_normal((16, 6))
    fraction, full, _ = absorbed(latents, latents * cosines, cosines, x @ direction / np.linalg.norm(direction), main)
    expected = [0, 0, 0, 0.46415, 1, 1, 0, 0.350235, 1, 0.568543, 0, 0.672304, 1, 0, 0, 0]
    assert fraction == pytest.approx(np.array(expected), abs=1e-6)
    assert np.flatnonzero(full).tolist() == [4, 5, 8]


def test_words_that_speak_against_their_letter_are_not_absorbed() -> None:
    """A projection of zero or below leaves nothing to carry."""
    along = np.array([[0.0, 1.0], [0.0, 1.0]])
    fraction, full, _ = absorbed(along, along, np.array([1.0, 1.0]), np.array([0.0, -1.0]), np.array([0]))
    assert fraction.tolist() == [0, 0]
    assert full.tolist() == [False, False]

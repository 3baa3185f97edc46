"""First-letter absorption: how often a latent for one word speaks in place of the latent for the word's first letter.

A letter's own latents, found by probing, should be active on every word that starts with it. Where such a word has a latent
of its own whose decoder row already contains the letter's direction, an SAE can save the letter's latent, and the latent
that looks like "starts with A" is silent on arbitrary words with A (Chanin et al. 2024, "A is for Absorption"). The measure
is SAEBench's; the numbers in capitals are its settings. It differs in what it is measured with, not in what is counted:

- words are whole tokens with a space before them, and worked examples are never words that are held out;
- probes are fitted to convergence, with the loss of scikit-learn's balanced logistic regression, instead of by 50 epochs of Adam;
- what enters the k-sparse probes is each latent's contribution f_i |W_dec_i| in units of the activations' spread, so that
  neither the scale of the model nor its division between latents and decoder changes what is found, and weights that would
  speak against a letter are held at zero, because only latents that speak for it are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from sae_pipeline.metrics.reconstruction import token_chunks
from sae_pipeline.metrics.spelling.probing import f1_scores, ridge_probes, sparse_probes
from sae_pipeline.saes.inference import InferenceSAE

LETTERS = ascii_lowercase

PROBE_F1 = 0.6
"""F1 on held-out words that a letter's probe must exceed for the letter to count as represented at the site."""

LETTERS_NEEDED = 20
"""Letters that must be represented for the mean over them to say something."""

SPARSE_PENALTY = 0.01
"""L1 penalty of the probe that ranks latents by how much they say about a letter."""

MOST_LATENTS = 10
"""Most latents that a letter may be split over."""

SPLIT_F1_JUMP = 0.03
"""Gain in F1 that makes a further latent one of the letter's own."""

FULL_COSINE = 0.025
"""Least cosine between the letter's direction and the decoder row of the one latent that absorbs it fully."""

FRACTION_COSINE = 0.1
"""The same for each of the latents that absorb a part of it."""

ABSORBING_LATENTS = 3
"""Most latents that absorb together."""

PROJECTION_SHARE = 0.4
"""Share of the activation's projection on the letter's direction that absorbing latents must carry."""

SMALLEST = float(np.finfo(np.float64).tiny)
"""Takes the place of norms that are zero."""


@dataclass(frozen=True)
class NotApplicable:
    """A measure that this model or site does not allow."""

    reason: str
    """Why, in a sentence."""


class LetterProbes(NamedTuple):
    """What a site says about first letters, whatever SAE is trained on it."""

    directions: np.ndarray
    """(26, d_model) float64, unit vectors; zero for letters without words on both sides of the split."""
    f1: np.ndarray
    """(26,) on held-out words; 0 for letters without words on both sides of the split."""
    found: np.ndarray
    """(n_words,) bool: held-out words whose own letter the probe recognises."""


@dataclass(frozen=True)
class WordActivations:
    """Activations of words, each at the place where a model that can spell is about to be asked for its first letter."""

    words: tuple[str, ...]
    activations: Tensor
    """(n_words, d_model) float32 at the word's token, raw model units."""
    held_out: Tensor
    """(n_words,) bool, words that no probe is fitted to."""
    spelling_accuracy: float
    """Share of held-out words whose first letter the model names."""

    @cached_property
    def letters(self) -> np.ndarray:
        """(n_words,) number of each word's first letter, a = 0."""
        return np.array([LETTERS.index(word[0].lower()) for word in self.words])

    @cached_property
    def probes(self) -> LetterProbes:
        """Logistic regressions of the first letter, fitted once however many SAEs are measured."""
        held_out = self.held_out.numpy()
        is_letter = self.letters[:, None] == np.arange(len(LETTERS))
        known = is_letter[held_out].any(0) & is_letter[~held_out].any(0)
        x = self.activations.double().numpy()
        x = (x - x[~held_out].mean(0)) / self.unit
        fitted = ridge_probes(x[~held_out], is_letter[~held_out][:, known])
        says = fitted.scores(x) > 0
        directions, f1, recognised = np.zeros((len(LETTERS), x.shape[1])), np.zeros(len(LETTERS)), np.zeros_like(is_letter)
        directions[known] = fitted.weights / np.maximum(np.linalg.norm(fitted.weights, axis=1, keepdims=True), SMALLEST)
        f1[known] = f1_scores(says[held_out], is_letter[held_out][:, known])
        recognised[:, known] = says
        return LetterProbes(directions, f1, held_out & (recognised & is_letter).any(1))

    @cached_property
    def unit(self) -> float:
        """Root mean square of the activations' coordinates around their mean, over the words that probes are fitted to; never 0."""
        x = self.activations.double()[~self.held_out]
        return max(float((x - x.mean(0)).square().mean().sqrt()), SMALLEST)


@dataclass(frozen=True)
class Absorption:
    """First-letter absorption of one SAE."""

    absorption_fraction: float
    """Mean over letters of the mean share of a word's letter that other latents carry: SAEBench's main score."""
    full_absorption: float
    """Mean over letters of the share of words on which the letter's own latents are silent and one other carries it."""
    letters: pd.DataFrame
    """One row per represented letter: ``letter``, ``probe_f1``, ``main_latents`` (list of ids), ``main_f1`` (of the
    probe on these), ``words`` (held out and recognised by the letter's probe), ``absorption_fraction``, ``full_absorption``."""
    words: pd.DataFrame
    """One row per such word: ``letter``, ``word``, ``latent`` (whose contribution along the letter's direction is largest),
    ``absorption_fraction``, ``full_absorption`` (bool)."""


@torch.inference_mode()
def first_letter_absorption(sae: InferenceSAE, words: WordActivations) -> Absorption | NotApplicable:
    """SAEBench's first-letter absorption of one SAE.

    An SAE that has hardly learnt anything has no latents for words either, and scores low: read it beside ``main_f1``.

    Args:
        sae: with its inference rule, in raw model units.
        words: activations of the SAE's site, from :func:`sae_pipeline.metrics.spelling.words.spelling_words`.

    Returns:
        The measure, or why the site does not allow it.
    """
    probes = words.probes
    represented = np.flatnonzero(probes.f1 > PROBE_F1)
    if len(represented) < LETTERS_NEEDED:
        return NotApplicable(
            f"a linear probe recognises the first letter of held-out words (F1 above {PROBE_F1:g}) for {len(represented)} letters of the alphabet, "
            f"and {LETTERS_NEEDED} are needed for a mean over letters"
        )
    x, W_dec = words.activations.to(sae.W_enc), sae.W_dec.cpu().double()
    norms = torch.linalg.vector_norm(W_dec, dim=-1).numpy()
    latents = vstack([csr_matrix(sae.encode(x[chunk]).cpu().double().numpy()) for chunk in token_chunks(len(x), sae.d_sae, x.device)], format="csr")
    mains = _main_latents(latents.multiply(norms / words.unit).tocsr(), words, represented)
    rows, by_word = [], []
    for letter, (main, main_f1) in zip(represented, mains, strict=True):
        chosen = np.flatnonzero(probes.found & (words.letters == letter))
        direction = torch.from_numpy(probes.directions[letter])
        along = (W_dec @ direction).numpy()
        cosines = along / np.maximum(norms, SMALLEST)
        active = latents[chosen].toarray()
        strength = words.activations[torch.from_numpy(chosen)].double() @ direction
        fraction, full, strongest = absorbed(active, active * along, cosines, strength.numpy(), main)
        name = LETTERS[letter]
        rows.append((name, float(probes.f1[letter]), main.tolist(), main_f1, len(chosen), float(fraction.mean()), float(full.mean())))
        by_word += list(zip([name] * len(chosen), [words.words[n] for n in chosen], strongest, fraction, full, strict=True))
    names = ["letter", "probe_f1", "main_latents", "main_f1", "words", "absorption_fraction", "full_absorption"]
    letters = pd.DataFrame(rows, columns=names)
    table = pd.DataFrame(by_word, columns=["letter", "word", "latent", "absorption_fraction", "full_absorption"])
    return Absorption(float(letters["absorption_fraction"].mean()), float(letters["full_absorption"].mean()), letters, table)


def absorbed(
    active: np.ndarray, along: np.ndarray, cosines: np.ndarray, strength: np.ndarray, main: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Absorption of one letter in each of some words.

    Args:
        active: (n_words, d_sae) activations.
        along: (n_words, d_sae) what each latent writes along the letter's direction, f_i <W_dec_i, p>.
        cosines: (d_sae,) cosine of each decoder row with p.
        strength: (n_words,) projection <x, p> of the activation itself.
        main: (n_main,) ids of the letter's own latents.

    Returns:
        The absorbed fraction (n_words,): 0 where the own latents write at least <x, p>, or the three largest contributions
        along p of other latents (of cosine 0.1 or more) less than 40 % of it; else what these write, but no more than is
        missing, over that plus what the own latents write. Whether a word is fully absorbed (n_words,): its own latents are
        silent, and the latent that writes most along p, of cosine 0.025 or more, writes at least 40 % of <x, p>. And that
        latent (n_words,).
    """
    own = along[:, main].sum(1)
    others = np.where(cosines >= FRACTION_COSINE, along, 0).clip(min=0)
    others[:, main] = 0
    others = np.sort(others, axis=1)[:, -ABSORBING_LATENTS:].sum(1)
    carried = (strength > 0) & (own < strength) & (others >= PROJECTION_SHARE * strength)
    taken = np.minimum(others, strength - own)
    fraction = np.where(carried, np.where(own > 0, taken / np.where(carried, taken + own, 1), 1.0), 0.0)
    strongest = along.argmax(1)
    most = along.max(1)
    silent = (active[:, main] <= 0).all(1)
    full = silent & (cosines[strongest] >= FULL_COSINE) & (strength > 0) & (most >= PROJECTION_SHARE * strength)
    return fraction, full, strongest


def _main_latents(contributions: csr_matrix, words: WordActivations, letters: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Each letter's own latents, and the F1 of the probe on them.

    Latents are ranked by their weight in a sparse probe, then by how much more they contribute to the letter's words than to
    others. One after another is taken while a probe on those taken gains more than the jump.

    Args:
        contributions: (n_words, d_sae) f_i |W_dec_i|, in units of the activations' spread.
        letters: (n_letters,) the letters looked at.
    """
    held_out = words.held_out.numpy()
    is_letter = words.letters[:, None] == letters
    fitting, truth = contributions[~held_out], is_letter[~held_out]
    weights = sparse_probes(fitting, truth, SPARSE_PENALTY).weights
    found = []
    for number in range(len(letters)):
        label = truth[:, number]
        advantage = np.asarray(fitting[label].mean(0) - fitting[~label].mean(0)).ravel()
        ranking = np.lexsort((advantage, weights[number]))[::-1][:MOST_LATENTS]
        best, taken = -np.inf, 0
        for k in range(1, len(ranking) + 1):
            probe = ridge_probes(fitting[:, ranking[:k]], label[:, None])
            f1 = float(f1_scores(probe.scores(contributions[held_out][:, ranking[:k]]) > 0, is_letter[held_out][:, [number]])[0])
            if f1 <= best + SPLIT_F1_JUMP:
                break
            best, taken = f1, k
        found.append((ranking[:taken], best))
    return found

"""Activations of words whose first letter the model is about to name: the text side of first-letter absorption.

The prompt is SAEBench's: ten worked lines ``" word has the first letter: W"`` in random order, and one to complete. It is
put together from token ids, so that the word is one token at a known place in every prompt and all prompts are equally
long. A model that cannot do the task holds no first letters to look for, so it is asked first.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_letters

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.metrics.spelling.absorption import LETTERS, LETTERS_NEEDED, NotApplicable, WordActivations
from sae_pipeline.progress import track

EXAMPLES = 10
"""Worked lines before the one to complete."""

QUESTION = " has the first letter:"

BEFORE = "a"
"""What stands before a text to see how it is tokenised in the middle of a line."""

WORDS = 2_000
"""Words used, if the vocabulary has as many: about 75 per letter, at some 90 tokens each."""

HELD_OUT_EVERY = 5
"""One word of so many of each letter is held out from the probes and from the worked lines."""

CHECKED_WORDS = 200
"""Held-out words that the model is asked to spell."""

SPELLING_ACCURACY = 0.5
"""Share of them it must get right, out of the whole vocabulary; guessing letters gets about one in twenty."""


def spelling_words(
    model: SubjectModel, tokenizer: TextTokenizer, hook: str, *, batch_size: int, words: int = WORDS, seed: int = 0
) -> WordActivations | NotApplicable:
    """Activations at a site of the tokens of words whose first letter is asked for.

    Words are the vocabulary's own: tokens of a space and two or more letters a to z, in upper or lower case.

    Args:
        model: the subject model.
        tokenizer: its tokenizer.
        hook: name of the site.
        batch_size: prompts per forward pass.
        words: most words used, of all letters equally many as far as the vocabulary has them.
        seed: draws the words, which of them are held out, and each prompt's worked lines.

    Returns:
        The words and their activations, or why this model has none.
    """
    if not model.causal:
        return NotApplicable("the subject is an encoder, and only a model that continues text can be asked to spell")
    line_end, question, *answers = (_middle(tokenizer, text) for text in ("\n", QUESTION, *(f" {letter.upper()}" for letter in LETTERS)))
    if not line_end or not question or any(len(answer) != 1 for answer in answers):
        return NotApplicable(
            "the tokenizer of the subject does not write the spelling prompt with one token for each capital letter that follows a space"
        )
    length = 1 + (EXAMPLES + 1) * (len(line_end) + 1 + len(question)) + EXAMPLES
    if model.context_limit is not None and length > model.context_limit:
        return NotApplicable(
            f"a spelling prompt of {EXAMPLES} examples has {length} tokens, and the longest context of the subject {model.context_limit}"
        )

    known = _whole_words(tokenizer, min(tokenizer.vocab_size, model.vocab_size))
    shuffled = [known[n] for n in np.random.default_rng(seed).permutation(len(known))]
    letters = np.array([LETTERS.index(word[0].lower()) for _, word in shuffled], dtype=np.int64)
    place = np.zeros(len(shuffled), dtype=np.int64)  # of each word among those of its letter
    for letter in range(len(LETTERS)):
        place[letters == letter] = np.arange((letters == letter).sum())
    order = np.argsort(place, kind="stable")[:words]
    chosen, letters, held_out = [shuffled[n] for n in order], letters[order], place[order] % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    usable = len(np.unique(letters[held_out]))
    if usable < LETTERS_NEEDED:
        return NotApplicable(
            f"the vocabulary of the subject has {len(known)} whole words in one token, and the {len(chosen)} used are {HELD_OUT_EVERY} or more "
            f"for {usable} letters of the alphabet, and {LETTERS_NEEDED} letters are needed"
        )

    ids, answer_ids = np.array([each for each, _ in chosen]), np.array(answers)[:, 0]
    prompts = torch.from_numpy(
        np.stack(
            [
                _prompt(number, ids, answer_ids[letters], np.flatnonzero(~held_out), tokenizer.bos_id, line_end, question, seed)
                for number in range(len(chosen))
            ]
        )
    )
    asked = np.flatnonzero(held_out)[:CHECKED_WORDS]
    right = torch.from_numpy(answer_ids[letters])
    named = torch.cat([model.logits(prompts[batch])[:, -1].argmax(-1).cpu() for batch in torch.from_numpy(asked).split(batch_size)])
    accuracy = (named == right[torch.from_numpy(asked)]).double().mean().item()
    if accuracy < SPELLING_ACCURACY:
        return NotApplicable(
            f"the subject names the first letter of {accuracy:.0%} of {len(asked)} held-out words, and a model that knows how words are spelt "
            f"names at least {SPELLING_ACCURACY:.0%}"
        )
    activations: list[Tensor] = []
    with track(f"words at {hook}", len(prompts), "words") as progress:
        for batch in prompts.split(batch_size):
            activations.append(model.capture(batch, [hook])[hook][:, -len(question) - 1].cpu())
            progress.advance(len(batch))
    return WordActivations(tuple(word for _, word in chosen), torch.cat(activations), torch.from_numpy(held_out), accuracy)


def write_words(words: WordActivations | NotApplicable, path: Path) -> None:
    """Keep what :func:`spelling_words` returned in one safetensors file, for the evaluations of all SAEs of the site."""
    if isinstance(words, NotApplicable):
        save_file({}, path, {"reason": words.reason})
    else:
        metadata = {"words": json.dumps(words.words), "spelling_accuracy": repr(words.spelling_accuracy)}
        save_file({"activations": words.activations, "held_out": words.held_out}, path, metadata)


def read_words(path: Path) -> WordActivations | NotApplicable:
    """What :func:`write_words` wrote."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if "reason" in metadata:
            return NotApplicable(metadata["reason"])
        return WordActivations(
            tuple(json.loads(metadata["words"])), file.get_tensor("activations"), file.get_tensor("held_out"), float(metadata["spelling_accuracy"])
        )


def _middle(tokenizer: TextTokenizer, text: str) -> list[int]:
    """Ids of a text in the middle of a line, as tokenizers put a space of their own before what opens one; none if it is not kept as it is."""
    before, whole = tokenizer.encode([BEFORE, BEFORE + text])
    kept = whole[: len(before)] == before and tokenizer.decode([whole]) == [BEFORE + text]
    return whole[len(before) :] if kept else []


def _whole_words(tokenizer: TextTokenizer, vocab_size: int) -> list[tuple[int, str]]:
    """(id, word) of every token that is a space and a word, in order of ids, if that is also how the word is tokenised."""
    before = tokenizer.encode([BEFORE])[0]
    start = len(tokenizer.decode([before])[0])
    texts = [text[start:] for text in tokenizer.decode([[*before, each] for each in range(vocab_size)])]
    candidates = [(each, text) for each, text in enumerate(texts) if len(text) > 2 and text[0] == " " and set(text[1:]) <= set(ascii_letters)]
    encoded = tokenizer.encode([BEFORE + text for _, text in candidates])
    return [(each, text[1:]) for (each, text), ids in zip(candidates, encoded, strict=True) if ids == [*before, each]]


def _prompt(
    number: int, ids: np.ndarray, answers: np.ndarray, examples: np.ndarray, bos_id: int, line_end: list[int], question: list[int], seed: int
) -> np.ndarray:
    """Ids of the prompt for a word.

    Args:
        number: which of the words.
        ids, answers: (n_words,) id of each word, and of its first letter.
        examples: (n_examples,) words that may stand in the worked lines, of which the word itself never does.
        seed: with ``number``, draws the worked lines.
    """
    drawn = np.random.default_rng((seed, number)).choice(examples[examples != number], EXAMPLES, replace=False)
    lines = [[*line_end, ids[each], *question, answers[each]] for each in drawn]
    return np.array([bos_id, *(each for line in lines for each in line), *line_end, ids[number], *question])

"""Words of a vocabulary, the prompts that ask for their first letter, and models that cannot be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.metrics.spelling.absorption import NotApplicable, WordActivations
from sae_pipeline.metrics.spelling.words import read_words, spelling_words, write_words

QUESTION = [" has", " the", " first", " letter", ":"]
PROMPT_TOKENS = 1 + 11 * 7 + 10  # BOS, lines of newline, word and question, and the letters of the ten before the last


def _tokenizer(letters: str = ascii_lowercase, capitals: str = ascii_uppercase) -> TextTokenizer:
    """A word is a token with the space before it: ten for each letter, and some that are no words to spell."""
    words = [f" {letter}{second}" for letter in letters for second in "bcdfghjkmn"]
    others = ["<s>", "a", "\n", *QUESTION, *(f" {letter}" for letter in capitals), "ab", " x1", " é", " q"]
    core = Tokenizer(models.WordLevel({token: n for n, token in enumerate(dict.fromkeys(others + words))}, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|\n|:"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<s>"))


@dataclass
class Speller:
    """A model that names the letter of the word asked for, unless the word is one it does not know; x is the token's embedding."""

    tokenizer: TextTokenizer
    unknown: frozenset[str] = frozenset()
    name: str = "toy"
    causal: bool = True
    context_limit: int | None = None
    asked: list[Tensor] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def embedding(self) -> Tensor:
        return torch.randn(self.vocab_size, 4, generator=torch.Generator().manual_seed(0))

    def logits(self, tokens: Tensor) -> Tensor:
        self.asked.append(tokens)
        logits = torch.zeros(*tokens.shape, self.vocab_size)
        for prompt, word in enumerate(self.tokenizer.decode(tokens[:, -6:-5].tolist())):
            answer = " Z" if word.strip() in self.unknown else f" {word.strip()[0].upper()}"
            logits[prompt, -1, self.tokenizer.encode([answer])[0]] = 1
        return logits

    def capture(self, tokens: Tensor, hooks: list[str]) -> dict[str, Tensor]:
        self.seen.append(tokens)
        return {hooks[0]: self.embedding[tokens]}


def _asked(model: Speller, **arguments: int) -> WordActivations | NotApplicable:
    return spelling_words(model, model.tokenizer, "site", **{"batch_size": 7, **arguments})  # type: ignore[arg-type]


def _words(model: Speller, **arguments: int) -> WordActivations:
    found = _asked(model, **arguments)
    assert isinstance(found, WordActivations)
    return found


def test_words_are_whole_tokens_of_letters_after_a_space_with_the_activation_of_their_own_token() -> None:
    model = Speller(_tokenizer())
    found = _words(model)
    assert sorted(found.words) == sorted([*(a + b for a in ascii_lowercase for b in "bcdfghjkmn"), "has", "the", "first", "letter"])
    ids = [each[0] for each in model.tokenizer.encode([f" {word}" for word in found.words])]
    assert torch.equal(found.activations, model.embedding[ids])
    assert found.letters.tolist() == [ascii_lowercase.index(word[0]) for word in found.words]
    assert found.spelling_accuracy == 1


def test_one_word_in_five_of_each_letter_is_held_out() -> None:
    found = _words(Speller(_tokenizer()))
    held_out = [word[0] for word, out in zip(found.words, found.held_out.tolist(), strict=True) if out]
    assert {letter: held_out.count(letter) for letter in ascii_lowercase} == dict.fromkeys(ascii_lowercase, 2)


def test_prompts_are_ten_worked_lines_of_other_words_and_one_to_complete() -> None:
    """In all prompts: BOS, lines with the right letter, no example that is held out or the word itself."""
    model = Speller(_tokenizer())
    found = _words(model)
    held_out = {word for word, out in zip(found.words, found.held_out.tolist(), strict=True) if out}
    prompts = torch.cat(model.seen)
    assert prompts.shape == (len(found.words), PROMPT_TOKENS)
    assert (prompts[:, 0] == model.tokenizer.bos_id).all()
    for word, text in zip(found.words, model.tokenizer.decode(prompts[:, 1:].tolist()), strict=True):
        *worked, last = text.removeprefix("\n").split("\n")
        assert last == f" {word} has the first letter:"
        examples = [line.split()[0] for line in worked]
        assert worked == [f" {example} has the first letter: {example[0].upper()}" for example in examples]
        assert len(set(examples)) == 10
        assert not {word, *held_out} & set(examples)


def test_letters_have_equally_many_of_a_limited_number_of_words() -> None:
    found = _words(Speller(_tokenizer()), words=26 * 6)
    assert sorted(found.letters.tolist()) == sorted(list(range(26)) * 6)


def test_words_and_prompts_depend_on_the_seed_and_not_on_the_batch_size() -> None:
    first, again, other = (Speller(_tokenizer()) for _ in range(3))
    words = _words(first, words=220, seed=1)
    assert len(words.words) == 220
    assert _words(again, words=220, seed=1, batch_size=64).words == words.words
    assert torch.equal(torch.cat(first.seen), torch.cat(again.seen))
    assert _words(other, words=220, seed=2).words != words.words


def test_a_model_spells_if_it_names_the_letter_of_half_of_the_held_out_words() -> None:
    """Half of the 52 held-out words are enough, 25 are not; what it makes of the other words is not asked."""
    tokenizer = _tokenizer()
    found = _words(Speller(tokenizer))
    held_out = [word for word, out in zip(found.words, found.held_out.tolist(), strict=True) if out and word[0] != "z"]
    others = {word for word, out in zip(found.words, found.held_out.tolist(), strict=True) if not out}
    assert _words(Speller(tokenizer, unknown=frozenset(others.union(held_out[:26])))).spelling_accuracy == 0.5
    assert _asked(Speller(tokenizer, unknown=frozenset(held_out[:27]))) == NotApplicable(
        "the subject names the first letter of 48% of 52 held-out words, and a model that knows how words are spelt names at least 50%"
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Speller(_tokenizer(), causal=False), "the subject is an encoder"),
        (
            Speller(_tokenizer(), context_limit=PROMPT_TOKENS - 1),
            f"has {PROMPT_TOKENS} tokens, and the longest context of the subject {PROMPT_TOKENS - 1}",
        ),
        (Speller(_tokenizer(capitals=ascii_uppercase[:-1])), "one token for each capital letter that follows a space"),
        (Speller(_tokenizer(letters=ascii_lowercase[:15])), "for 15 letters of the alphabet, and 20 letters are needed"),
    ],
)
def test_what_a_model_lacks_is_said_before_it_runs(model: Speller, reason: str) -> None:
    found = _asked(model)
    assert isinstance(found, NotApplicable)
    assert reason in found.reason
    assert model.asked == model.seen == []


def test_a_real_model_and_tokenizer_are_asked_the_same_way(tiny_llama: Path) -> None:
    """A byte-level tokenizer of a few stories has too few words, or contexts too short for the prompt; what is stored of it names no folder."""
    model = SubjectModel.load(str(tiny_llama))
    found = spelling_words(model, TextTokenizer.load(tiny_llama), model.hook_name("resid_post", 0), batch_size=8)
    assert isinstance(found, NotApplicable)
    assert str(tiny_llama) not in found.reason


def test_words_and_reasons_survive_their_file(tmp_path: Path) -> None:
    words, path = _words(Speller(_tokenizer()), words=220), tmp_path / "words.safetensors"
    write_words(words, path)
    again = read_words(path)
    assert isinstance(again, WordActivations)
    assert (again.words, again.spelling_accuracy) == (words.words, words.spelling_accuracy)
    assert torch.equal(again.activations, words.activations)
    assert torch.equal(again.held_out, words.held_out)
    write_words(NotApplicable("it is an encoder"), path)
    assert read_words(path) == NotApplicable("it is an encoder")

"""Text to token ids, without any special token the caller did not ask for.

Tokenizers like to help: some put BOS in front, some truncate, and all turn the characters ``<|endoftext|>`` inside a
document into the real end-of-text id. Here a document's ids stand for its characters and nothing else; BOS and
separators are placed by packing alone. The one exception is a conversation that the tokenizer's own chat template
wrote out: there the control tokens are meant, and :attr:`TextTokenizer.special_ids` says which ids they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import SubjectError
from sae_pipeline.store.fingerprints import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sae_pipeline.corpora.documents import Document


DATE = {"%d": "26", "%m": "07", "%b": "Jul", "%B": "July", "%Y": "2024", "%y": "24", "%a": "Fri", "%A": "Friday", "%H": "00", "%M": "00", "%S": "00"}
"""The day that chat templates which ask for today's date are told."""

_FIXED_DATE = (
    "{%- macro strftime_now(format) %}{{ format" + "".join(f" | replace('{code}', '{value}')" for code, value in DATE.items()) + " }}{% endmacro -%}"
)
"""Takes the place of the function of that name: a rendered conversation must not depend on when it was rendered."""


class TextTokenizer:
    """A Hugging Face tokenizer reduced to what a corpus needs.

    Attributes:
        bos_id: id that opens every context: BOS, or EOS where the tokenizer has no BOS (GPT-2 uses one id for both), or CLS
            where it has neither (BERT).
        separator_id: id that follows every document: EOS, or SEP where the opening token is CLS; None where there is none.

    Raises:
        SubjectError: the tokenizer has no BOS, EOS or CLS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer: Any = tokenizer
        # ids are compared with None: 0 is a legal id, and the BOS of many tokenizers trained from scratch
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        if bos is None and eos is None:
            bos, eos = tokenizer.cls_token_id, tokenizer.sep_token_id
        opening = bos if bos is not None else eos
        if opening is None:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise SubjectError(
                f"tokenizer {name}: expected a BOS, EOS or CLS token to open every context with, found none of them; "
                "choose a causal language model or an encoder"
            )
        self.bos_id: int = int(opening)
        self.separator_id: int | None = None if eos is None else int(eos)

    @classmethod
    def load(cls, path_or_hub_id: str | Path, revision: str | None = None, *, trust_remote_code: bool = False) -> TextTokenizer:
        """The tokenizer of a local folder or of a Hugging Face hub id at a revision; code of its own runs only where it is trusted.

        Raises:
            SubjectError: there is no tokenizer that can be read, or it has no token to open contexts with.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(path_or_hub_id), revision=revision or "main", trust_remote_code=trust_remote_code)
        except Exception as error:  # transformers raises OSError, ValueError, KeyError and its own kinds for one situation
            if not trust_remote_code and "trust_remote_code" in str(error):
                from sae_pipeline.activations.identity import untrusted

                raise SubjectError(untrusted(str(path_or_hub_id))) from None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SubjectError(
                f"{path_or_hub_id}: expected a tokenizer (tokenizer.json, tokenizer_config.json), found none that can be read ({reason}); "
                "check the path or hub id"
            ) from error
        return cls(tokenizer)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return len(self._tokenizer)

    @cached_property
    def hash(self) -> str:
        """Hash of the serialised content: vocabulary, merges, normalisation, special tokens, chat template; not of file names or call settings."""
        if self._tokenizer.is_fast:
            content = json.loads(self._tokenizer.backend_tokenizer.to_str())
            # state left behind by earlier calls, not part of what the tokenizer is
            content.pop("truncation", None)
            content.pop("padding", None)
        else:
            content = {"class": type(self._tokenizer).__name__, "vocabulary": self._tokenizer.get_vocab()}
        return digest(content, self.bos_id, self.separator_id, self.chat_template)

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's own Jinja template for conversations (of several, the default one); None where it has none."""
        template = self._tokenizer.chat_template
        return template.get("default") if isinstance(template, dict) else template

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """Texts that stand for one control token each, wherever control tokens are recognised."""
        added = (str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special)
        return frozenset(str(token) for token in self._tokenizer.all_special_tokens) | frozenset(added)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the control tokens; not that of unknown words, which stands for text, unless it also opens or separates."""
        tokenizer = self._tokenizer
        special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)
        special.discard(tokenizer.unk_token_id)
        return frozenset(special | {self.bos_id} | ({self.separator_id} if self.separator_id is not None else set()))

    def render(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the chat template writes it, without the opening token, which packing puts in front of every context.

        Templates that write today's date get :data:`DATE`, so that the text is the same on every day.

        Args:
            messages: turns with ``role`` and ``content``.

        Raises:
            ValueError: there is no chat template, or it refuses these turns; 'expected ..., found ...'.
        """
        template = self.chat_template
        if template is None:
            raise ValueError("expected a tokenizer with a chat template, found one without")
        try:
            text = self._tokenizer.apply_chat_template(
                messages, chat_template=_FIXED_DATE + template if "strftime_now" in template else template, tokenize=False
            )
        except Exception as error:  # a template is a program: it raises what it likes
            raise ValueError(f"expected turns that the tokenizer's chat template takes, found: {str(error) or type(error).__name__}") from error
        return text.removeprefix(self._tokenizer.convert_ids_to_tokens(self.bos_id))

    def encode(self, texts: list[str], *, control_tokens: bool = False) -> list[list[int]]:
        """Token ids of each text: no special tokens added, no truncation, no padding.

        Args:
            texts: what to encode.
            control_tokens: whether ``<|endoftext|>`` in a text is the control token of that name rather than ordinary characters.
        """
        if not texts:
            return []
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=not control_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a document longer than the model's context is cut by packing, which is not worth a warning
        )
        return encoded["input_ids"]

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Text of each sequence of ids, control tokens spelt out; what is not UTF-8 comes out as replacement characters."""
        return [self._tokenizer.decode(each, skip_special_tokens=False, clean_up_tokenization_spaces=False) for each in ids]


def token_ids(tokenizer: TextTokenizer, documents: Sequence[Document]) -> list[list[int]]:
    """Ids of each document: its own where it has them, else its text's, with control tokens read as such where they are meant."""
    ids: list[list[int]] = [list(document.ids or ()) for document in documents]
    for meant in (False, True):
        places = [place for place, document in enumerate(documents) if document.ids is None and document.control_tokens == meant]
        encoded = tokenizer.encode([documents[place].text for place in places], control_tokens=meant)
        for place, found in zip(places, encoded, strict=True):
            ids[place] = found
    return ids

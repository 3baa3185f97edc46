"""Sections of a study file about what is read: the subject model, sources of text, how they become corpora, and evaluation sets."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sae_pipeline.study.section import Dtype, Kind, Name, Section, Seed

# ------------------------------------------------------------------------------------------------ subject


class BundledSubject(Section):
    """Shape and training budget of the small GPT-2-shaped model that ``model: bundled`` trains on the study's text."""

    d_model: int = Field(128, ge=16, le=1024, description="residual width")
    n_layers: int = Field(4, ge=1, le=24, description="transformer blocks")
    n_heads: int = Field(4, ge=1, le=32, description="attention heads; must divide d_model")
    vocab_size: int = Field(4096, ge=300, le=65536, description="size of the byte-level BPE vocabulary")
    tokens: int = Field(1_500_000, ge=1_000, description="training tokens, drawn evenly from the sources it is trained on")
    sources: tuple[str, ...] | None = Field(None, min_length=1, description="sources it is trained on; None: all of the study's")
    batch_size: int = Field(8, ge=1, description="contexts per step; small, so that a step stays in cache")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak rate of AdamW; linear warm-up, then cosine")
    seed: Seed = Field(0, ge=0, description="initial weights and order of the contexts")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> BundledSubject:
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads must divide d_model, found {self.n_heads} heads for width {self.d_model}")
        return self


class Subject(Section):
    """The language model whose activations are studied."""

    model: str = Field(description="'bundled', a Hugging Face hub id, or the path of a local checkpoint folder")
    revision: str | None = Field(None, description="hub revision; resolved to a commit and recorded")
    dtype: Dtype = Field("float32", description="dtype of the forward pass")
    weights: Literal["trained", "randomised"] = Field(
        "trained", description="randomised: a control with the same architecture and tokenizer whose weights are drawn anew (Heap et al. 2025)"
    )
    seed: Seed = Field(0, description="draws the weights of the randomised control")
    trust_remote_code: bool = Field(
        False,
        description="run the Python files of the checkpoint and its tokenizer, where transformers does not know the architecture; read them first",
    )
    pickled_weights: bool = Field(
        False, description="read a pickled pytorch_model.bin, its tensors alone, where the checkpoint has no safetensors file; see security.md"
    )
    bundled: BundledSubject = Field(default_factory=BundledSubject, description="read only when model is 'bundled'")

    @model_validator(mode="after")
    def _bundled_only_when_used(self) -> Subject:
        if self.model != "bundled" and "bundled" in self.model_fields_set:
            raise ValueError(f"the section 'bundled' needs model: bundled, found model: {self.model}")
        if self.model == "bundled" and self.revision is not None:
            raise ValueError("revision applies to hub models; the bundled subject has none")
        if self.model == "bundled" and (self.trust_remote_code or self.pickled_weights):
            raise ValueError("trust_remote_code and pickled_weights apply to a checkpoint; the bundled subject is made here")
        if self.weights == "trained" and "seed" in self.model_fields_set:
            raise ValueError("the subject's seed draws randomised weights; it needs weights: randomised")
        return self


# ------------------------------------------------------------------------------------------------ sources


class InstalledText(Section):
    """Text that is on every machine: objects of installed Python packages, parsed and never imported."""

    kind: Literal["installed_docs", "installed_code", "installed_instructions"] = Field(description="kind of source; decides the keys beside it")
    packages: tuple[str, ...] | None = Field(None, min_length=1, description="import names; None takes the default list")


class Chat(Section):
    """Chat data: which column holds the turns, and how they are written out as text."""

    field: str = Field(
        "auto", description="column of the turns; auto looks for messages, conversations, conversation, prompt/completion, instruction/input/output"
    )
    template: Literal["auto", "tokenizer", "plain", "chatml", "alpaca"] = Field(
        "auto", description="tokenizer: the subject's own chat template; auto: that one when it has one, else plain"
    )


class Filter(Section):
    """Keeps the records whose column fits; a record without the column does not."""

    field: str = Field(description="column looked at; dots reach into nested records")
    equals: str | int | float | None = Field(None, description="kept when the value is this")
    one_of: tuple[str | int | float, ...] | None = Field(None, min_length=1, description="kept when the value is one of these")
    matches: str | None = Field(None, description="kept when this regular expression is found in the value")
    minimum: float | None = Field(None, description="kept when the value is at least this")
    maximum: float | None = Field(None, description="kept when the value is at most this")

    @model_validator(mode="after")
    def _one_condition(self) -> Filter:
        if not (self.model_fields_set - {"field"}):
            raise ValueError("a filter needs a condition: equals, one_of, matches, minimum or maximum")
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(f"matches: expected a regular expression, found '{self.matches}' ({error})") from None
        return self


class Window(Section):
    """A stretch of a source, in its own order; several local files follow one another by their names (``part-10`` after ``part-9``)."""

    skip: int = Field(0, ge=0, description="records passed over at the start")
    take: int | None = Field(None, ge=1, description="records read after those; None: all")


class Records(Section):
    """How the records of a data set become documents; the same for files and for hub data sets."""

    text_field: str | tuple[str, ...] = Field("text", description="column that holds the text; several are joined by a blank line")
    chat: Chat | None = Field(None, description="read turns of a conversation instead of a text column")
    filters: tuple[Filter, ...] = Field((), description="records that fit all of them are kept")
    window: Window = Field(default_factory=lambda: Window(), description="which records are read at all")
    min_characters: int = Field(1, ge=1, description="shorter documents are left out")
    max_characters: int = Field(1_000_000, ge=1, description="longer documents are left out or cut, see over_length")
    over_length: Literal["skip", "cut"] = Field("skip", description="what happens to documents above max_characters")
    malformed: Literal["refuse", "skip"] = Field(
        "refuse", description="records that cannot be read (not UTF-8, broken JSON, text that is no text): stop with an error, or leave out and count"
    )
    shuffle_buffer: int = Field(10_000, ge=1, description="documents held while shuffling")

    @model_validator(mode="after")
    def _lengths(self) -> Records:
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters must not exceed max_characters, found {self.min_characters} and {self.max_characters}")
        if self.chat is not None and "text_field" in self.model_fields_set:
            raise ValueError("a source reads either 'text_field' or 'chat', found both")
        return self


class Files(Records):
    """Local text files, also compressed (gz, zst, bz2, xz); one record (line, row or file for txt) is one document."""

    kind: Literal["files"] = Field(description="kind of source; decides the keys beside it")
    paths: tuple[str, ...] = Field(
        min_length=1, description="paths or globs, relative to the study file's folder; a path that exists as it is written is no glob"
    )
    format: Literal["auto", "jsonl", "parquet", "csv", "txt"] = Field(
        "auto",
        description="auto goes by the file's ending; a csv file with a quote that is closed rows too late or never is refused whatever malformed says",
    )


class HuggingFace(Records):
    """A Hugging Face data set, streamed, with its revision pinned to a commit."""

    kind: Literal["huggingface"] = Field(description="kind of source; decides the keys beside it")
    dataset: str = Field(description="hub id or the path of a local hub-shaped folder")
    config: str | None = Field(None, description="configuration (subset) of the data set")
    split: str = Field("train", description="split to stream")
    revision: str | None = Field(None, description="branch, tag or commit; resolved to a commit and recorded")


class SelfGenerated(Section):
    """Text that the subject model writes by itself, from BOS alone (FaithfulSAE, Cho et al. 2025)."""

    kind: Literal["self_generated"] = Field(description="kind of source; decides the keys beside it")
    tokens: int = Field(ge=1_000, description="tokens to sample, in documents of up to the study's context length")
    temperature: float = Field(1.0, gt=0, description="1 samples the model's own distribution")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 keeps the whole distribution")
    batch_size: int = Field(32, ge=1, description="documents sampled side by side")
    seed: Seed = Field(0, description="draws the tokens")


class TracIn(Section):
    """Re-ranking of retrieved documents by how much training on them would move an SAE as the best of them would (TracIn, Pruthi et al. 2020)."""

    sae: str = Field(description="folder of the general SAE, in any format of docs/interchange.md, relative to the study file's folder")
    keep: int = Field(ge=1, description="documents kept, of those retrieved")
    exemplars: int = Field(16, ge=1, description="documents ranked first whose mean gradient is the direction looked for")


class Retrieved(Section):
    """The documents of another source that are about something, found by keywords (specialised SAEs, Muhamed et al. 2024)."""

    kind: Literal["retrieved"] = Field(description="kind of source; decides the keys beside it")
    source: Name = Field(description="source whose documents are ranked")
    keywords: tuple[str, ...] = Field(min_length=1, description="words and phrases that describe the subdomain")
    method: Literal["bm25", "dense"] = Field("bm25", description="by words, or by cosine of embeddings")
    encoder: str = Field("subject", description="for dense: 'subject' (its mean-pooled activations) or a sentence-transformers model")
    layer: int | None = Field(None, ge=0, description="for dense by the subject: block whose output is pooled; None: the middle one")
    pool: int = Field(20_000, ge=1, description="documents of the source that are ranked")
    top: int | None = Field(None, ge=1, description="documents taken, best first")
    threshold: float | None = Field(None, description="or: all documents with at least this score (BM25 score or cosine)")
    rerank: TracIn | None = Field(None, description="a second ranking of what was found, by gradients of an SAE")

    @model_validator(mode="after")
    def _cut(self) -> Retrieved:
        if (self.top is None) == (self.threshold is None):
            raise ValueError("a retrieved source needs either 'top' or 'threshold'")
        if self.method == "bm25" and self.model_fields_set & {"encoder", "layer"}:
            raise ValueError("'encoder' and 'layer' belong to method: dense")
        return self


External = InstalledText | Files | HuggingFace
"""Sources whose text comes from outside; the others are made from the subject model or from another source."""

Source = Annotated[External | SelfGenerated | Retrieved, Field(discriminator="kind")]


class Corpus(Section):
    """How documents are split and drawn; the same for every mix, so that mixes differ by composition alone."""

    seed: Seed = Field(0, ge=0, description="order of the documents of each source")
    held_out_share: float = Field(0.1, gt=0, lt=1, description="share of documents kept for evaluation, by document hash")
    held_out_windows: int = Field(1, ge=1, le=1_000, description="parts that the held-out documents are dealt to; an evaluation reads one of them")
    repeat: bool = Field(False, description="start a source again when it runs out, instead of stopping with an error")


Shares = Annotated[dict[Name, Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]


def sum_to_one(shares: dict[str, float]) -> dict[str, float]:
    """The shares as they are, refused unless they sum to 1."""
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"token shares must sum to 1, found {total:g} ({', '.join(f'{k}: {v:g}' for k, v in shares.items())})")
    return shares


class HeldOut(Section):
    """A named evaluation set, packed from held-out documents only."""

    shares: Shares = Field(description="token shares over sources, as in a mix")
    kind: Kind = Field(description="how the set relates to the training text; decides the expected drop")
    tokens: int = Field(20_000, ge=100, description="tokens of the set, BOS included")

    _shares = field_validator("shares")(sum_to_one)

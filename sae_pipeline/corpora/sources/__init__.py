"""Where text comes from: one class per kind of source, all read in the same way.

``open_source`` turns a ``sources:`` entry of the study into a :class:`TextSource`. Nothing here needs torch, so that
Dagster can ask a source for its data version while importing only what that source reads with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from sae_pipeline.corpora.documents import Document

if TYPE_CHECKING:
    from sae_pipeline.corpora.tokenization import TextTokenizer
    from sae_pipeline.store import Store
    from sae_pipeline.study.text_sections import External

__all__ = ["TextSource", "changed", "open_source"]


class TextSource(Protocol):
    """A stream of distinct documents in a seeded order."""

    dropped: Counter[str]
    """Records left out so far by the latest call of ``documents``, by reason: ``duplicate`` and those that
    :mod:`sae_pipeline.corpora.sources.records` explains. Reading is a window ahead of what was given out."""

    def data_version(self) -> str:
        """Hash that changes exactly when the text may have changed; cheap, so that it can be observed on a schedule.

        Raises:
            SourceError: the source is not there.
        """
        ...

    def documents(self, seed: int) -> Iterator[Document]:
        """Every document once, exact duplicates dropped, in an order that is a pure function of the text and the seed.

        Lazy: reading a prefix costs a prefix, and reading further never changes what came before.

        Raises:
            SourceError: the source cannot be read or holds no text; the message says where and what to do.
        """
        ...


def changed(name: str) -> str:
    """What to say about a source whose text is no longer that of the version it was asked for first."""
    return f"{name}: expected the text to stay as it was when reading began, found that it changed while it was read; run again"


def open_source(source: External, store: Store, tokenizer: Callable[[], TextTokenizer] | None = None) -> TextSource:
    """The source that a study's entry describes.

    Opening is free: nothing is read before ``data_version`` or ``documents`` is called.

    Args:
        source: the entry.
        store: keeps what is extracted or fetched once and read often.
        tokenizer: loads the subject's tokenizer, for the chat template of sources of conversations; None where there is none.
    """
    if source.kind == "files":
        from sae_pipeline.corpora.sources.local_files import LocalFiles
        from sae_pipeline.corpora.sources.records import RecordReader

        return LocalFiles(source, RecordReader(source, tokenizer))
    if source.kind == "huggingface":
        from sae_pipeline.corpora.sources.hub import HubDataset
        from sae_pipeline.corpora.sources.records import RecordReader

        return HubDataset(source, RecordReader(source, tokenizer), store)
    from sae_pipeline.corpora.sources.installed import InstalledObjects

    return InstalledObjects(source.kind, source.packages, store)

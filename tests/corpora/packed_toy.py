"""A packed corpus small enough to count by hand, with the attributes that the tables read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sae_pipeline.corpora.documents import document_hash


@dataclass
class PackedToy:
    """Contexts of five tokens: BOS (id 0), then the text; -1 marks special positions."""

    tokens: Any
    document: Any
    source: Any
    documents: pd.DataFrame
    held: list[str]
    summary: dict[str, Any]

    def texts(self) -> Iterator[str]:
        yield from self.held


def toy() -> PackedToy:
    """Three contexts of prose and one of chat; ids 1-3 occur, 0 opens every context and is also once part of a text."""
    held = ["the cat sat on the mat", "the cat sat on the hat", "As an AI, I\ncannot say", "the cat sat on the mat"]
    owners = ["prose", "prose", "chat", "chat"]
    table = {"document_hash": [document_hash(t) for t in held], "source": owners, "key": ["a", "b", "c", "d"], "tokens": [7, 4, 2, 2]}
    return PackedToy(
        tokens=np.array([[0, 1, 1, 2, 0], [0, 1, 3, 1, 2], [0, 1, 1, 1, 9], [0, 2, 2, 1, 3]], np.int32),
        document=np.array([[-1, 0, 0, 0, 0], [-1, 0, 0, 0, 1], [-1, 1, 1, 1, -1], [-1, 2, 2, 3, 3]], np.int32),
        source=np.array([1, 1, 1, 0], np.uint8),
        documents=pd.DataFrame(table),
        held=held,
        summary={"sources": ["chat", "prose"], "dropped": {"prose": {"duplicate": 5, "empty": 2}, "chat": {"too_long": 0}}},
    )


def toy_of(texts: list[str]) -> PackedToy:
    """The texts as one source, each in a context of its own."""
    count = len(texts)
    table = {"document_hash": [document_hash(t) for t in texts], "source": ["s"] * count, "key": [""] * count, "tokens": [1] * count}
    places = np.arange(count, dtype=np.int32)[:, None]
    return PackedToy(
        tokens=np.ones((count, 1), np.int32), document=places, source=np.zeros(count, np.uint8), documents=pd.DataFrame(table), held=texts,
        summary={"sources": ["s"], "dropped": {"s": {}}},
    )  # fmt: skip

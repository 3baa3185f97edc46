"""How the records of a data set become documents: the one place where files and hub data sets agree.

A source only hands over rows, each with its place or with the reason why it cannot be read. Which rows are read at
all, which are kept, where their text is, how a conversation is written out, and what happens to a row that is no text
is decided here, so that the same study entry means the same for a file and for a data set of the hub.

Every record is either one document, or left out and counted under one word, or an error that names its place:

=================  ==============================================================================================
``filtered``       does not fit the entry's ``filters``
``empty``          the text is null or blank, or every turn of the conversation is
``no_turns``       the conversation is null or has no turns, in every column that could hold it
``too_short``      fewer than ``min_characters``
``too_long``       more than ``max_characters`` (with ``over_length: skip``), or beyond what a source reads at once
``control_tokens`` a turn spells one of the tokenizer's special tokens, which its template would turn into the real one
``malformed``      not text, not UTF-8, broken JSON, turns of no known form: with ``malformed: skip``; else an error
=================  ==============================================================================================
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from sae_pipeline.corpora.chat import TURN_COLUMNS, Turn, Writing, turns_of
from sae_pipeline.corpora.documents import Document, encodable
from sae_pipeline.errors import SourceError
from sae_pipeline.study.text_sections import Filter, Records

if TYPE_CHECKING:
    from sae_pipeline.corpora.tokenization import TextTokenizer

READER_VERSION = 2
"""Raised whenever the same record would become another document."""

SET = "; set 'text_field' or 'chat' to what is there"
"""What to do about a column that is nowhere in the data."""

ABSENT = object()
"""Stands for a column that a record does not have, which is not the same as one that is null."""


class Malformed(NamedTuple):
    """A row that cannot be read: ``reason`` as 'expected ..., found ...'.

    ``too_long`` marks a row beyond what the source holds in memory; it is counted under that word and never refused.
    """

    reason: str
    too_long: bool = False


Row = tuple[str, Mapping[str, Any] | Malformed]
"""(place such as ``file:line``, the record or why there is none)."""


class RecordReader:
    """Reads records as a study's entry says.

    Args:
        records: the entry.
        tokenizer: loads the tokenizer whose chat template may be wanted; called at most once, and only where it may be. None: there is none.

    Attributes:
        text_fields: columns that hold the text; not looked at for chat.
    """

    def __init__(self, records: Records, tokenizer: Callable[[], TextTokenizer] | None) -> None:
        self.records = records
        self._tokenizer = tokenizer
        self.text_fields: tuple[str, ...] = (records.text_field,) if isinstance(records.text_field, str) else records.text_field

    @property
    def columns(self) -> frozenset[str] | None:
        """Top-level columns that decide the documents; None: any of them may.

        A name with dots is given both whole and by its first part, since either may be the column.
        """
        chat = self.records.chat
        if chat is not None and chat.field == "auto":
            return None
        names = [*(self.text_fields if chat is None else (chat.field,)), *(keeps.field for keeps in self.records.filters)]
        return frozenset(names) | frozenset(name.partition(".")[0] for name in names)

    @property
    def template(self) -> list[str | int] | None:
        """What writes conversations out, as :attr:`Writing.identity` tells it; None where there are none.

        Beside the entry itself and :data:`READER_VERSION` this is all that the documents of given records depend on.

        Raises:
            SourceError: the tokenizer's template is asked for and it has none.
        """
        return self._writing.identity if self._writing else None

    def require(self, place: str, columns: Collection[str]) -> None:
        """Check the columns of a whole file or data set before its rows are read.

        Raises:
            SourceError: the text column is not among them.
        """
        if missing := self._missing(dict.fromkeys(columns)):
            raise SourceError(f"{place}: {_lacks(missing, columns)}{SET}")

    def documents(self, rows: Iterable[Row], dropped: Counter[str]) -> Iterator[Document]:
        """The documents of the rows, in their order; ``dropped`` counts those left out, by reason, as they are met.

        The window counts rows as they come, those left out included. A column that no row has had yet is a mistake in
        the entry and always an error; a row that lacks a column that others had is malformed.

        Raises:
            SourceError: a malformed row where the entry refuses them, a missing column, or a chat template that is not there.
        """
        window = self.records.window
        seen = False  # a row with the wanted columns
        for place, record in islice(rows, window.skip, None if window.take is None else window.skip + window.take):
            if isinstance(record, Malformed):
                found: Document | Malformed | str = record
            elif not all(fits(record, keeps) for keeps in self.records.filters):
                found = "filtered"
            elif missing := self._missing(record):
                if not seen:
                    raise SourceError(f"{place}: {_lacks(missing, record)}{SET}")
                found = Malformed(_lacks(missing, record))
            else:
                seen = True
                found = self._chat_document(place, record, self._writing) if self._writing else self._text_document(place, record)
            if isinstance(found, Document):
                yield found
                continue
            if isinstance(found, Malformed):
                if self.records.malformed == "refuse" and not found.too_long:
                    raise SourceError(f"{place}: {found.reason}; mend it, or set 'malformed: skip' to leave such records out")
                found = "too_long" if found.too_long else "malformed"
            dropped[found] += 1

    @cached_property
    def _writing(self) -> Writing | None:
        if self.records.chat is None:
            return None
        template = self.records.chat.template
        return Writing(template, self._tokenizer() if self._tokenizer and template in ("auto", "tokenizer") else None)

    def _missing(self, record: Mapping[str, Any]) -> str:
        """Names of the wanted columns when the record does not have them, else nothing."""
        chat = self.records.chat
        if chat is None:
            return ", ".join(name for name in self.text_fields if not _has(record, name))
        if chat.field != "auto":
            return "" if _has(record, chat.field) else chat.field
        known = any(all(name in record for name in columns) for columns in TURN_COLUMNS)
        return "" if known else ", or ".join(" and ".join(columns) for columns in TURN_COLUMNS)

    def _text_document(self, place: str, record: Mapping[str, Any]) -> Document | Malformed | str:
        parts: list[str] = []
        for name in self.text_fields:
            value = value_at(record, name)
            if value is not None and not isinstance(value, str):
                return Malformed(f"expected text in the field '{name}', found {type(value).__name__}")
            if value and value.strip():
                parts.append(value)
        if not parts:
            return "empty"
        text = encodable("\n\n".join(parts))
        if len(text) > self.records.max_characters:
            if self.records.over_length == "skip":
                return "too_long"
            text = text[: self.records.max_characters]
        if not text.strip():
            return "empty"
        return "too_short" if len(text) < self.records.min_characters else Document(text, place)

    def _chat_document(self, place: str, record: Mapping[str, Any], writing: Writing) -> Document | Malformed | str:
        chat = self.records.chat
        assert chat is not None
        try:
            turns = turns_of(record if chat.field == "auto" else {"messages": value_at(record, chat.field)})
            if not turns:
                return "no_turns"
            turns = [Turn(turn.role, encodable(turn.content), encodable(turn.input)) for turn in turns if turn.content.strip() or turn.input.strip()]
            if not turns:
                return "empty"
            if writing.spells_control_tokens(turns):
                return "control_tokens"
            text = self._written(turns, writing)
        except ValueError as error:
            return Malformed(str(error))
        if text is None:
            return "too_long"
        if not text.strip():
            return "empty"
        return "too_short" if len(text) < self.records.min_characters else Document(text, place, control_tokens=writing.control_tokens)

    def _written(self, turns: list[Turn], writing: Writing) -> str | None:
        """The conversation within ``max_characters``, or None.

        Cut at a character, a text could end in half a control token; a conversation is cut after its last turn that fits.
        """
        limit = self.records.max_characters
        while turns:
            # the words alone are over the limit: that can be seen without writing the template around them
            if sum(len(turn.content) + len(turn.input) for turn in turns) <= limit and len(text := writing.text(turns)) <= limit:
                return text
            turns = turns[:-1] if self.records.over_length == "cut" else []
        return None


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """The value of a column, where dots reach into nested records; :data:`ABSENT` when there is no such column."""
    if path in record:
        return record[path]
    head, _, rest = path.partition(".")
    if not rest or head not in record:
        return ABSENT
    inner = record[head]
    if inner is None:
        return None
    return value_at(inner, rest) if isinstance(inner, Mapping) else ABSENT


def fits(record: Mapping[str, Any], keeps: Filter) -> bool:
    """Whether a record meets every condition of a filter; one without the column, or with null in it, does not.

    Numbers are compared as numbers also where a file holds them as text (csv), and 0 and 1 stand for false and true.
    """
    value = value_at(record, keeps.field)
    if value is ABSENT or value is None:
        return False
    if keeps.equals is not None and not _same(value, keeps.equals):
        return False
    if keeps.one_of is not None and not any(_same(value, wanted) for wanted in keeps.one_of):
        return False
    if keeps.matches is not None and not (isinstance(value, str) and re.search(keeps.matches, value)):
        return False
    if keeps.minimum is None and keeps.maximum is None:
        return True
    number = _number(value)
    return number is not None and (keeps.minimum is None or number >= keeps.minimum) and (keeps.maximum is None or number <= keeps.maximum)


def _same(value: Any, wanted: str | int | float) -> bool:
    return value == wanted or (not isinstance(wanted, str) and isinstance(value, str) and _number(value) == wanted)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _has(record: Mapping[str, Any], name: str) -> bool:
    # of the columns of a whole file only the top level is known, and null there says nothing about what is inside
    return value_at(record, name) is not ABSENT


def _lacks(missing: str, columns: Iterable[str]) -> str:
    found = ", ".join(map(str, columns)) or "none"
    return f"expected the field {missing}, found the fields {found}"

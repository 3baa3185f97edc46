"""Hugging Face data sets: streamed, and pinned to a commit before the first row is read.

The commit is asked for once per source object, and the rows come from exactly that commit, so a data set that is
updated in between cannot put other text under the same data version. What arrives is spooled, so that it is fetched
once, and a stream that breaks goes on from the last row that arrived. A local folder laid out like a hub repository
(``data/*.parquet`` and a README with its YAML header) is read in the same way, without a spool, and known by its content.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sae_pipeline.corpora.documents import Document
from sae_pipeline.corpora.sources.file_contents import folder_digest
from sae_pipeline.corpora.sources.ordering import distinct, shuffled_in_window
from sae_pipeline.corpora.sources.records import RecordReader
from sae_pipeline.corpora.sources.retrying import Attempts, advice, is_refusal, reason
from sae_pipeline.corpora.sources.row_stream import RowStream
from sae_pipeline.corpora.sources.spool import Record, Spool
from sae_pipeline.errors import SourceError
from sae_pipeline.safety.hub_address import hub_endpoint
from sae_pipeline.store import Store, digest
from sae_pipeline.study.text_sections import HuggingFace

COMMIT = re.compile(r"[0-9a-f]{40}")

SPOOL_VERSION = 3
"""Raised whenever the same data set would be spooled as other records."""

MARK_EVERY = 100
"""Rows between two states of a stream from which it can go on; what a broken connection makes it read again."""

REACH_SECONDS = 5.0
"""Seconds after which a hub that does not answer a connection counts as out of reach."""

ANSWER_SECONDS = 30.0
"""Seconds after which a question to the hub counts as broken; its client would wait for ever."""


class HubDataset:
    """Documents of one split of a Hugging Face data set.

    Args:
        source: the study's entry.
        reader: makes documents of its rows.
        store: keeps what is streamed.
    """

    def __init__(self, source: HuggingFace, reader: RecordReader, store: Store) -> None:
        self.source = source
        self.reader = reader
        self.store = store
        self.dropped: Counter[str] = Counter()
        self._commit: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the data set is a folder on this machine."""
        return Path(self.source.dataset).is_dir()

    def data_version(self) -> str:
        """Hash of the hub id and the commit it resolves to, or of a local folder's files.

        Raises:
            SourceError: the hub cannot be reached, or does not have the data set or the revision.
        """
        if self.is_local:
            folder = Path(self.source.dataset)
            return digest("hub folder", folder_digest(folder))
        return digest("hub", self.source.dataset, self.commit())

    def commit(self) -> str:
        """The commit that the revision names; asks the hub unless the revision already is a full commit.

        Raises:
            SourceError: as for :meth:`data_version`.
        """
        if self._commit is None:
            revision = self.source.revision
            self._commit = revision if revision and COMMIT.fullmatch(revision) else self._asked_commit()
        return self._commit

    def spool_folder(self) -> Path:
        """Where the store keeps what is streamed: one folder per data set, configuration, split, commit and columns read."""
        columns = None if self.reader.columns is None else sorted(self.reader.columns)
        identity = digest("spool", SPOOL_VERSION, self.source.dataset, self.source.config, self.source.split, self.commit(), columns)
        return self.store.root / "spool" / identity

    def documents(self, seed: int) -> Iterator[Document]:
        """The documents, shuffled through a window of ``shuffle_buffer``.

        Raises:
            SourceError: the data set, configuration, split or text field does not exist, the hub cannot be reached or breaks off
                again and again, a row cannot be read, or there is no text.
        """
        self.dropped = Counter()
        found = 0
        read = self.reader.documents(((f"{self._where()}: row {number}", row) for number, row in enumerate(self._rows())), self.dropped)
        for document in shuffled_in_window(distinct(read, self.dropped), seed, self.source.shuffle_buffer):
            found += 1
            yield document
        if not found:
            raise SourceError(f"{self._where()}: expected rows with text, found none; choose another split, field or filter")

    def _rows(self) -> Iterator[Record]:
        if not self.is_local:
            yield from self._spool().records()
            return
        try:
            yield from RowStream(self.source)
        except Exception as error:  # the library raises a dozen unrelated kinds for a wrong name or a damaged file
            raise self.refused(error) from error

    def _spool(self) -> Spool:
        return Spool(self.spool_folder(), self._stream)

    def _stream(self, state: dict[str, Any] | None) -> PatientStream:
        self._require_network()
        return PatientStream(self, state)

    def _require_network(self) -> None:
        """Fail within seconds where there is no network at all; the libraries would go on trying for half a minute.

        Raises:
            SourceError: no connection to the hub can be opened, or the hub's client was told to stay offline.
        """
        import huggingface_hub

        endpoint = urlsplit(_endpoint())
        host = endpoint.hostname or ""
        if huggingface_hub.is_offline_mode():
            found = "HF_HUB_OFFLINE is set"
        elif endpoint.scheme in getproxies() and not proxy_bypass(host):
            return  # whether a proxy reaches it only the request itself can tell
        else:
            try:
                socket.create_connection((host, endpoint.port or (80 if endpoint.scheme == "http" else 443)), REACH_SECONDS).close()
                return
            except OSError as error:
                found = str(error)
        raise SourceError(
            f"{self._where()}: expected to reach {endpoint.netloc}, found: {found}; "
            "connect to the network (or unset HF_HUB_OFFLINE), or use a local folder"
        )

    def _asked_commit(self) -> str:
        from huggingface_hub import HfApi

        self._require_network()
        attempts = Attempts()
        while True:
            try:
                answer = HfApi(endpoint=_endpoint()).dataset_info(self.source.dataset, revision=self.source.revision, timeout=ANSWER_SECONDS)
                break
            except Exception as error:
                if not attempts.again(error):
                    raise SourceError(
                        f"{self._where()}: expected a data set on the Hugging Face hub, found: {reason(error)}; {advice(error)}"
                    ) from error
        if answer.sha is None:
            raise SourceError(f"{self._where()}: expected the hub to name a commit, found none; pin 'revision' to a commit")
        return answer.sha

    def refused(self, error: Exception) -> SourceError:
        """What to say about an error that will not pass."""
        return SourceError(f"{self._where()}: expected a data set that can be streamed, found: {reason(error)}; {advice(error)}")

    def gave_up(self, error: Exception, tries: int) -> SourceError:
        """What to say about a connection that broke ``tries`` times without a row in between."""
        return SourceError(
            f"{self._where()}: expected rows after the {self._spool().held:,} that are kept, found {tries} broken attempts in a row "
            f"({reason(error)}); run again: the download goes on from there"
        )

    def _where(self) -> str:
        source = self.source
        parts = [
            source.dataset,
            f"config {source.config}" if source.config else "",
            f"split {source.split}",
            f"revision {source.revision}" if source.revision else "",
        ]
        return "data set " + ", ".join(part for part in parts if part)


class PatientStream:
    """Rows of a hub data set; a broken connection is opened again where the last row arrived.

    Iterated once. Rows since the last mark are read again after a break and passed over, so none is lost or given twice.
    """

    def __init__(self, dataset: HubDataset, state: dict[str, Any] | None) -> None:
        self._dataset = dataset
        self._mark, self._since_mark = state, 0
        self._rows: RowStream | None = None

    def __iter__(self) -> Iterator[Record]:
        attempts = Attempts()
        while True:
            try:
                for row in self._after_mark():
                    attempts.progressed()
                    self._since_mark += 1
                    yield row
                    if self._since_mark >= MARK_EVERY:
                        self.state()
                return
            except Exception as error:  # the libraries raise a dozen unrelated kinds for one broken connection
                if not attempts.again(error):
                    raise (self._dataset.refused(error) if is_refusal(error) else self._dataset.gave_up(error, attempts.broken)) from error

    def state(self) -> dict[str, Any]:
        """Position after the last row given; taken as the mark that a break goes back to."""
        assert self._rows is not None
        self._mark, self._since_mark = self._rows.state(), 0
        return self._mark

    def _after_mark(self) -> Iterator[Record]:
        dataset = self._dataset
        self._rows = RowStream(dataset.source, dataset.commit(), dataset.reader.columns, self._mark, dataset.spool_folder())
        rows = iter(self._rows)
        for _ in range(self._since_mark):
            next(rows)
        yield from rows


def _endpoint() -> str:
    """The hub's address; the libraries read it only once, when they are imported."""
    return hub_endpoint() or "https://huggingface.co"

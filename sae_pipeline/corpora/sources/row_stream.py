"""Rows of a data set as the datasets library streams them, with a position from which another stream goes on.

The library's own position lags behind: taken at the end of a file it leads back into that file, or into the one before.
Here the files are opened one after the other, and the position after the last row of a file is the start of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_pipeline.corpora.sources.spool import Record
from sae_pipeline.safety.roots import lies_inside
from sae_pipeline.study.text_sections import HuggingFace


class RowStream:
    """Rows as the datasets library streams them, file by file, from a state on.

    Args:
        source: which data set, configuration and split.
        revision: commit, None for a local folder.
        columns: those read, of the ones that are there; None, or where none of them is there: all.
        state: of an earlier stream of the same rows, None for the first row.
        cache: folder in which the library looks for a copy of the data set when the hub does not answer. A copy is of any
            commit, so this has to be one where it keeps none.
    """

    def __init__(
        self,
        source: HuggingFace,
        revision: str | None = None,
        columns: frozenset[str] | None = None,
        state: dict[str, Any] | None = None,
        cache: Path | None = None,
    ) -> None:
        import datasets

        for what in ("READ", "OPEN"):  # one loop decides when to try again, and it knows where to go on from: ours
            setattr(datasets.config, f"STREAMING_{what}_MAX_RETRIES", 1)
        for what in ("READ", "READ_SERVER_UNAVAILABLE", "READ_RATE_LIMIT", "OPEN"):
            setattr(datasets.config, f"STREAMING_{what}_RETRY_INTERVAL", 0)
        self._columns = columns
        if Path(source.dataset).is_dir():
            _check_files(Path(source.dataset), datasets.load_dataset_builder(source.dataset, source.config).config.data_files or {})
        self._files = datasets.load_dataset(
            source.dataset, source.config, split=source.split, streaming=True, revision=revision, cache_dir=None if cache is None else str(cache)
        )
        known = self._files.column_names
        if columns is not None and known and (kept := [name for name in known if name in columns]):
            self._files = self._files.select_columns(kept)
        self._start: dict[str, Any] = state or {"file": 0, "within": None}
        self._ahead: tuple[dict[str, Any], Record | Exception | None] | None = None

    def __iter__(self) -> Iterator[Record]:
        for file in range(self._start["file"], self._files.num_shards):
            self._file = file
            self._rows = self._files.shard(self._files.num_shards, file)
            if file == self._start["file"] and self._start["within"] is not None:
                self._rows.load_state_dict(self._start["within"])
            self._rest = iter(self._rows)
            while (row := self._next()) is not None:
                # the columns of JSON are not known before its rows are
                yield row if self._columns is None else {name: value for name, value in row.items() if name in self._columns} or row

    def state(self) -> dict[str, Any]:
        """Position after the last row given. Looks one row ahead within the file; what breaks there is raised with that row."""
        if self._ahead is None:
            state: dict[str, Any] = {"file": self._file, "within": self._rows.state_dict()}
            row: Record | Exception | None
            try:
                row = next(self._rest, None)
            except Exception as error:
                row = error
            self._ahead = ({"file": self._file + 1, "within": None} if row is None else state, row)
        return self._ahead[0]

    def _next(self) -> Record | None:
        """The next row of the file, None at its end."""
        if self._ahead is None:
            return next(self._rest, None)
        (_, row), self._ahead = self._ahead, None
        if isinstance(row, Exception):
            raise row
        return row


def _check_files(folder: Path, data_files: Mapping[str, Sequence[str]]) -> None:
    """Refuse a local data set whose README or links name files elsewhere; of the hub's the library refuses them itself (ValueError)."""
    for name in (name for names in data_files.values() for name in names):
        place = name.rpartition("::")[2]  # of zip://inside.txt::archive.zip
        if "://" in place or not lies_inside(folder, Path(place)):
            raise ValueError(f"{name}, a file outside the data set's folder, which its README or a link leads to")

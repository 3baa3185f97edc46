"""One folder on any fsspec URL, and the few operations that sharing it needs, each in as few requests as it can be.

What several machines rest on is :meth:`Remote.create`: of all that create the same key, one succeeds. A network that goes
away for a while is waited for; one that stays away is told in one sentence, in which no credential appears.
"""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sae_pipeline.errors import BadInput, SharedStoreError
from sae_pipeline.safety.text import PASSWORD, without_secrets
from sae_pipeline.store.writing import flush

Answer = TypeVar("Answer")
PROBES = "probes"
SHARED_LEVELS = 3
"""Parts of a key up to a name that one machine alone uses: a folder above may be written into by another machine, and stays."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two attempts at what failed; the pause doubles."""
OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""What refuses a download where the files are to come, rather than in the store."""


@dataclass(frozen=True)
class Entry:
    """What a listing says of one file."""

    bytes: int
    version: str
    """Changes when the file is replaced."""
    modified: float
    """Seconds by the store's own clock, comparable with what :meth:`Remote.check` says and with nothing else."""


class Remote:
    """The folder that a URL names. Keys are paths below it.

    Every operation raises :class:`SharedStoreError` when the store cannot be reached for ``patience`` seconds or refuses.
    """

    def __init__(self, url: str, patience: float) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.shown = without_secrets(url)
        self.patience = patience
        self._gone = False
        if PASSWORD.search(url):
            raise BadInput(
                f"SAE_STORE: expected an address without a password, found one in that of {self.shown}; leave it out and give credentials through "
                "the environment or the library's own configuration (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
            )
        try:
            self._fs, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise BadInput(
                f"SAE_STORE: expected a URL that fsspec can open (s3://bucket/folder, file:///folder), found {self.shown} "
                f"({without_secrets(str(error))}); correct it or install what it needs (for S3 `pip install 'sae-pipeline[s3]'`)"
            ) from None
        self._folder = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None
        if self._folder is not None and not re.sub("^(file|local):(//)?", "", url).startswith(("/", "~")):
            raise BadInput(
                f"SAE_STORE: expected a folder from the root on, found {self.shown}, which is another folder for every process that starts elsewhere; "
                f"write {self._folder.as_uri()} if that is what you mean"
            )

    # ------------------------------------------------------------------------------------------------ one file

    def read(self, key: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        try:
            return self._ask(lambda: self._fs.cat_file(self._path(key)), may_be_missing=True)
        except FileNotFoundError:
            return None

    def create(self, key: str, content: bytes) -> bool:
        """Write a file that must not exist; False where it does, whoever was first. ``content`` must be unlike anybody else's."""
        try:
            self._ask(lambda: self._create(key, content))
        except FileExistsError:
            # Ours all the same when the answer to a first attempt was lost on its way.
            return self.read(key) == content
        return True

    def write(self, key: str, content: bytes) -> None:
        """Write a file or replace it; at once or not at all, without waiting for a network that is away."""
        self._ask(lambda: self._write(key, content), patience=0)

    # ------------------------------------------------------------------------------------------------ many files

    def upload(self, files: Mapping[str, Path]) -> None:
        """Copy local files to keys, several at a time where the file system can."""
        self._ask(lambda: self._upload(files))

    def download(self, files: Mapping[str, Path]) -> bool:
        """Copy keys to local files; False where a key is not there.

        Raises:
            OSError: this machine cannot write the files.
        """
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        targets = [str(path) for path in files.values()]
        try:
            self._ask(lambda: self._fs.get([self._path(key) for key in files], targets), may_be_missing=True, written=targets)
        except FileNotFoundError as error:
            if error.filename in targets:
                raise
            return False
        return True

    def listing(self, prefix: str) -> dict[str, Entry]:
        """Every file below a folder, by key; on S3 one request per thousand."""
        found: dict[str, Any] = self._ask(lambda: self._fs.find(self._path(prefix), detail=True))
        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: _entry(about) for path, about in found.items()}

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error."""
        listed = list(keys)
        if not listed:
            return
        if self._folder is None:
            paths = [self._path(key) for key in listed]
            try:
                self._ask(lambda: self._fs.rm(paths), may_be_missing=True)
            except FileNotFoundError:  # where a file system stops at the first that is gone, the others are still there
                for path in paths:
                    with suppress(FileNotFoundError):
                        self._ask(partial(self._fs.rm, path), may_be_missing=True)
            return
        for file in (self._folder / key for key in listed):
            self._ask(partial(file.unlink, missing_ok=True))
            for folder in file.parents[: max(0, len(file.relative_to(self._folder).parts) - SHARED_LEVELS)]:
                with suppress(OSError):  # not empty yet
                    folder.rmdir()

    # ------------------------------------------------------------------------------------------------ the store itself

    def check(self) -> float:
        """Make sure that the store can be written and that :meth:`create` is exclusive on it; the store's own time.

        Raises:
            SharedStoreError: it is not there, cannot be written, or lets two machines create the same file.
        """
        key = f"{PROBES}/{uuid.uuid4().hex}"
        exclusive = self._can_exclude() and self.create(key, b"first") and not self.create(key, b"second")
        now = self.listing(PROBES)[key].modified if exclusive else 0.0
        self.remove([key])
        if not exclusive:
            raise SharedStoreError(
                f"SAE_STORE: expected a store on which of two machines that create the same file one is refused (on S3: that it honours "
                f"`If-None-Match: *`), found that {self.shown} lets both; work could be done twice or mixed, so it is not shared: "
                "use another server, a newer version of it, or a network folder"
            )
        return now

    def _can_exclude(self) -> bool:
        """Whether other machines see the file system, and it has a creation of its own that excludes them, rather than a look followed by a write."""
        from fsspec import AbstractFileSystem
        from fsspec.asyn import AsyncFileSystem
        from fsspec.implementations.memory import MemoryFileSystem

        if isinstance(self._fs, MemoryFileSystem):
            return False
        kind = type(self._fs)
        own = kind._pipe_file is not AsyncFileSystem._pipe_file if isinstance(self._fs, AsyncFileSystem) else None
        return self._folder is not None or (own if own is not None else kind.pipe_file is not AbstractFileSystem.pipe_file)

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    def _create(self, key: str, content: bytes) -> None:
        if self._folder is None:
            self._fs.pipe_file(self._path(key), content, mode="create")
            return
        # Written beside it and linked: a reader never sees half of it.
        target = self._folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(content)
            flush(temporary)
            os.link(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        flush(target.parent)

    def _upload(self, files: Mapping[str, Path]) -> None:
        if self._folder is not None:
            for key in files:
                (self._folder / key).parent.mkdir(parents=True, exist_ok=True)
        self._fs.put([str(path) for path in files.values()], [self._path(key) for key in files])
        if self._folder is not None:
            for key in files:
                flush(self._folder / key)

    def _write(self, key: str, content: bytes) -> None:
        if self._folder is not None:
            (self._folder / key).parent.mkdir(parents=True, exist_ok=True)
        self._fs.pipe_file(self._path(key), content)

    def _ask(
        self, question: Callable[[], Answer], *, patience: float | None = None, may_be_missing: bool = False, written: Collection[str] = ()
    ) -> Answer:
        """The answer, asked for again while the store cannot be reached; one that stayed away is asked once until it is back.

        ``written`` are the files of this machine that the question writes: what is wrong with them is no fault of the store's, and raised as it is.
        """
        started, pause = time.monotonic(), FIRST_PAUSE
        allowed = 0.0 if self._gone else self.patience if patience is None else patience
        while True:
            try:
                if self._folder is not None and not self._folder.is_dir():
                    raise OSError("no such folder (is it mounted?)")
                answer = question()
            except Exception as error:  # of the file system's own kind: each brings the exceptions of its libraries
                if isinstance(error, FileExistsError) or (may_be_missing and isinstance(error, FileNotFoundError)):
                    raise
                if written and isinstance(error, OSError) and (error.errno in OF_THIS_MACHINE or error.filename in written):
                    raise
                if isinstance(error, (PermissionError, FileNotFoundError)) or time.monotonic() - started + pause > allowed:
                    self._gone = self._gone or patience is None
                    raise self._error(without_secrets(f"{type(error).__name__}: {error}".splitlines()[0])) from None
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._gone = False
                return answer

    def _error(self, found: str) -> SharedStoreError:
        return SharedStoreError(
            f"SAE_STORE: expected to read and write {self.shown}, found: {found}; check the network, the address and the credentials, "
            "then run again (finished work is kept in SAE_HOME and uploaded by the next run), or unset SAE_STORE to use this home alone"
        )


def _entry(about: Mapping[str, Any]) -> Entry:
    modified = about.get("LastModified") or about.get("mtime") or about.get("created") or about.get("updated") or 0.0
    seconds = float(modified.timestamp()) if hasattr(modified, "timestamp") else float(modified)
    return Entry(int(about["size"]), str(about.get("ETag") or about.get("etag") or (about.get("ino"), about.get("mtime"))), seconds)

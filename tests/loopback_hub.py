"""A Hugging Face hub on the loopback: the few endpoints through which a data set is resolved and streamed, and its troubles."""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loopback_server import Answers, serving

OLD_COMMIT = "beefed" + "0" * 34
COMMIT = "c0ffee" + "0" * 34
RETRY_AFTER = 7
"""Seconds that an answer 429 asks to wait."""

Faults = Callable[[int], str | None]
"""What goes wrong with the n-th request, from 0: ``drop`` closes the connection without an answer, ``truncate`` sends half of
the promised bytes, a number is the status that is answered, None means nothing."""


def untroubled(request: int) -> str | None:
    """No fault at all."""
    return None


class Hub:
    """Data sets by id, each with its folders by commit; the branch main is at the last of them."""

    def __init__(self, datasets: dict[str, dict[str, Path]]) -> None:
        self.datasets = datasets
        self.endpoint = ""
        self.seen: list[str] = []
        self.token: str | None = None
        """Whoever does not show it is refused; None: everybody is served."""
        self.file_faults: Faults = untroubled
        self.other_faults: Faults = untroubled
        self.file_requests = itertools.count()
        self.other_requests = itertools.count()

    @contextmanager
    def trouble(self, files: Faults = untroubled, other: Faults = untroubled) -> Iterator[list[str]]:
        """Faults of the GETs of data files and of all other requests while the context lasts; yields the requests seen in it."""
        self.file_requests, self.other_requests = itertools.count(), itertools.count()
        self.file_faults, self.other_faults = files, other
        self.seen = []
        try:
            yield self.seen
        finally:
            self.file_faults = self.other_faults = untroubled


def data_files(seen: list[str]) -> list[str]:
    """Names of the data files that were read, one for each GET."""
    return [request.rpartition("/")[2] for request in seen if request.startswith("GET") and "/data/" in request and "/resolve/" in request]


@contextmanager
def loopback_hub(datasets: dict[str, dict[str, Path]]) -> Iterator[Hub]:
    """Serve data sets for as long as the context lasts."""
    hub = Hub(datasets)

    class Handler(Answers):
        cut = False

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.seen.append(f"{self.command} {path}")
            is_file = self.command == "GET" and "/resolve/" in path and "/data/" in path
            fault = hub.file_faults(next(hub.file_requests)) if is_file else hub.other_faults(next(hub.other_requests))
            if fault == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault and fault.isdigit():
                self.send(int(fault), b"not now", {"Retry-After": str(RETRY_AFTER)} if fault == "429" else {})
                return
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.send(401, {}, {"X-Error-Message": "Invalid username or password."})
                return
            self.cut = fault == "truncate"
            for dataset, commits in hub.datasets.items():
                if path.startswith((f"/api/datasets/{dataset}", f"/datasets/{dataset}/")):
                    self.answer_for(dataset, commits, path, body)
                    return
            self.send(404, {}, {"X-Error-Code": "RepoNotFound"})

        def answer_for(self, dataset: str, commits: dict[str, Path], path: str, body: bytes) -> None:
            api, files = f"/api/datasets/{dataset}", f"/datasets/{dataset}/resolve/"
            head = list(commits)[-1]
            if path == api or path.startswith(f"{api}/revision/"):
                named = path.removeprefix(api).removeprefix("/revision/") or "main"
                commit = head if named == "main" else named
                if commit not in commits:
                    self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
                    return
                siblings = [{"rfilename": p.relative_to(commits[commit]).as_posix()} for p in sorted(commits[commit].rglob("*")) if p.is_file()]
                self.send(200, {"id": dataset, "sha": commit, "private": False, "tags": [], "downloads": 0, "siblings": siblings})
            elif path.startswith((f"{api}/tree/", f"{api}/paths-info/")):
                question, commit, *rest = path.removeprefix(f"{api}/").split("/")
                folder = commits[commit]
                if question == "tree":
                    asked = sorted((folder / "/".join(rest)).glob("**/*" if "recursive=true" in self.path.lower() else "*"))
                else:
                    asked = [folder / name for name in json.loads(body)["paths"] if (folder / name).exists()]
                self.send(200, [entry(p, folder) for p in asked])
            elif path.startswith(files):
                commit, _, name = path.removeprefix(files).partition("/")
                if commit in commits and (commits[commit] / name).is_file():
                    self.send_file(commits[commit] / name, commit)
                else:
                    self.send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            else:
                self.send(404, {}, {"X-Error-Code": "EntryNotFound"})

        def send_file(self, path: Path, commit: str) -> None:
            data = path.read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if "range" in self.headers:
                first, last = self.headers["range"].removeprefix("bytes=").split("-")
                start, stop = int(first), min(int(last or len(data)) + 1, len(data))
                self.send(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})
            else:
                self.send(200, data, headers)

        def write_body(self, data: bytes) -> None:
            if self.cut:
                self.cut, self.close_connection = False, True
                data = data[: len(data) // 2]
            super().write_body(data)

    with serving(Handler) as hub.endpoint:
        yield hub


def entry(path: Path, folder: Path) -> dict[str, object]:
    """A file or folder as the hub lists it."""
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": hashlib.sha1(path.read_bytes()).hexdigest()}

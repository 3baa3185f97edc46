"""A Hugging Face hub on the loopback for model repositories: enough to download a snapshot and to upload a folder."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from loopback_server import Answers, serving

COMMITS = ("a" * 40, "b" * 40)
TOKEN = "hf_secretsecretsecret"

Files = dict[str, bytes]


class ModelHub:
    """Repositories as lists of commits, the last of which is main; writing needs ``TOKEN`` and the owner ``me``."""

    def __init__(self) -> None:
        self.repositories: dict[str, list[Files]] = {}
        self.endpoint = ""
        self.seen: list[str] = []
        self.private: set[str] = set()
        self.uploaded_by: set[str] = set()


class Handler(Answers):
    """The hub's endpoints; ``hub`` is set on the class that serves one."""

    hub: ModelHub

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append(f"{self.command} {path}")
        if self.command == "POST" and self.may_write(path, body):
            self.write(path, body)
        elif self.command != "POST":
            self.read(path)

    def may_write(self, path: str, body: bytes) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.uploaded_by.add(token)
        if token != TOKEN:
            self.send(401, {"error": "Invalid credentials"}, {"X-Error-Message": "Invalid credentials"})
            return False
        if path == "/api/validate-yaml":  # of a card, before it is uploaded
            return True
        owner = json.loads(body).get("organization") if path == "/api/repos/create" else path.split("/")[3]
        if owner not in ("me", None):
            self.send(403, {"error": "no rights"}, {"X-Error-Message": "You don't have the rights"})
            return False
        return True

    def write(self, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(name)
            self.hub.repositories.setdefault(name, [{}])
            self.send(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self.send(200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in path:
            name = "/".join(path.split("/")[3:5])
            lines = [json.loads(line) for line in body.splitlines()]
            added = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
            self.hub.repositories[name].append(self.hub.repositories[name][-1] | added)
            address = f"{self.hub.endpoint}/{name}/commit/{COMMITS[1]}"
            self.send(200, {"commitUrl": address, "commitOid": COMMITS[1], "success": True})
        else:
            self.send(200, {})

    def read(self, path: str) -> None:
        for name, commits in self.hub.repositories.items():
            known = dict(zip(COMMITS, commits, strict=False))
            head = list(known)[-1]
            api, resolve = f"/api/models/{name}", f"/{name}/resolve/"
            if path == api or path.startswith((f"{api}/revision/", f"{api}/tree/")):
                named = path.removeprefix(api).split("/")[2] if path != api else "main"
                commit = head if named == "main" else named
                if commit not in known:
                    self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
                elif "/tree/" in path:
                    self.send(
                        200, [{"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for f, c in known[commit].items()]
                    )
                else:
                    about = {"id": name, "sha": commit, "private": False, "tags": [], "downloads": 0}
                    self.send(200, about | {"siblings": [{"rfilename": file} for file in known[commit]]})
                return
            if path.startswith(resolve):
                commit, _, file = path.removeprefix(resolve).partition("/")
                content = known.get(commit, {}).get(file)
                if content is None:
                    self.send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                else:
                    self.send(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit})
                return
        self.send(404, {}, {"X-Error-Code": "RepoNotFound"})


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """Serve an empty hub for as long as the context lasts."""
    served = ModelHub()

    class OfThisHub(Handler):
        hub = served

    with serving(OfThisHub) as served.endpoint:
        yield served

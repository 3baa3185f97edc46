"""The store that several machines share: artifacts on any fsspec URL, published whole and once.

What lies there::

    manifests/<stage>/<fingerprint>.json       the artifact's manifest, and the name of the upload that holds its files
    files/<stage>/<fingerprint>.<upload>/…     its files, under a name that one upload alone writes to
    leases/, heartbeats/                       who is making what, see leases.py

An artifact exists when its manifest does. That is created last and exclusively, so the first of two machines wins and the
other takes what the first one made; a reader sees all of it or nothing.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sae_pipeline.errors import BadInput, DamagedArtifact
from sae_pipeline.store.damage import DESCRIBED, MANIFEST, damage_of_file
from sae_pipeline.store.fingerprints import ADDRESS
from sae_pipeline.store.leases import Leases
from sae_pipeline.store.remote import Entry, Remote
from sae_pipeline.store.writing import write_json

MANIFESTS, FILES = "manifests", "files"
NO_MANIFEST = (ValueError, KeyError, TypeError, AttributeError)
"""What reading raises where there is no JSON, or JSON of another shape."""
LEASE_SECONDS = 60.0
"""Silence after which a machine is given up, and for which a network that is away is waited for; ``SAE_LEASE_SECONDS`` sets another."""
ASKED = "asked"
"""Version of an artifact that is known from its manifest and not from a listing."""
LISTING_SECONDS, LISTING_SHARE = 5.0, 0.1
"""A listing is believed for this long, or longer where it takes long: listing takes at most this share of the time."""


@dataclass(frozen=True)
class Published:
    """An artifact of the shared store."""

    stage: str
    fingerprint: str
    upload: str
    manifest: dict[str, Any]

    @classmethod
    def of(cls, stage: str, fingerprint: str, about: Any) -> Published:
        """What a file about it says; raises one of ``NO_MANIFEST`` where that cannot be used."""
        found = cls(stage, fingerprint, about["upload"], about["manifest"])
        leads_out = any(name.startswith("/") or ".." in name.split("/") for name in (found.upload, *found.manifest["files"]))
        if leads_out or not found.manifest.keys() >= DESCRIBED:
            raise ValueError
        return found

    @property
    def keys(self) -> dict[str, str]:
        """Key of every file, by its name in the artifact."""
        return {name: f"{FILES}/{self.stage}/{self.fingerprint}.{self.upload}/{name}" for name in self.manifest["files"]}

    @property
    def manifest_key(self) -> str:
        return manifest_key(self.stage, self.fingerprint)

    def content(self) -> bytes:
        return json.dumps({"upload": self.upload, "manifest": self.manifest}, sort_keys=True).encode()

    def is_the(self, manifest: dict[str, Any]) -> bool:
        """Whether it is the artifact of that manifest, file for file."""
        return bool(self.manifest["files"] == manifest["files"] and self.manifest["content"] == manifest["content"])


def manifest_key(stage: str, fingerprint: str) -> str:
    return f"{MANIFESTS}/{stage}/{fingerprint}.json"


def address_of(key: str) -> tuple[str, str] | None:
    """Stage and fingerprint that a manifest's key names; None for any other file (what a killed process was writing, or somebody put there)."""
    found = re.fullmatch(rf"{MANIFESTS}/{ADDRESS}\.json", key, re.ASCII)
    return (found[1], found[2]) if found else None


def upload_of(key: str) -> tuple[str, str, str] | None:
    """Stage, fingerprint and upload that the key of an artifact's file names; None for any other file."""
    found = re.match(rf"{FILES}/{ADDRESS}\.([0-9a-f]{{32}})/", key, re.ASCII)
    return (found[1], found[2], found[3]) if found else None


class SharedStore:
    """The store that ``SAE_STORE`` names, as one process sees it."""

    def __init__(self, url: str, patience: float = LEASE_SECONDS) -> None:
        self.remote = Remote(url, patience)
        self.leases = Leases(self.remote, patience)
        self._url = url
        self._listed: dict[tuple[str, str], Entry] = {}
        self._believed_until = 0.0
        """By the monotonic clock."""
        self._known: dict[tuple[str, str], tuple[str, Published]] = {}

    @classmethod
    def from_environment(cls) -> SharedStore | None:
        """The store that the environment names; None where it names none."""
        url = os.environ.get("SAE_STORE")
        return _opened(url, _lease_seconds(), os.getpid()) if url else None

    @property
    def shown(self) -> str:
        """The URL as users may see it."""
        return self.remote.shown

    def check(self) -> float:
        """Make sure that the store is fit to be shared, without waiting for one that is away; its own time, see :meth:`Remote.check`."""
        return Remote(self._url, patience=0).check()

    # ------------------------------------------------------------------------------------------------ what is there

    def listing(self) -> dict[tuple[str, str], Entry]:
        """Every artifact by stage and fingerprint, a few seconds old at most."""
        if time.monotonic() >= self._believed_until:
            started = time.monotonic()
            self._listed = {address: entry for key, entry in self.remote.listing(MANIFESTS).items() if (address := address_of(key))}
            took = time.monotonic() - started
            self._believed_until = time.monotonic() + max(LISTING_SECONDS, took / LISTING_SHARE)
        return self._listed

    def refresh(self) -> None:
        """Believe the last listing no longer."""
        self._believed_until = 0.0

    def find(self, stage: str, fingerprint: str, remembered: Path, *, take_out: bool = True) -> Published | None:
        """The artifact, as far as the last listing knew it; ``remembered`` is the folder that keeps manifests from one process to the next.

        A manifest that cannot be read counts as none, and is removed unless ``take_out`` is False.
        """
        entry = self.listing().get((stage, fingerprint))
        if entry is None:
            return None
        version, known = self._known.get((stage, fingerprint), ("", None))
        if known is not None and version == entry.version:
            return known
        file = remembered / stage / f"{fingerprint}.json"
        with suppress(OSError, *NO_MANIFEST):
            kept = json.loads(file.read_text())
            if kept["version"] == entry.version:
                found = Published.of(stage, fingerprint, kept)
                self._known[stage, fingerprint] = entry.version, found
                return found
        asked = self.ask(stage, fingerprint, take_out=take_out)
        if asked is not None and entry.version != ASKED:
            with suppress(OSError):  # a home that cannot be written, or is full, asks again
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, {"version": entry.version, "upload": asked.upload, "manifest": asked.manifest})
        return asked

    def ask(self, stage: str, fingerprint: str, *, take_out: bool = True) -> Published | None:
        """The artifact as it is in the store at this moment; :meth:`find` knows of it from now on, and says what ``take_out`` means."""
        key = manifest_key(stage, fingerprint)
        content = self.remote.read(key)
        if content is None:
            self._forget(stage, fingerprint)
            return None
        try:
            found = Published.of(stage, fingerprint, json.loads(content))
        except NO_MANIFEST:
            if take_out:
                self._remove_unless_replaced(key, content)
            self._forget(stage, fingerprint)
            return None
        entry = self._listed.setdefault((stage, fingerprint), Entry(len(content), ASKED, 0.0))
        self._known[stage, fingerprint] = entry.version, found
        return found

    def is_complete(self, found: Published) -> bool:
        """Whether every file lies there at its recorded size."""
        listed = self.remote.listing(f"{FILES}/{found.stage}/{found.fingerprint}.{found.upload}")
        return all(key in listed and listed[key].bytes == found.manifest["files"][name]["bytes"] for name, key in found.keys.items())

    # ------------------------------------------------------------------------------------------------ bringing and taking

    def publish(self, stage: str, fingerprint: str, folder: Path, manifest: dict[str, Any]) -> Published:
        """Upload an artifact, its manifest last; what the store then holds: this one, or the one that another machine published first."""
        if (first := self.ask(stage, fingerprint)) is not None:
            return first
        mine = Published(stage, fingerprint, uuid.uuid4().hex, manifest)
        self.remote.upload({key: folder / name for name, key in mine.keys.items()})
        if self.remote.create(mine.manifest_key, mine.content()):
            return mine
        self.remote.remove(mine.keys.values())
        return self.ask(stage, fingerprint) or self.publish(stage, fingerprint, folder, manifest)

    def fetch(self, stage: str, fingerprint: str, manifest: dict[str, Any], into: Path) -> None:
        """Download the files of an artifact that was found into an empty folder, compare every byte with the manifest, and write that last.

        Raises:
            DamagedArtifact: the artifact was removed or replaced since it was found, or is damaged; a damaged one is removed
                from the store and computed again.
            OSError: this machine cannot write or read the files; nothing is wrong with the store.
        """
        found = self.ask(stage, fingerprint)
        if found is None or not found.is_the(manifest):
            raise DamagedArtifact(
                f"{self.shown}: expected the {stage} artifact {fingerprint} as it was found before, found that it was "
                f"{'removed' if found is None else 'replaced'} since; run `sae-pipeline run` again"
            )
        damage = self._download(found, into) and self._download(found, into)  # once more: the network may have done it
        if damage:
            self.condemn(found)
            raise DamagedArtifact(
                f"{self.shown}: expected the {stage} artifact {fingerprint} as it was published, found {damage}; it was taken out of the "
                "shared store and is computed again by the next `sae-pipeline run`"
            )
        write_json(into / MANIFEST, found.manifest)

    def condemn(self, found: Published) -> None:
        """Take an artifact out of the store, unless it has been replaced since; its files go first from sight, then from the disk."""
        self._remove_unless_replaced(found.manifest_key, found.content())
        self.remote.remove(found.keys.values())
        self._forget(found.stage, found.fingerprint)

    def _download(self, found: Published, into: Path) -> str | None:
        """What is wrong with the files that came; None where nothing is."""
        if not self.remote.download({key: into / name for name, key in found.keys.items()}):
            return "that a file is missing"
        for name, expected in found.manifest["files"].items():
            if damage := damage_of_file(into / name, expected):
                return f"{name}: {damage}"
        return None

    def _remove_unless_replaced(self, key: str, content: bytes) -> None:
        if self.remote.read(key) == content:
            self.remote.remove([key])

    def _forget(self, stage: str, fingerprint: str) -> None:
        self._listed.pop((stage, fingerprint), None)
        self._known.pop((stage, fingerprint), None)


@cache
def _opened(url: str, patience: float, process: int) -> SharedStore:
    """One per process, and a new one in a child: connections and threads do not survive a fork."""
    return SharedStore(url, patience)


def _lease_seconds() -> float:
    text = os.environ.get("SAE_LEASE_SECONDS") or str(LEASE_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadInput(f"SAE_LEASE_SECONDS: expected a number of seconds above 0, found '{text}'; 60 is the default")
    return seconds

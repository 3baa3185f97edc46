"""Reclaiming disk: removing what no named study reaches, from the home and from the store that several machines share."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sae_pipeline.errors import BadInput
from sae_pipeline.stages import corpora, foreign, reachable, sources, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.reachable import Address
from sae_pipeline.store import Artifact, Store, exclusive, is_held, storage_errors, strings_in
from sae_pipeline.store.budget import discard, stored_bytes
from sae_pipeline.store.damage import MANIFEST
from sae_pipeline.store.fingerprints import LENGTH
from sae_pipeline.store.leases import BEATS, LEASES, Lease
from sae_pipeline.store.remote import PROBES
from sae_pipeline.store.shared import FILES, MANIFESTS, address_of, manifest_key, upload_of

KEPT_STAGES = ("installed_text",)
"""Parsed text of installed packages: small, slow to make again, and the same for every study."""

MADE_FROM_NO_ARTIFACT = (subject.STAGE, "generated", "retrieved", foreign.STAGE)
"""Stages whose artifacts a study can name whatever else is missing."""

OWN_FOLDERS = (MANIFESTS, FILES, LEASES, BEATS, PROBES)
"""What the shared store consists of; what lies beside these folders belongs to somebody else. Leases are listed after the files, so that an
upload which begins in between is seen to have one."""

PASSING = re.compile(rf"(?:{BEATS}|{PROBES})/[0-9a-f]{{32}}|(?:{'|'.join(OWN_FOLDERS)})/(?:\w+/)?\.[0-9a-f]{{32}}", re.ASCII)
"""Keys of heartbeats, probes, and what a process was writing when it was killed."""

NEW_SECONDS = 86_400.0
"""Seconds for which what came into the shared store stays, whoever put it there: another machine may be working on a study that is not named here."""


@dataclass(frozen=True)
class Reclaimed:
    """A folder that no named study needs."""

    stage: str
    fingerprint: str
    bytes: int
    shared: bool = False
    """Whether it lay in the store that machines share, rather than in the home."""


def reclaim(studies: Sequence[StudyContext], *, dry_run: bool = False) -> list[Reclaimed]:
    """Remove every artifact, half-finished draft and quarantined folder that none of the studies reaches; say what went.

    All studies must share one home. What another process works on is left alone.
    """
    store = studies[0].store
    found = [(stage, folder, _state(folder)) for stage, folder in _folders(store)]  # what is published from here on, stays
    kept = _kept(studies)
    kept |= {("spool", folder.name) for ctx in studies for folder in sources.spools(ctx)}
    gone = []
    for stage, folder, state in found:
        lock = store.root / ".partial" / stage / f"{folder.name}.lock"
        if (stage, folder.name) in kept or not folder.is_dir() or is_held(lock) or is_held(folder / ".lock"):
            continue
        size = stored_bytes(folder)
        if dry_run or _remove(folder, lock, state, is_published=folder == store.folder(stage, folder.name)):
            gone.append(Reclaimed(stage, folder.name, size))
    for manifest in store.remembered.glob("*/*.json"):
        if not dry_run and (manifest.parent.name, manifest.stem) not in kept:
            manifest.unlink(missing_ok=True)
    return gone


def reclaim_shared(studies: Sequence[StudyContext], *, recent: bool = False, dry_run: bool = False) -> list[Reclaimed]:
    """Remove from the shared store every artifact that none of the studies reaches, what uploads left behind, and dead leases; say what went.

    Nothing goes that a living machine is making. What came within the last day goes only with ``recent``. Where there are
    leases, this watches for as long as it takes to tell the living from the dead.

    Raises:
        SharedStoreError: the store cannot be reached, or is not fit to be shared.
    """
    store = studies[0].store
    shared = store.shared
    if shared is None:
        raise BadInput("--shared: expected SAE_STORE to name the store that machines share, found none; set it, or leave --shared out")
    now, dead = shared.check(), shared.leases.dead()
    shared.refresh()
    entries = {key: entry for folder in OWN_FOLDERS for key, entry in shared.remote.listing(folder).items()}
    leases = {lease for key in entries if (lease := Lease.of_key(key)) is not None}
    living = {(lease.stage, lease.fingerprint) for lease in leases - dead}
    old = {key for key, entry in entries.items() if recent or now - entry.modified > NEW_SECONDS}
    kept = _kept(studies) | living
    going = {at for at in shared.listing() if at not in kept and at[0] not in KEPT_STAGES and manifest_key(*at) in old}
    uploads: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    gone: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in entries:
        if upload := upload_of(key):
            uploads[upload[:2]][upload[2]].append(key)
        elif address := address_of(key):
            gone[address] += [key] if address in going else []
        elif Lease.of_key(key) in dead or (key in old and PASSING.fullmatch(key)):
            gone[key.partition("/")[0], key.rpartition("/")[2]].append(key)
    for address, of_address in uploads.items():
        if address in living:
            continue
        # Where there is one upload, the manifest names it.
        found = shared.find(*address, store.remembered, take_out=not dry_run) if address not in going and len(of_address) > 1 else None
        for name, keys in of_address.items():
            left_over = name != found.upload if found else address not in shared.listing()
            if address in going or (left_over and old.issuperset(keys)):
                gone[address] += keys
    if not dry_run:
        shared.remote.remove([manifest_key(*address) for address in going])
        shared.remote.remove([key for keys in gone.values() for key in keys])
        shared.refresh()
    return [Reclaimed(*address, sum(entries[key].bytes for key in keys), shared=True) for address, keys in gone.items() if keys]


def _kept(studies: Sequence[StudyContext]) -> set[Address]:
    """What the studies ask for and, where one of them lacks something, what may rest on that."""
    asked: dict[Address, bool] = {}
    for ctx in studies:
        asked |= reachable.asked_for(ctx)
    is_lacking = any(not there for (stage, _), there in asked.items() if stage not in reachable.LEAVES)
    return asked.keys() | (_cut_off(studies[0].store) if is_lacking else set())


def _cut_off(store: Store) -> set[Address]:
    """Artifacts that were made from something that is not there any more, what was made from them, and what these rest on beside it.

    Whose they are cannot be told: a study does not know the name of what rests on something it lacks. When that has been
    made again, with the same content, all of it is used again.
    """
    stored = {(artifact.stage, artifact.fingerprint): artifact for artifact in _stored(store)}
    names = {address: _names(artifact) for address, artifact in stored.items()}
    inputs = {address: _inputs(artifact) for address, artifact in stored.items()}
    there = set().union(*names.values())
    cut_off = {address for address in stored if inputs[address] - there}
    for of, known in ((names, inputs), (inputs, names)):
        added = cut_off
        while added:
            step = set().union(*(of[address] for address in added))
            added = {address for address in stored.keys() - cut_off if known[address] & step}
            cut_off = cut_off | added
    return cut_off


def _stored(store: Store) -> Iterator[Artifact]:
    addresses = {(manifest.parents[1].name, manifest.parent.name) for manifest in store.root.glob(f"[!.]*/*/{MANIFEST}")}
    if store.shared is not None:
        addresses |= store.shared.listing().keys()
    for address in addresses:
        if (artifact := store.find(*address)) is not None:
            yield artifact


def _names(artifact: Artifact) -> set[str]:
    """By which others say that they were made from it; of a subject, a corpus says which tokenizer it has."""
    return {artifact.fingerprint, artifact.content, artifact.summary.get("tokenizer_hash", artifact.content)}


def _inputs(artifact: Artifact) -> set[str]:
    """Names of the artifacts that it was made from, among all that its manifest says of that."""
    if artifact.stage == corpora.STAGE:
        return set(strings_in(artifact.inputs.get("tokenizer")))
    if artifact.stage in MADE_FROM_NO_ARTIFACT:
        return set()
    return {text for text in strings_in(artifact.inputs) if re.fullmatch(f"[0-9a-f]{{{LENGTH}}}", text)}


def _state(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one in its place, and from itself after something came or went; None where there is none."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _remove(folder: Path, lock: Path, state: tuple[int, int] | None, *, is_published: bool) -> bool:
    """Remove a folder unless another process worked on it, published it or removed it in the meantime; whether it did."""
    with storage_errors(folder), exclusive(lock, keep=False):
        if _state(folder) != state or is_held(folder / ".lock"):
            return False
        if is_published:
            discard(folder)  # in one step: who read half of it would take it for damaged
            return True
        with suppress(FileNotFoundError):  # another process made room at the same time
            shutil.rmtree(folder)
    return True


def _folders(store: Store) -> Iterator[tuple[str, Path]]:
    """(stage, folder) of everything that may go: published artifacts, drafts left behind, and what was quarantined."""
    for parent in (store.root, store.root / ".partial"):
        for stage in sorted(path for path in parent.glob("[!.]*") if path.is_dir() and path.name not in KEPT_STAGES):
            yield from ((stage.name, folder) for folder in sorted(stage.iterdir()) if folder.is_dir())
    quarantine = store.root / ".quarantine"
    if quarantine.is_dir():
        yield from (("quarantine", folder) for folder in sorted(quarantine.iterdir()))

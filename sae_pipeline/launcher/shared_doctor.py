"""What can be wrong with the store that several machines share, looked at for ``sae-pipeline doctor``.

Sizes are compared with a listing, since reading every byte of a store of terabytes is no check-up: bytes are compared with
their manifest whenever a machine fetches them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from sae_pipeline.errors import SharedStoreError
from sae_pipeline.launcher.diagnosis import Diagnosis
from sae_pipeline.store import Home
from sae_pipeline.store.damage import damage_of
from sae_pipeline.store.leases import LEASES, Lease
from sae_pipeline.store.shared import FILES, SharedStore

NAME = "shared store"


def examine_shared(home: Home) -> Iterator[Diagnosis]:
    """Whether the store can be reached, written and shared, whether what it holds is complete, and who works on it."""
    shared = home.store.shared
    if shared is None:
        yield Diagnosis(NAME, True, "none: SAE_STORE is not set, and this home is used alone")
        return
    try:
        shared.check()
        yield Diagnosis(NAME, True, f"{shared.shown} can be written, and of two machines that create the same file one is refused")
        yield from _completeness(home, shared)
        yield from _leases(shared)
    except SharedStoreError as error:
        yield Diagnosis(NAME, False, str(error), "see docs/shared-store.md")


def _completeness(home: Home, shared: SharedStore) -> Iterator[Diagnosis]:
    shared.refresh()
    sizes: dict[str, int] = {key: entry.bytes for key, entry in shared.remote.listing(FILES).items()}
    named: set[str] = set()
    complete = 0
    of_stage: dict[str, int] = defaultdict(int)
    for stage, fingerprint in sorted(shared.listing()):
        found = shared.find(stage, fingerprint, home.store.remembered, take_out=False)
        if found is None:
            remedy = "a run that needs it computes it again; `sae-pipeline doctor --repair` removes the manifest"
            mend = partial(_take_out, shared, stage, fingerprint)
            yield Diagnosis(NAME, False, f"the manifest of {stage} {fingerprint} cannot be read", remedy, mend)
            continue
        keys = found.keys
        named |= set(keys.values())
        wrong = [name for name, key in keys.items() if sizes.get(key) != found.manifest["files"][name]["bytes"]]
        if wrong:
            here = damage_of(home.store.folder(stage, fingerprint)) is None
            remedy = f"`sae-pipeline doctor --repair` takes it out, and the next run of a study that needs it {'uploads this home’s copy' if here else 'computes it again'}"
            yield Diagnosis(
                NAME, False, f"{stage} {fingerprint} lacks {', '.join(wrong)} or holds it at another size", remedy, partial(shared.condemn, found)
            )
        else:
            complete += 1
            of_stage[stage] += sum(file["bytes"] for file in found.manifest["files"].values())
    stages = ", ".join(f"{stage} {size / 1e6:.1f} MB" for stage, size in sorted(of_stage.items(), key=lambda item: -item[1])[:3])
    yield Diagnosis(
        NAME, True, f"{complete} artifacts with every file at its size ({sum(of_stage.values()) / 1e9:.2f} GB{f'; {stages}' if stages else ''})"
    )
    unnamed = sizes.keys() - named
    if unnamed:
        size = sum(sizes[key] for key in unnamed) / 1e6
        yield Diagnosis(
            NAME,
            True,
            f"{size:.1f} MB of uploads that were broken off or are under way",
            "`sae-pipeline gc --shared STUDY…` removes those older than a day",
        )


def _take_out(shared: SharedStore, stage: str, fingerprint: str) -> None:
    """Remove a manifest, which by now may be another one, unless it can be read."""
    shared.ask(stage, fingerprint)


def _leases(shared: SharedStore) -> Iterator[Diagnosis]:
    leases = {lease for key in shared.remote.listing(LEASES) if (lease := Lease.of_key(key)) is not None}
    if not leases:
        return
    dead = shared.leases.dead()
    working = {(lease.stage, lease.fingerprint) for lease in leases - dead}
    if working:
        yield Diagnosis(NAME, True, f"{len(working)} artifacts are being made by machines that are alive")
    if dead:
        remedy = "who needs what they were making takes over; `sae-pipeline doctor --repair` removes them"
        yield Diagnosis(NAME, True, f"{len(dead)} leases of machines that are gone", remedy, partial(shared.leases.remove, dead))

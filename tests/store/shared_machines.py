"""What machines on one store put there and look for: the artifact of the tests of the shared store."""

from __future__ import annotations

from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, Draft, Store
from sae_pipeline.store.shared import SharedStore

PATIENCE = 1.5
"""Seconds after which a silent holder is given up."""
LONG_PATIENCE = 8.0
"""Seconds where a living holder must not be given up, however slow the machine."""
FILES = {"data.txt": b"hello", "empty": b"", "deep/er/large.bin": bytes(range(256)) * 12_000}


def publish(store: Store, fingerprint: str = "f1", files: dict[str, bytes] = FILES) -> Artifact:
    with store.draft("toy", fingerprint, {"of": fingerprint}) as draft:
        assert isinstance(draft, Draft)
        return fill(draft, files)


def fill(draft: Draft, files: dict[str, bytes] = FILES) -> Artifact:
    for name, content in files.items():
        (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
        (draft.path / name).write_bytes(content)
    return draft.publish({"files": len(files)})


def remote_key(store: Store, name: str, fingerprint: str = "f1") -> str:
    assert store.shared is not None
    found = store.shared.ask("toy", fingerprint)
    assert found is not None
    return found.keys[name]


def shared(ctx: StudyContext) -> SharedStore:
    """The shared store as a new listing shows it."""
    assert ctx.store.shared is not None
    ctx.store.shared.refresh()
    return ctx.store.shared

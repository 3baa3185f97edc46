"""Leases on work, in a store that several machines share: whoever makes an artifact holds its lease, the others wait and then find it.

No two clocks have to agree. A holder's process rewrites a counter every few seconds; who waits takes over once that
counter has stood still for ``patience`` seconds of its own monotonic clock. A lease is a file that one machine alone can
create; taking over creates the next generation. A holder that comes back after it was given up does no harm, since of two
that publish the same artifact the first one wins: leases only save work.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sae_pipeline.errors import SharedStoreError
from sae_pipeline.store.fingerprints import ADDRESS
from sae_pipeline.store.remote import Remote

logger = logging.getLogger(__name__)

LEASES, BEATS = "leases", "heartbeats"
BEATS_PER_PATIENCE = 12
"""A holder beats this often in the time after which it would be given up: a few lost beats are not taken for its death."""
LOOKS_PER_PATIENCE = 30
"""A waiter looks this often in that time."""


@dataclass(frozen=True)
class Lease:
    """A lease as it lies in the store."""

    stage: str
    fingerprint: str
    generation: int

    @property
    def key(self) -> str:
        return f"{LEASES}/{self.stage}/{self.fingerprint}.{self.generation}"

    @classmethod
    def of_key(cls, key: str) -> Lease | None:
        """None for a file that is no lease (what a killed process was writing, or somebody put there)."""
        found = re.fullmatch(rf"{LEASES}/{ADDRESS}\.([1-9]\d*)", key, re.ASCII)
        return cls(found[1], found[2], int(found[3])) if found else None


class Leases:
    """The leases of one process on one shared store."""

    def __init__(self, remote: Remote, patience: float) -> None:
        self.patience = patience
        self._remote = remote
        self._holder = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._held: set[Lease] = set()
        self._given_back: set[Lease] = set()
        """Those whose removal failed: the thread that beats removes them once the store is back."""
        self._beats = 0
        """Written since the last time that none was held."""
        self._thread: threading.Thread | None = None

    @contextmanager
    def hold(self, stage: str, fingerprint: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lease of an artifact, waiting for as long as another machine that is alive holds it; or, without ``wait``, leaving it to that.

        Raises:
            SharedStoreError: the store cannot be reached.
        """
        lease = self._take(stage, fingerprint, wait=wait)
        try:
            yield
        finally:
            if lease is not None:
                self._give_back(lease)

    def dead(self) -> set[Lease]:
        """The leases whose holders are dead, every generation; watches for ``patience`` seconds where there is any lease."""
        first = self._seen()
        if not first:
            return set()
        time.sleep(self.patience)
        now = self._seen()
        moved = {(lease.stage, lease.fingerprint) for lease, seen in now.items() if first.get(lease) != seen}
        return {lease for lease in now if (lease.stage, lease.fingerprint) not in moved}

    def remove(self, leases: Iterable[Lease]) -> None:
        """Remove leases, whoever holds them."""
        self._remote.remove(lease.key for lease in leases)

    def _seen(self) -> dict[Lease, tuple[str, bytes | None]]:
        """Every lease in the store, with its holder and how far that has counted."""
        found: dict[Lease, tuple[str, bytes | None]] = {}
        for key in self._remote.listing(LEASES):
            if (lease := Lease.of_key(key)) is not None:
                holder = (self._remote.read(key) or b"").decode()
                found[lease] = holder, self._beat(holder)
        return found

    def _take(self, stage: str, fingerprint: str, *, wait: bool) -> Lease | None:
        watched: tuple[Lease, str, bytes | None] | None = None
        since = time.monotonic()
        while True:
            newest = self._newest(stage, fingerprint)
            if newest is None:
                wanted = Lease(stage, fingerprint, 1)
            else:
                holder = (self._remote.read(newest.key) or b"").decode()
                with self._lock:
                    if holder == self._holder and newest in self._given_back:
                        self._given_back.discard(newest)
                        self._held.add(newest)
                        return newest
                seen = (newest, holder, self._beat(holder))
                if seen != watched:
                    if watched is not None and not wait:  # its holder is alive
                        return None
                    watched, since = seen, time.monotonic()
                if time.monotonic() - since < self.patience:
                    time.sleep(self.patience / LOOKS_PER_PATIENCE)
                    continue
                logger.warning("the machine that was making %s %s has been silent for %.0f s; this one takes over", stage, fingerprint, self.patience)
                wanted = Lease(stage, fingerprint, newest.generation + 1)
            if self._remote.create(wanted.key, self._holder.encode()):
                with self._lock:
                    self._held.add(wanted)
                    if self._thread is None:
                        self._thread = threading.Thread(target=self._beat_for_ever, name="heartbeat", daemon=True)
                        self._thread.start()
                return wanted

    def _newest(self, stage: str, fingerprint: str) -> Lease | None:
        leases = [lease for key in self._remote.listing(f"{LEASES}/{stage}") if (lease := Lease.of_key(key)) and lease.fingerprint == fingerprint]
        return max(leases, key=lambda lease: lease.generation, default=None)

    def _give_back(self, lease: Lease) -> None:
        """Remove a lease, now or once the store is back."""
        with self._lock:
            self._held.discard(lease)
            try:
                if not self._held and self._beats:
                    self._remote.remove([f"{BEATS}/{self._holder}"])
                    self._beats = 0
                self._remove(lease)
            except SharedStoreError:
                self._given_back.add(lease)

    def _remove(self, lease: Lease) -> None:
        """Remove a lease and those it took over from, the newest last: until then nobody takes the place for free.

        One that was given up meanwhile is gone, or somebody else's under the same name, and is left alone.
        """
        if self._remote.read(lease.key) != self._holder.encode():
            return
        self._remote.remove(Lease(lease.stage, lease.fingerprint, generation).key for generation in range(1, lease.generation))
        self._remote.remove([lease.key])

    def _beat(self, holder: str) -> bytes | None:
        return self._remote.read(f"{BEATS}/{holder}") if holder else None

    def _beat_for_ever(self) -> None:
        """Count up while leases are held, and give back what could not be; a store that is away is tried again at the next beat."""
        while True:
            time.sleep(self.patience / BEATS_PER_PATIENCE)
            with self._lock, suppress(SharedStoreError):
                if self._held:
                    self._beats += 1
                    self._remote.write(f"{BEATS}/{self._holder}", str(self._beats).encode())
                for lease in set(self._given_back):
                    self._remove(lease)
                    self._given_back.discard(lease)

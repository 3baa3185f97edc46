"""Numbers for documents by their hashes, at a few bytes per document.

A Python dictionary of hashes costs some 200 bytes per document, which is what would make the memory of a build grow
with its budget. An open-addressed table over two flat arrays costs 12 bytes per slot, 18 to 36 per document.
"""

from __future__ import annotations

from array import array

FIRST_SLOTS = 1 << 10


def document_key(document_hash: str) -> int:
    """64 bits of a document's hash, never 0: those that do not decide the split, which one side holds in full range.

    Two of n documents share a key with a chance of about n² / 2⁶⁵: 3e-6 for ten million documents.
    """
    return int(document_hash[16:32], 16) or 1


class DocumentNumbers:
    """Numbers documents 0, 1, 2, ... in the order in which they are first met; ``len`` is how many there are."""

    def __init__(self) -> None:
        self._count = 0
        self._allocate(FIRST_SLOTS)

    def __len__(self) -> int:
        return self._count

    def number(self, document_hash: str) -> int:
        """The document's number, which is a new one (the number of documents met so far) the first time."""
        key = document_key(document_hash)
        slot = self._slot(key)
        if self._keys[slot] == 0:
            self._keys[slot], self._numbers[slot] = key, self._count
            self._count += 1
            if 3 * self._count > 2 * len(self._keys):
                self._grow()
            return self._count - 1
        return self._numbers[slot]

    def add(self, document_hash: str) -> bool:
        """Number the document; whether it is met for the first time."""
        known = self._count
        return self.number(document_hash) == known

    def _slot(self, key: int) -> int:
        """The slot that holds the key, or the empty one where it belongs."""
        keys, last = self._keys, len(self._keys) - 1
        # by the highest bits: the windows of the held-out side are dealt by the lowest
        slot = key >> self._shift
        while keys[slot] != 0 and keys[slot] != key:
            slot = slot + 1 if slot < last else 0
        return slot

    def _allocate(self, slots: int) -> None:
        self._keys = array("Q", [0]) * slots
        self._numbers = array("i", [0]) * slots
        self._shift = 64 - (slots.bit_length() - 1)

    def _grow(self) -> None:
        keys, numbers = self._keys, self._numbers
        self._allocate(2 * len(keys))
        for key, number in zip(keys, numbers, strict=True):
            if key:
                slot = self._slot(key)
                self._keys[slot], self._numbers[slot] = key, number

"""The clean model's residual stream on the scored text, kept with a baseline: evaluating an SAE then never runs the clean model.

Of a pass through the whole model only what follows the hook depends on the SAE. What enters the first block after it, and what
leaves the last, are the same for every SAE of a set, layer and site; kept in the model's own dtype they give its logits to the bit.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_pipeline.activations.splicing import CleanStreams

KEPT_BYTES = 2**28
"""Most that one baseline keeps (256 MiB: 43,000 tokens of GPT-2 small in float32); on text beyond it the clean model runs again."""


class StreamKeeper:
    """Takes in the streams of a text's first contexts, batch after batch, until there is no room or a batch has none.

    Args:
        contexts: contexts of the text.
    """

    def __init__(self, contexts: int) -> None:
        self._contexts = contexts
        self._taken = 0
        self._kept: dict[str, Tensor] = {}

    def take(self, streams: CleanStreams | None) -> None:
        """Keep a batch's streams if all batches before it were kept."""
        if streams is None:
            self._contexts = self._taken
            return
        if not self._kept:
            room = KEPT_BYTES // (2 * streams.entering[0].nbytes)
            self._contexts = min(self._contexts, room)
            self._kept = {name: stream.new_empty(self._contexts, *stream.shape[1:], device="cpu") for name, stream in vars(streams).items()}
        stop = min(self._taken + len(streams.entering), self._contexts)
        for name, stream in vars(streams).items():
            self._kept[name][self._taken : stop] = stream[: stop - self._taken]
        self._taken = stop

    def write(self, path: Path) -> None:
        """Write what was kept, which may be nothing."""
        kept = {name: stream[: self._taken] for name, stream in self._kept.items()}
        save_file(kept or {name: torch.empty(0) for name in CleanStreams.__annotations__}, path)


class KeptStreams:
    """What a :class:`StreamKeeper` wrote, read a batch at a time.

    Attributes:
        contexts: how many of the text's contexts it holds, from the first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="pt") as file:
            self.contexts: int = file.get_slice("entering").get_shape()[0]

    def of(self, contexts: slice) -> CleanStreams | None:
        """The streams of some contexts, on the CPU; None unless all of them were kept."""
        if contexts.stop > self.contexts:
            return None
        with safe_open(self._path, framework="pt") as file:
            return CleanStreams(**{name: file.get_slice(name)[contexts] for name in CleanStreams.__annotations__})

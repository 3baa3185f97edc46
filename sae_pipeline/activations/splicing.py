"""The end of a forward pass, run again and again with other activations at one hook.

Evaluating many SAEs on one text differs only from the hook on: the blocks before it would give what they gave the first
time. A splice keeps the residual stream that enters the first block that must run, and repeats only the rest. What it
keeps can be stored, and then no later splice of the same text runs the model whole. Masks and position embeddings are the
model's own, for its forward pass runs as always; only the blocks that it need not run hand on the kept stream at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sae_pipeline.activations.subject import SubjectModel

Replacement = Callable[[Tensor], Tensor]
"""From the activation at a hook, float32 (n_contexts, context_length, d_model), to what takes its place, same shape."""

_tried: WeakKeyDictionary[SubjectModel, dict[int, bool]] = WeakKeyDictionary()


@dataclass(frozen=True)
class CleanStreams:
    """The residual stream of a clean pass where splices at one hook take it up, in the model's dtype."""

    entering: Tensor
    """(n_contexts, context_length, d_model), what enters the first block that a splice runs."""
    leaving: Tensor
    """The same shape, what leaves the last block."""


class Splice:
    """Logits of a text with the activation at one hook replaced, the blocks before the hook having run once.

    Attributes:
        clean: float32 (n_contexts, context_length, vocab_size), logits with nothing replaced.
    """

    def __init__(self, model: SubjectModel, tokens: Tensor, hook: str, streams: CleanStreams | None = None) -> None:
        """Run the whole model once on ``tokens`` (n_contexts, context_length), or none of it given the streams of an earlier splice there."""
        self._model, self._tokens, self._hook = model, tokens, hook
        layer, site = int(hook.split(".")[1]), hook.split(".")[2]
        # What leaves a block enters the next one, so replacing it spares that block too.
        self._after_block = site == "hook_resid_post"
        self._skipped = layer + self._after_block
        if streams is None:
            self.clean, self._entering, self._leaving = self._record()
            self._shortened = self._skipped > 0 and self._suffices(self._entering, self._skipped)
        else:
            self._entering, self._leaving = (stream.to(model.device) for stream in (streams.entering, streams.leaving))
            self._shortened = True
            with self._bypassed(self._leaving, model.n_layers):
                self.clean = model.logits(tokens)

    @property
    def streams(self) -> CleanStreams | None:
        """What another splice of the same text at the same hook can start from; None where the model needs more than that."""
        bare = isinstance(self._entering, Tensor) and isinstance(self._leaving, Tensor)
        if bare and self._shortened and self._suffices(self._leaving, self._model.n_layers):
            return CleanStreams(self._entering, self._leaving)
        return None

    @torch.no_grad()
    def logits(self, replacement: Replacement) -> Tensor:
        """float32 (n_contexts, context_length, vocab_size): next-token logits with the hook's activation replaced."""
        if not self._shortened:
            return self._model.logits(self._tokens, (self._hook, replacement))
        stream = _stream(self._entering).clone()  # a model may add to it in place
        if self._after_block:
            stream = checked(self._hook, replacement)(stream)
        with self._bypassed(_with_stream(self._entering, stream), self._skipped):
            return self._model.logits(self._tokens, None if self._after_block else (self._hook, replacement))

    def _record(self) -> tuple[Tensor, Any, Any]:
        """Clean logits, and what the last of the blocks to skip (None when there is none) and the last of all returned."""
        blocks, kept = self._model.bridge.blocks, dict[int, Any]()

        def keep(n: int) -> Callable[..., None]:
            def hook(module: object, inputs: object, returned: Any) -> None:
                kept[n] = _with_stream(returned, _stream(returned).clone())

            return hook

        last = self._model.n_layers
        with ExitStack() as stack:
            for n in {self._skipped, last} - {0}:
                stack.callback(blocks[n - 1].register_forward_hook(keep(n)).remove)
            return self._model.logits(self._tokens), kept.get(self._skipped), kept[last]

    @contextmanager
    def _bypassed(self, returned: Any, count: int) -> Iterator[None]:
        """Let the first ``count`` blocks hand on ``returned`` without running."""
        with ExitStack() as stack:
            for block in list(self._model.bridge.blocks)[:count]:
                object.__setattr__(block, "forward", lambda *args, **kwargs: returned)
                stack.callback(object.__delattr__, block, "forward")
            yield

    def _suffices(self, returned: Any, count: int) -> bool:
        """Whether what follows needs nothing of the first ``count`` blocks but the residual stream; tried out once per model and depth.

        Some families share keys and values between blocks. There the repeated end differs from the whole pass, or
        fails, and every pass is a whole one.
        """
        known = _tried.setdefault(self._model, {})
        if count not in known:
            try:
                with self._bypassed(_with_stream(returned, _stream(returned).clone()), count):
                    known[count] = torch.equal(self._model.logits(self._tokens), self.clean)
            except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
                known[count] = False
        return known[count]


def checked(hook: str, replacement: Replacement) -> Replacement:
    """The replacement in the activation's own dtype; a ValueError when its shape differs."""

    def replace(activation: Tensor) -> Tensor:
        new = replacement(activation.float())
        if new.shape != activation.shape:
            raise ValueError(f"{hook}: expected a replacement of shape {tuple(activation.shape)}, found {tuple(new.shape)}")
        return new.to(activation.dtype)

    return replace


def _stream(returned: Any) -> Tensor:
    """The residual stream in what a block returned: families return it alone or first in a tuple."""
    return returned[0] if isinstance(returned, tuple) else returned


def _with_stream(returned: Any, stream: Tensor) -> Any:
    return (stream, *returned[1:]) if isinstance(returned, tuple) else stream

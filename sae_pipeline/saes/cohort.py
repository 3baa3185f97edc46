"""Arms of one batch size that are in memory together, and the order in which they take their steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_pipeline.progress import Track
from sae_pipeline.saes.arm import Arm
from sae_pipeline.saes.divergence import Divergence
from sae_pipeline.saes.finishing import finish
from sae_pipeline.saes.initialisation import Activations
from sae_pipeline.saes.kernels import Workspace
from sae_pipeline.saes.lanes import Lanes, alone
from sae_pipeline.saes.run import Run
from sae_pipeline.saes.schedule import branch_step

logger = logging.getLogger(__name__)


@dataclass
class Entrant:
    """An arm that is to be trained; its run exists only while it takes steps, so that memory is free before and after."""

    name: str
    label: str
    """Name for messages, with what is trained."""
    folder: Path
    arm: Arm
    identity: str
    steps: int
    planned_step: int
    """Step that it begins with: behind its checkpoint, or behind the one that its leader will write."""
    leader: str | None
    """The arm that takes the trunk's steps for it."""
    run: Run | None = None
    summary: dict[str, Any] | None = None
    divergence: Divergence | None = None

    @property
    def step(self) -> int:
        """Steps behind it now."""
        return self.planned_step if self.run is None else self.run.step

    @property
    def underway(self) -> bool:
        """Neither finished nor diverged."""
        return self.summary is None and self.divergence is None


class Cohort:
    """Trains entrants on shared batches; each is opened when the first batch that it wants comes."""

    def __init__(
        self,
        members: Sequence[Entrant],
        everyone: Mapping[str, Entrant],
        open_run: Callable[[Entrant], Run],
        scales: Mapping[bool, float],
        held_out: tuple[Tensor, Tensor],
        lanes: Lanes,
        progress: Track,
    ) -> None:
        """``everyone`` holds the entrants of all groups, because a member may leave a state for an arm of a later one.

        Args:
            scales: factor from raw to normalised units, by whether an arm normalises.
            held_out: raw activations for calibration and for measuring L0, (n, d_model) each.
        """
        self.members, self.everyone, self.open_run = members, everyone, open_run
        self.scales, self.held_out, self.lanes, self.progress = scales, held_out, lanes, progress

    def train(self, stream: Activations, device: str, checkpoint_every: int) -> None:
        """Take every member to its end, or to its divergence."""
        batch_size = self.members[0].arm.batch_size
        with closing(self._batches(stream, batch_size, device)) as batches:
            for step, batch in batches:
                opened = [(member, self._opened(member)) for member in self._unfinished() if member.step == step]
                # A checkpoint that turned out to be damaged puts a run back: it catches up later.
                wanting = [(member, run) for member, run in opened if run.step == step]
                scaled = {normalise: _scaled(batch, self.scales[normalise]) for normalise in {run.arm.normalise for _, run in wanting}}

                def take_step(run: Run, workspace: Workspace, scaled: dict[bool, Tensor] = scaled) -> Divergence | None:
                    return run.take_step(scaled[run.arm.normalise], workspace)

                divergences = self.lanes.each(take_step, [run for _, run in wanting])
                for (member, run), divergence in zip(wanting, divergences, strict=True):
                    self._after_step(member, run, divergence, checkpoint_every)
                self._finish([member for member, run in wanting if member.underway and run.step == run.steps])
        self._finish([member for member in self.members if member.underway])  # their checkpoints are those of their last steps

    def _after_step(self, member: Entrant, run: Run, divergence: Divergence | None, checkpoint_every: int) -> None:
        if divergence is not None:
            self._stop(member, divergence)
            return
        self.progress.advance(run.arm.batch_size, loss=run.parts["mse"], l0=run.parts["l0"])
        self._leave_branches(member, run)
        if run.step < run.steps and (run.step % checkpoint_every == 0 or run.wants_checkpoint):
            run.save()

    def _unfinished(self) -> list[Entrant]:
        return [member for member in self.members if member.underway and member.step < member.steps]

    def _opened(self, member: Entrant) -> Run:
        if member.run is None:
            run = member.run = alone(lambda: self.open_run(member))
            run.restore()
            self._leave_branches(member, run)
        return member.run

    def _leave_branches(self, member: Entrant, run: Run) -> None:
        """Write the checkpoint of every arm whose branch step has come."""
        for follower in self._followers(member):
            if branch_step(follower.arm) == run.step:
                run.branch_off(follower.folder, follower.identity, follower.steps)

    def _followers(self, member: Entrant) -> list[Entrant]:
        return [entrant for entrant in self.everyone.values() if entrant.leader == member.name]

    def _finish(self, members: list[Entrant]) -> None:
        def end(run: Run, workspace: Workspace) -> dict[str, Any] | Divergence:
            return finish(run, *self.held_out, workspace)

        for member, found in zip(members, self.lanes.each(end, [self._opened(member) for member in members]), strict=True):
            if isinstance(found, Divergence):
                self._stop(member, found)
            else:
                member.summary, member.run = found, None

    def _stop(self, member: Entrant, divergence: Divergence) -> None:
        """Mark an arm, and those for which it took the trunk's steps: their own would have had the same bits."""
        for entrant in (member, *(follower for follower in self._followers(member) if branch_step(follower.arm) >= divergence.step)):
            entrant.divergence = replace(divergence, name=entrant.name, steps=entrant.steps)
            logger.error("%s: stopped, the others go on: %s", entrant.label, entrant.divergence)
        member.run = None

    def _batches(self, stream: Activations, size: int, device: str) -> Generator[tuple[int, Tensor], None, None]:
        """Every step that a member has still to take and its batch, in order; members take it before the next is asked for."""
        # Arms that a killed process left behind catch up first; then all share every batch.
        while unfinished := self._unfinished():
            first, end = _next_steps(unfinished)
            with closing(stream.batches(first * size, size, end - first, device)) as batches:
                for step, batch in enumerate(batches, first):
                    yield step, batch
                    # Nobody may want the next one: arms diverged, or a checkpoint turned out to be damaged.
                    if not any(member.step == step + 1 for member in self._unfinished()):
                        break


def _scaled(batch: Tensor, scale: float) -> Tensor:
    return batch if scale == 1.0 else batch * scale  # Runs only read it, so raw units need no copy.


def _next_steps(entrants: list[Entrant]) -> tuple[int, int]:
    """The longest row of steps [first, end), from the entrant that is furthest behind, in which every step is wanted by one."""
    first = end = min(entrant.step for entrant in entrants)
    for entrant in sorted(entrants, key=lambda entrant: entrant.step):
        if entrant.step <= end:
            end = max(end, entrant.steps)
    return first, end

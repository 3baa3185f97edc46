"""Whether the tools train alike: what each has removed of the error after the same steps from the same parameters.

Errors alone say nothing. In a few steps at a low rate they hardly move, so that a tool which never touched its weights would
"agree". What is compared is the improvement over the common start, on a problem so small that hundreds of steps at a high
rate are cheap. Sparsity is not held at a target meanwhile: every tool minimises its loss with the common coefficient,
because errors at unequal L0 cannot be compared.
"""

from __future__ import annotations

from training_rows import Row

Trajectory = list[dict[str, float]]
"""Readings of ``nmse`` (squared error on held-out rows over their variance), ``l0`` and ``steps``; the first is before training."""

SIZE = {"d_in": 64, "d_sae": 512, "batch": 512, "sparsity": 8}
"""Of the compared problem; wide enough that ours preselects in bfloat16, as in the measured rows."""
BATCHES = 64
"""Distinct batches of it."""
LEARNING_RATE = 1e-3
STEPS = {"jumprelu": 400}
"""By architecture, where they are not USUAL_STEPS: JumpReLU first drops most of what overshoots, at any rate, and then begins to learn."""
USUAL_STEPS = 100
START_TOLERANCE = 0.02
"""Largest relative difference of the errors before training; bfloat16 autocast takes part of it."""
TOLERANCE = 0.25
"""Largest relative difference of improvements half way and at the end. A third of the learning rate misses 28 % of the
improvement or more, weights that do not move miss all of it; the tools' own choices (gradient clipping, decoder norms) make 21 %."""


def problem(architecture: str) -> Row:
    """What an architecture is compared on."""
    return Row(architecture, **SIZE)


def halves(architecture: str) -> tuple[int, int]:
    """Steps to the first reading after the start, and from there to the second."""
    steps = STEPS.get(architecture, USUAL_STEPS)
    return steps // 2, steps - steps // 2


def start_difference(ours: Trajectory, theirs: Trajectory) -> float:
    """Relative difference of the errors before training."""
    return abs(theirs[0]["nmse"] / ours[0]["nmse"] - 1)


def improvement_difference(ours: Trajectory, theirs: Trajectory) -> float:
    """Largest relative difference of the improvements at any reading after the first; infinite where ours has not improved."""
    differences = []
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        expected, found = ours[0]["nmse"] - a["nmse"], theirs[0]["nmse"] - b["nmse"]
        differences.append(abs(found / expected - 1) if expected > 0 else float("inf"))
    return max(differences)


def agree(ours: Trajectory, theirs: Trajectory) -> bool:
    """Whether two tools began with one state and improved alike."""
    return start_difference(ours, theirs) <= START_TOLERANCE and improvement_difference(ours, theirs) <= TOLERANCE

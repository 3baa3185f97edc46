"""Tables measured hook point by hook point, put together for the whole study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, Draft
from sae_pipeline.study import HookPoint

if TYPE_CHECKING:
    import pandas as pd

Measured = dict[HookPoint, Artifact]
"""What a stage made at each hook point, in the study's order."""


def found_everywhere(ctx: StudyContext, find: Callable[[StudyContext, HookPoint], Artifact | None]) -> Measured | None:
    """What ``find`` finds at every hook point, or None where it finds nothing at one of them."""
    found = {point: find(ctx, point) for point in ctx.study.hook_points}
    there = {point: artifact for point, artifact in found.items() if artifact is not None}
    return there if len(there) == len(found) else None


def needed_everywhere(ctx: StudyContext, need: Callable[[StudyContext, HookPoint], Artifact]) -> Measured:
    """The same where all must exist."""
    return {point: need(ctx, point) for point in ctx.study.hook_points}


def stacked(measured: Measured, name: str) -> pd.DataFrame:
    """The table of every hook point, one below the other, with the columns ``layer`` and ``site`` in front."""
    import pandas as pd

    frames = []
    for point, artifact in measured.items():
        frame = pd.read_parquet(artifact.file(f"{name}.parquet"))
        frame.insert(0, "layer", point.layer)
        frame.insert(1, "site", pd.Series(point.site, frame.index, dtype="string"))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def publish_frames(draft: Draft, frames: dict[str, pd.DataFrame]) -> Artifact:
    """Write frames as Parquet files by name; the summary counts their rows."""
    for name, frame in frames.items():
        frame.to_parquet(draft.path / f"{name}.parquet", index=False)
    return draft.publish({name: len(frame) for name, frame in frames.items()})


def read_frames(artifact: Artifact, names: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Frames of an artifact by name."""
    import pandas as pd

    return {name: pd.read_parquet(artifact.file(f"{name}.parquet")) for name in names}

"""Study files: the schema, reading them, and the cells and arms they multiply out to."""

from sae_pipeline.study.cells import Arm, Cell, cell, cells, d_sae_of, expansion_key, expansion_of, point_of
from sae_pipeline.study.hook_points import HookPoint
from sae_pipeline.study.loading import load_study, with_line
from sae_pipeline.study.schema import Study

__all__ = ["Arm", "Cell", "HookPoint", "Study", "cell", "cells", "d_sae_of", "expansion_key", "expansion_of", "load_study", "point_of", "with_line"]

"""Which hook point of a study an SAE made elsewhere belongs to, by what its configuration or the name of its folder says.

SAELens names TransformerLens hooks (``blocks.8.hook_resid_post``), dictionary_learning a layer and a submodule
(``resid_post_layer_8``), and sparsify calls the folder as the module is called whose output it reads (``layers.8.mlp``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sae_pipeline.activations.subject import HOOKS, POST_NORM_HOOKS
from sae_pipeline.errors import BadInput
from sae_pipeline.study import HookPoint, Study

_HOOK = re.compile(r"blocks\.(\d+)\.(\S+)")
_LAYER = re.compile(r"(?:layer|block)s?[._]?(\d+)")
_MODULE = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)(?:\.(\w+))?$")
_MODULE_SITES = {None: "resid_post", "mlp": "mlp_out", "attn": "attn_out", "self_attn": "attn_out", "attention": "attn_out"}
"""What leaves a block, or a module in it, under the names of common families."""


def declared_point(metadata: Mapping[str, Any], folder: str) -> tuple[int | None, str | None]:
    """(layer, site) that an SAE says it belongs to, each None where it does not.

    A site that no study can have keeps the name it was given, so that a refusal can say it.

    Args:
        metadata: of the SAE: ``hook_name`` and ``hook_layer``, as far as its format has them.
        folder: name of the SAE's folder.
    """
    hook, layer = str(metadata.get("hook_name") or ""), metadata.get("hook_layer")
    if match := _HOOK.fullmatch(hook):
        names = {theirs: site for hooks in (HOOKS, POST_NORM_HOOKS) for site, theirs in hooks.items()}
        return int(match[1]), names.get(match[2], match[2])
    if (site := next((site for site in HOOKS if site in hook), None)) is not None:
        stated = _LAYER.search(hook)
        return int(stated[1]) if stated else _whole(layer), site
    for name in (hook, folder):
        if match := _MODULE.search(name):
            return int(match[1]), _MODULE_SITES.get(match[2], match[2])
    return _whole(layer), None


def _whole(layer: object) -> int | None:
    return layer if isinstance(layer, int) and not isinstance(layer, bool) else None


def chosen_point(
    study: Study, place: str, declared: tuple[int | None, str | None], layer: int | None, site: str | None
) -> tuple[HookPoint, tuple[str, ...]]:
    """The hook point of the study that an SAE is evaluated at, and notes on what is remarkable about the choice.

    What the user names counts before what the SAE declares. What leaves a block and what enters the next one are the same
    activations, so either stands for the other.

    Args:
        place: the SAE, for messages.
        declared: from :func:`declared_point`.
        layer, site: as named by the user, None where not.

    Raises:
        BadInput: the layer is not known, or the study has no such hook point.
    """
    said_layer, said_site = declared
    sites = {point.site for point in study.hook_points}
    layer, site = said_layer if layer is None else layer, said_site if site is None else site
    if site is None and len(sites) == 1:
        site = next(iter(sites))
    known = ", ".join(f"layer {point.layer} {point.site}" for point in study.hook_points)
    if layer is None or site is None:
        missing = "layer" if layer is None else "site"
        raise BadInput(
            f"{place}: expected an SAE that says which {missing} it belongs to, found nothing of that in its configuration or its folder's name; "
            f"give --{missing} (the study '{study.name}' has {known})"
        )
    point = HookPoint(layer, site)
    notes = []
    if None not in declared and (layer, site) != declared:
        notes.append(f"it says it belongs to layer {said_layer} {said_site}, and is evaluated at layer {layer} {site} as asked for")
    if point not in study.hook_points:
        same = {"resid_pre": HookPoint(layer - 1, "resid_post"), "resid_post": HookPoint(layer + 1, "resid_pre")}.get(site)
        if same not in study.hook_points:
            raise BadInput(
                f"{place}: expected an SAE of a hook point of the study '{study.name}' ({known}), found one of layer {layer} {site}; "
                "add it to activations.layers and activations.site of the study, or name the right one with --layer and --site"
            )
        assert same is not None
        notes.append(f"layer {layer} {site} is layer {same.layer} {same.site} of the study: what leaves a block enters the next")
        point = same
    return point, tuple(notes)

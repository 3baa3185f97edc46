"""The subject model: one loaded language model, decoder or encoder, that can be read and overwritten at its sites.

Runs on TransformerLens' ``TransformerBridge`` with raw weights (no folding, no centring), so that activations are
those of the published checkpoint and one backend serves harvesting and evaluation alike.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.activations.fused_gelu import fuse_gelu
from sae_pipeline.activations.identity import PICKLED_WEIGHTS, SAFE_WEIGHTS, checkpoint_state, local_checkpoint, resolve_commit, untrusted
from sae_pipeline.activations.randomised import randomise_weights
from sae_pipeline.activations.splicing import CleanStreams, Replacement, Splice, checked
from sae_pipeline.errors import DeviceError, SubjectError

HOOKS = {"resid_post": "hook_resid_post", "resid_pre": "hook_resid_pre", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
"""TransformerLens hook of each site, inside ``blocks.<layer>``."""

POST_NORM_HOOKS = HOOKS | {"attn_out": "attn.o.hook_out"}
"""The same for encoders of the BERT family, whose attention module returns the normalised sum with the residual stream."""

Seen = Callable[[str, Tensor], None]
"""Given a hook's name and its activation (n_contexts, context_length, d_model), in the model's own dtype and memory."""

CONTEXT_FIELDS = ("n_positions", "max_position_embeddings", "max_seq_len", "seq_length")
"""Where the families of Hugging Face configurations state their longest context."""

KEPT = 2
"""Loaded models kept per process: a study's subject, and one beside it (a control, or the next study's)."""

_loaded: OrderedDict[tuple[Any, ...], SubjectModel] = OrderedDict()
_loading = threading.Lock()


@dataclass(frozen=True, eq=False)
class SubjectModel:
    """A loaded subject model; ``name`` is the path or hub id that it was loaded from."""

    name: str
    bridge: Any
    d_model: int
    n_layers: int
    vocab_size: int
    context_limit: int | None
    dtype: torch.dtype
    device: torch.device
    causal: bool = True
    """Whether a token sees only those before it; encoders, which see all, have no next-token losses."""

    @classmethod
    def load(
        cls,
        model: str,
        revision: str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        *,
        randomised: int | None = None,
        trust_remote_code: bool = False,
        pickled_weights: bool = False,
    ) -> SubjectModel:
        """Load a local checkpoint folder or a hub model; equal arguments give the model loaded before in this process.

        A local checkpoint whose files changed since is loaded again.

        Args:
            model: path or hub id.
            revision: branch, tag or commit of a hub model.
            dtype: precision of weights and activations.
            device: where the model runs.
            randomised: seed of a control with random weights in place of the trained ones, see :func:`randomise_weights`.
            trust_remote_code: whether Python files of the checkpoint are run.
            pickled_weights: whether weights are read from a pickled file, its tensors alone, where there is no safetensors file.

        Raises:
            SubjectError: unknown path or model, unreadable weights, hub out of reach, or an unsupported architecture.
            DeviceError: the device does not exist here.
        """
        folder = local_checkpoint(model)
        if folder is not None:
            model = str(folder.resolve())
        else:
            revision = resolve_commit(model, revision)
        key = (model, revision, dtype, device, randomised, trust_remote_code, pickled_weights, checkpoint_state(folder) if folder else None)
        with _loading:
            if key not in _loaded:
                commit = None if folder else revision
                if not pickled_weights:
                    _require_safetensors(model, commit)
                _loaded[key] = cls._boot(model, commit, dtype, device, randomised, trust_remote_code)
            _loaded.move_to_end(key)
            while len(_loaded) > KEPT:
                _loaded.popitem(last=False)
            return _loaded[key]

    @classmethod
    def _boot(cls, model: str, revision: str | None, dtype: str, device: str, randomised: int | None, trust_remote_code: bool) -> SubjectModel:
        try:
            where = torch.device(device)
            torch.empty(1, device=where)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(
                f"compute.device: expected a device of this machine, found '{device}' ({str(error).splitlines()[0]}); use cpu or auto"
            ) from None
        from transformer_lens.model_bridge import TransformerBridge
        from transformers.utils import logging

        os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # the library would ask a service on the hub to convert pickled weights
        logging.disable_progress_bar()  # weights load in seconds, and the bars would end in Dagster's logs
        precision: torch.dtype = getattr(torch, dtype)
        bridge: Any  # its attributes are resolved at run time
        try:
            # A head that the checkpoint lacks (an encoder saved without one) is drawn at random while it loads.
            with torch.random.fork_rng(devices=[]):
                weights = None if randomised is None else _randomised(model, revision, precision, randomised, trust_remote_code).to(where)
                bridge = TransformerBridge.boot_transformers(
                    model, revision=revision, dtype=precision, device=device, hf_model=weights, trust_remote_code=trust_remote_code
                )
            fuse_gelu(bridge.original_model)
            bridge.eval()
        except Exception as error:  # transformers, safetensors and the hub client each raise their own kinds
            if not trust_remote_code and "trust_remote_code" in str(error):
                raise SubjectError(untrusted(model)) from None
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise SubjectError(
                f"{model}: expected a language model (causal or masked) with weights and a tokenizer that TransformerLens can load, found: {reason[0].rstrip('.')[:300]} ({type(error).__name__}); "
                "check that the checkpoint is complete (config.json, tokenizer files, weights) and of a supported architecture"
            ) from error
        config = bridge.original_model.config.get_text_config()
        config.use_cache = False  # nothing is generated, so keys and values need not be kept
        limit = next((int(value) for field in CONTEXT_FIELDS if isinstance(value := getattr(config, field, None), int)), None)
        vocabulary = bridge.original_model.get_input_embeddings().weight.shape[0]
        causal = getattr(bridge.cfg, "attention_dir", "causal") == "causal"
        return cls(model, bridge, int(bridge.cfg.d_model), int(bridge.cfg.n_layers), int(vocabulary), limit, precision, where, causal)

    @property
    def parameters(self) -> int:
        """Number of parameters of the checkpoint; counted on an empty copy, because the bridge holds some weights twice."""
        published = self.bridge.original_model
        with torch.device("meta"):
            return int(type(published)(published.config).num_parameters())

    def check(self, layers: Iterable[int], site: str, context_length: int) -> None:
        """Refuse what this model does not have.

        Raises:
            SubjectError: a layer out of range, a site without a hook, or a context longer than the model's positions.
        """
        for layer in layers:
            if self.bridge.get_hook_point(self.hook_name(site, layer)) is None:
                has = [other for other in HOOKS if self.bridge.get_hook_point(self.hook_name(other, layer)) is not None]
                raise SubjectError(
                    f"activations.site: expected a site that {self.name} has in block {layer}, found {site}; choose another of {', '.join(has)}"
                )
        self.check_context(context_length)

    def check_context(self, context_length: int) -> None:
        """Refuse contexts longer than the model has positions for (SubjectError)."""
        if self.context_limit is not None and context_length > self.context_limit:
            raise SubjectError(
                f"activations.context_length: expected at most {self.context_limit} tokens, the longest context of {self.name}, found {context_length}; lower it"
            )

    def hook_name(self, site: str, layer: int) -> str:
        """TransformerLens name of a site in a block, for example ``blocks.3.hook_resid_post``.

        Raises:
            SubjectError: the model has no such block.
        """
        if not 0 <= layer < self.n_layers:
            raise SubjectError(
                f"activations.layers: expected blocks of {self.name} from 0 to {self.n_layers - 1}, found {layer}; choose layers in that range"
            )
        return f"blocks.{layer}.{(HOOKS if self.causal else POST_NORM_HOOKS)[site]}"

    @torch.no_grad()
    def visit(self, tokens: Tensor, hooks: Iterable[str], see: Seen) -> None:
        """Show activations at several hooks while they are computed, in one forward pass that stops after the last of them.

        Args:
            tokens: (n_contexts, context_length) token ids, without padding: every token is attended to.
            hooks: names from :meth:`hook_name`.
            see: called once per hook, in the order of the pass. The tensor is the model's own: it may be written over
                once the call returns, and must not be changed.

        Raises:
            SubjectError: a hook that this model never reaches.
        """
        from transformer_lens.model_bridge.exceptions import StopAtLayerException

        missing = dict.fromkeys(hooks)

        def hooked(name: str) -> Callable[..., Tensor]:
            def hook(activation: Tensor, hook: object) -> Tensor:
                if name in missing:
                    see(name, activation)
                    del missing[name]
                if not missing:
                    raise StopAtLayerException(activation)
                return activation

            return hook

        fwd_hooks = [(name, hooked(name)) for name in missing]
        self.bridge.run_with_hooks(tokens.to(self.device, torch.long), return_type=None, fwd_hooks=fwd_hooks)
        if missing:
            raise SubjectError(
                f"activations.site: expected {self.name} to compute {', '.join(missing)}, found that its forward pass does not; choose another site"
            )

    def capture(self, tokens: Tensor, hooks: Iterable[str]) -> dict[str, Tensor]:
        """Copies of the activations at several hooks, from one forward pass as in :meth:`visit`.

        Returns:
            For each hook a float32 tensor (n_contexts, context_length, d_model) on the model's device.
        """
        captured: dict[str, Tensor] = {}

        def keep(name: str, activation: Tensor) -> None:
            captured[name] = activation.detach().to(torch.float32, copy=True)

        self.visit(tokens, hooks, keep)
        return captured

    @torch.no_grad()
    def logits(self, tokens: Tensor, replace: tuple[str, Replacement] | None = None) -> Tensor:
        """Next-token logits, with the activation of one hook replaced if asked.

        Args:
            tokens: (n_contexts, context_length) token ids, without padding.
            replace: a hook name and what replaces its activation; which positions stay as they are is the function's
                business.

        Returns:
            float32 (n_contexts, context_length, vocab_size) on the model's device.
        """
        fwd_hooks = []
        if replace is not None:
            overwrite = checked(*replace)
            fwd_hooks.append((replace[0], lambda activation, hook: overwrite(activation)))
        return self.bridge.run_with_hooks(tokens.to(self.device, torch.long), return_type="logits", fwd_hooks=fwd_hooks).float()

    @torch.no_grad()
    def splice(self, tokens: Tensor, hook: str, streams: CleanStreams | None = None) -> Splice:
        """Logits of ``tokens`` (n_contexts, context_length) with many replacements at one hook; see :class:`Splice`."""
        return Splice(self, tokens, hook, streams)


def _require_safetensors(model: str, revision: str | None) -> None:
    """Refuse weights that are pickled alone, before any of them is read (SubjectError)."""
    from transformers.utils import cached_file

    def there(name: str) -> bool:
        try:
            return cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False) is not None
        except OSError:  # gated, or the hub is away: told when the model is loaded
            return True

    if Path(model).is_dir() and not any((Path(model) / name).exists() for name in PICKLED_WEIGHTS):
        return  # where there are no weights at all, loading tells it
    if not any(map(there, SAFE_WEIGHTS)):
        raise SubjectError(
            f"{model}: expected weights as safetensors ({SAFE_WEIGHTS[0]}), found no such file; convert the checkpoint, or set "
            f"subject.pickled_weights: true to have the tensors of its {PICKLED_WEIGHTS[0]} read and nothing else of it unpickled"
        )


def _randomised(model: str, revision: str | None, dtype: torch.dtype, seed: int, trust_remote_code: bool) -> Any:
    """The transformers model that the bridge would load, on the CPU and with random weights."""
    from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
    from transformer_lens.model_bridge.sources.transformers import get_hf_model_class_for_architecture
    from transformers import AutoConfig

    architecture = determine_architecture_from_hf_config(AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code))
    weights = get_hf_model_class_for_architecture(architecture).from_pretrained(
        model, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code
    )
    randomise_weights(weights, seed)
    return weights

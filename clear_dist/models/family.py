"""What the rest of the project needs of a model family, and the one packed forward all families share.

A family says where its parts are (decoder, head, vision tower) and how a packed batch becomes embeddings. All
lookups happen at call time and every submodule runs through its own ``forward``: under ZeRO-3 parameters exist
only while their module's hooks hold them, and a parameter captured earlier is empty.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from clear_dist.types import Batch

FLASH = "flash_attention_2"
BLOCKS = "layers"  # the name every supported decoder gives to its blocks


class Family(ABC):
    """A kind of model. Stateless: every method is given the module, plain or wrapped by PEFT."""

    name: ClassVar[str]
    lora_targets: ClassVar[str]  # regular expression over module names (``re.fullmatch``, as PEFT does)
    cached_tower: ClassVar[bool] = False  # whether ``embed`` takes ``Batch.tower_features``

    @abstractmethod
    def image_tokens(self, config: PreTrainedConfig) -> int:
        """Placeholder tokens one picture takes; 0 for a text-only model."""

    @abstractmethod
    def image_id(self, config: PreTrainedConfig) -> int | None:
        """The placeholder's token id; None for a text-only model."""

    @abstractmethod
    def embed(self, module: nn.Module, batch: Batch) -> Tensor:
        """[R, L, D]: token embeddings, with image features at ``batch.image_slots``."""

    @abstractmethod
    def decoder(self, module: nn.Module) -> PreTrainedModel:
        """The language model without its head."""

    def rotary(self, position_ids: Tensor, rotary_ids: Tensor | None) -> Tensor:
        """What the decoder takes for positions: places in sequences [R, L], of which ``rotary_ids`` [3, R, L] are those
        in time, height and width, where a batch has them."""
        assert rotary_ids is None, "positions in three dimensions for a model that takes one"
        return position_ids

    def generation_inputs(self, ids: Tensor, image_id: int | None) -> dict[str, Tensor]:
        """What the library's own generation wants beside prompts [n, L] with pictures."""
        return {}

    def blocks(self, module: nn.Module) -> nn.ModuleList:
        """The decoder's blocks, in order."""
        blocks = getattr(self.decoder(module), BLOCKS, None)
        assert isinstance(blocks, nn.ModuleList), f"a decoder without .{BLOCKS}: {type(self.decoder(module))}"
        return blocks

    def tower(self, module: nn.Module) -> nn.Module | None:
        """The vision tower; None for a text-only model."""
        return None

    def tower_features(self, module: nn.Module, pixel_values: Tensor) -> Tensor:
        """[P, 3, H, W] -> [P, n, D_tower]: what the tower hands to the projector, where it can be kept."""
        raise NotImplementedError(f"{self.name}: no features to keep")

    def projector(self, module: nn.Module) -> nn.Module | None:
        """The part of the tower that leads to the language model, where it is inside the tower."""
        return None

    def text_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The language model's part of the configuration."""
        return config.get_text_config()

    def head(self, module: nn.Module) -> nn.Linear:
        """The output projection, ``weight`` [V, D] (``bias`` [V] or None): look it up anew in every forward."""
        head = unwrap(module).get_output_embeddings()
        assert isinstance(head, nn.Linear), type(head)
        return head


def unwrap(module: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, or the model itself. LoRA layers stay in place."""
    base = module.get_base_model() if isinstance(module, PeftModel) else module
    assert isinstance(base, PreTrainedModel), type(base)
    return base


def final_hidden(family: Family, module: nn.Module, batch: Batch, cache: Cache | None = None) -> Tensor:
    """[R, L, D] hidden states below the head; every sequence sees exactly what it would see alone. Keys and values of
    every token go into an empty ``cache``, where one is given (dense layout only).

    Two layouts, equal in result:

    * dense (sdpa, eager): the explicit block-diagonal mask. Restarted positions *without* it leak between
      sequences as soon as a cache or a 2-D mask is present.
    * varlen (flash-attention): rows joined to one, no mask at all, sequences told apart by their restarting
      positions. It cannot express a part that several sequences share; pack each one by itself.
    """
    decoder = family.decoder(module)
    embeds = family.embed(module, batch)
    rows, length, _ = embeds.shape
    positions = family.rotary(batch.position_ids, batch.rotary_ids)
    if decoder.config._attn_implementation == FLASH:
        assert cache is None, "flash-attention takes no mask"
        assert restarts_cleanly(batch.position_ids), "flash-attention cannot run sequences that share a part"
        joined = positions.reshape(*positions.shape[:-2], 1, rows * length)
        out = run_varlen(decoder, embeds.reshape(1, rows * length, -1), joined)
        return out.reshape(rows, length, -1)
    return decoder(
        inputs_embeds=embeds,
        attention_mask=dense_mask(decoder, batch, embeds.dtype),
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
        return_dict=True,
    ).last_hidden_state


def hidden_states(
    family: Family, module: nn.Module, batch: Batch, layers: Sequence[int] = (), depth: int | None = None
) -> tuple[Tensor | None, dict[int, Tensor]]:
    """(final, {layer: state}): ``final_hidden`` and the outputs [R, L, D] of the blocks ``layers`` (counted from 0).

    With ``depth`` only so many blocks run, nothing above them is computed, and final is None.
    """
    blocks = family.blocks(module)
    assert all(0 <= layer < (depth or len(blocks)) for layer in layers), (layers, depth, len(blocks))
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(block: nn.Module, args: Any, output: Any) -> None:
            del block, args
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    # Gone before backward: a recomputation (gradient checkpointing) runs the blocks again, unheard.
    handles = [blocks[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        with shortened(family, module, depth):
            final = final_hidden(family, module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return (final if depth is None else None), states


@contextmanager
def shortened(family: Family, module: nn.Module, depth: int | None) -> Iterator[None]:
    """Inside, the decoder has only its first ``depth`` blocks (all, for None); the blocks themselves are untouched."""
    decoder, blocks = family.decoder(module), family.blocks(module)
    if depth is None or depth >= len(blocks):
        yield
        return
    setattr(decoder, BLOCKS, nn.ModuleList(list(blocks)[:depth]))
    try:
        yield
    finally:
        setattr(decoder, BLOCKS, blocks)


def put_features(embeds: Tensor, features: Tensor, slots: Tensor) -> Tensor:
    """[R, L, D] with image features [F, D] at flat positions ``slots`` [S]; without any slot the features of a dummy
    picture take part with weight zero, so that every rank runs, and differentiates, the same modules."""
    features = features.to(embeds.dtype)
    if slots.numel() == 0:
        return embeds + 0 * features.sum()
    assert slots.shape[0] == features.shape[0], (slots.shape, features.shape)
    return torch.index_copy(embeds.flatten(0, 1), 0, slots, features).view_as(embeds)


def run_varlen(decoder: nn.Module, embeds: Tensor, position_ids: Tensor) -> Tensor:
    """[1, R*L, D] -> [1, R*L, D] with sequences told apart by restarting positions only: no mask, no cache.
    position_ids: [1, R*L], or [k, 1, R*L] of several kinds, as ``Family.rotary`` gives them."""
    return decoder(
        inputs_embeds=embeds, attention_mask=None, position_ids=position_ids, use_cache=False, return_dict=True
    ).last_hidden_state


def restarts_cleanly(position_ids: Tensor) -> bool:
    """True if in every row of [R, L] positions go up by one or restart at 0 (no prefix is shared)."""
    follows = position_ids[:, 1:] == position_ids[:, :-1] + 1
    first = position_ids[:, :1] == 0
    return bool((first.all() & (follows | (position_ids[:, 1:] == 0)).all()).item())


def dense_mask(decoder: PreTrainedModel, batch: Batch, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """The batch's mask in the form the decoder takes, see ``decoder_mask``."""
    return decoder_mask(decoder, batch.attention_mask(), batch.position_ids, batch.position_ids, dtype)


def decoder_mask(
    decoder: PreTrainedModel, full: Tensor, queries: Tensor, keys: Tensor, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """A mask [R, 1, Q, K], True where a query may look at a key, in the form the decoder takes: bool for sdpa,
    additive for eager. queries [R, Q], keys [R, K]: their positions.

    transformers hands a 4-D mask through untouched, so a sliding window has to be cut into it here; a decoder
    that mixes full and sliding layers takes one mask for each.
    """
    config: Any = decoder.config
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    masks = {"full_attention": full}
    if window is not None:
        distance = queries[:, None, :, None] - keys[:, None, None, :]
        masks["sliding_attention"] = full & (distance < window)
    if config._attn_implementation == "eager":
        low = torch.finfo(dtype).min
        masks = {k: torch.zeros_like(m, dtype=dtype).masked_fill_(~m, low) for k, m in masks.items()}
    if kinds == {"full_attention", "sliding_attention"}:
        return masks
    sliding_only = kinds == {"sliding_attention"} or not kinds
    return masks["sliding_attention"] if window is not None and sliding_only else masks["full_attention"]


def enable_checkpointing(module: nn.Module) -> None:
    """Recompute activations in backward (non-reentrant: works with frozen inputs, hooks and ZeRO-3)."""
    model: Any = unwrap(module)
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # newer releases of transformers
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def parameter_counts(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters; right under ZeRO-3 too, where a partitioned parameter's ``numel`` is 0, and with
    packed weights (``models.nf4``), which are buffers."""
    total, trainable = sum(getattr(m, "packed_elements", 0) for m in module.modules()), 0
    for p in module.parameters():
        n = int(getattr(p, "ds_numel", p.numel()))
        total += n
        trainable += n * p.requires_grad
    return total, trainable

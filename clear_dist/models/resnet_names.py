"""Weights of ResNets under others' names, brought to torchvision's, and what network they are of.

torchvision and timm share names; transformers' ``ResNetModel`` and ``ResNetForImageClassification`` say, for example,
``encoder.stages.0.layers.1.layer.0.convolution.weight`` where they say ``layer1.1.conv1.weight``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_args

from torch import Tensor

from clear_dist.models.resnet_settings import SHAPES, ResNetSettings, Size, Stem
from clear_dist.types import UserError

_BLOCK = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."


def to_torchvision(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Name -> tensor under torchvision's names; what is under them already, or under none known, stays as it is.

    Raises:
        UserError: two tensors of one name.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = _renamed(name)
        if new in out:
            raise UserError(f"{origin}: two tensors are {new}; one of them is {name}")
        out[new] = tensor
    return out


def _renamed(name: str) -> str:
    own = name.removeprefix("resnet.")
    if match := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", own):
        return f"{'conv1' if match[1] == 'convolution' else 'bn1'}.{match[2]}"
    if match := re.fullmatch(_BLOCK + r"shortcut\.(convolution|normalization)\.(\w+)", own):
        which = 0 if match[3] == "convolution" else 1
        return f"layer{int(match[1]) + 1}.{match[2]}.downsample.{which}.{match[4]}"
    if match := re.fullmatch(_BLOCK + r"layer\.(\d+)\.(convolution|normalization)\.(\w+)", own):
        which = "conv" if match[4] == "convolution" else "bn"
        return f"layer{int(match[1]) + 1}.{match[2]}.{which}{int(match[3]) + 1}.{match[5]}"
    return own.replace("classifier.1.", "fc.") if own.startswith("classifier.1.") else own


def recognised(state: Mapping[str, Tensor], origin: str) -> ResNetSettings:
    """What network weights under torchvision's names are of; 1 class where they have no head.

    Raises:
        UserError: no ResNet of a size known here, or a head without bias: AM-softmax, whose scale weights do not say.
    """
    blocks = tuple(len({name.split(".")[1] for name in state if name.startswith(f"layer{i}.")}) for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in state
    fitting: list[Size] = [
        size for size in get_args(Size) if (SHAPES[size].blocks, SHAPES[size].bottleneck) == (blocks, bottleneck)
    ]
    if not fitting:
        raise UserError(
            f"{origin}: is not a ResNet of size {', '.join(get_args(Size))}: its four stages have {list(blocks)} "
            f"{'bottlenecks' if bottleneck else 'blocks'}"
        )
    if "fc.weight" in state and "fc.bias" not in state:
        raise UserError(
            f"{origin}: fc has no bias; an AM-softmax head is read from the directory that save_resnet wrote, whose "
            "config.json has its scale and margin"
        )
    first = _shape(state, "conv1.weight", origin)
    stem: Stem = "small" if first is not None and first[-1] == 3 else "standard"
    head = _shape(state, "fc.weight", origin)
    wide = _shape(state, "projection.0.weight", origin)
    return ResNetSettings(
        fitting[0], stem, 1 if head is None else head[0], embedding_size=None if wide is None else wide[0]
    )


def _shape(state: Mapping[str, Tensor], name: str, origin: str) -> tuple[int, ...] | None:
    if name not in state:
        return None
    shape = tuple(state[name].shape)
    if len(shape) < 2 or not shape[0]:
        raise UserError(f"{origin}: {name} is {list(shape)}; expected a matrix or filters")
    return shape

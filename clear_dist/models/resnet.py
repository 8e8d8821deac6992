"""Vision classifiers and embedders: a ResNet of basic blocks with a linear head over identities.

Symbols: N pictures, D embedding size (width of the last stage), C, H, W channels, height and width of a stage's
output. Stages count from 0; in CLEAR's vision experiments (arXiv 2410.18057) RMU's layer is the third, index 2.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from clear_dist.models.files import fetch_weights, read_header, resolve, weight_files
from clear_dist.models.quiet import quiet
from clear_dist.types import UserError

Size = Literal["18", "tiny"]
_SIZES: dict[Size, dict[str, Any]] = {
    "18": {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "tiny": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
}
_HEAD = {"classifier.1.weight", "classifier.1.bias"}


@dataclass
class VisionStates:
    """What a forward pass gives: ``embedding`` [N, D], None where it stopped below; of each stage asked for its output
    [N, C, H, W]."""

    embedding: Tensor | None
    stages: dict[int, Tensor] = field(default_factory=dict)


class VisionModel(nn.Module):
    """A ResNet with one output per identity. Its embedding is the pooled output of the last stage."""

    def __init__(self, net: ResNetForImageClassification) -> None:
        super().__init__()
        self.net = net

    @property
    def head(self) -> nn.Linear:
        """weight [classes, D], bias [classes]."""
        head = self.net.classifier[1]
        assert isinstance(head, nn.Linear)
        return head

    @property
    def classes(self) -> int:
        return self.head.out_features

    @property
    def depth(self) -> int:
        """How many stages there are."""
        return len(self._stages)

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    @property
    def _stages(self) -> nn.ModuleList:
        return self.net.resnet.encoder.stages

    def forward(self, pixels: Tensor, stages: Collection[int] = (), depth: int | None = None) -> VisionStates:
        """One pass.

        Args:
            pixels: [N, 3, H, W], normalised; brought to the model's precision.
            stages: whose outputs are kept.
            depth: how many stages run; None for all and the pooling, which alone gives an embedding.

        Raises:
            IndexError: a stage that does not exist, or lies above ``depth``.
        """
        top = self.depth if depth is None else depth
        beyond = [i for i in (*stages, top - 1) if not 0 <= i < min(top, self.depth)]
        if beyond:
            raise IndexError(f"stage {beyond[0]} is not there: {min(top, self.depth)} stages are run, counted from 0")
        kept: dict[int, Tensor] = {}
        h = self.net.resnet.embedder(pixels.to(self.dtype))
        for i in range(top):
            h = self._stages[i](h)
            if i in stages:
                kept[i] = h
        return VisionStates(self.net.resnet.pooler(h).flatten(1) if depth is None else None, kept)

    def embedding(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, D]."""
        out = self(pixels).embedding
        assert out is not None
        return out

    def stage(self, pixels: Tensor, index: int) -> Tensor:
        """[N, 3, H, W] -> [N, C, H', W'], the output of one stage; nothing above it is computed."""
        return self(pixels, (index,), depth=index + 1).stages[index]

    def logits(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, classes]."""
        return self.head(self.embedding(pixels))

    def train_only(self, stages: Collection[int] | None) -> None:
        """Let only these stages be trained (RMU's), without stem and head; None: everything."""
        self.requires_grad_(stages is None)
        for i in stages or ():
            self._stages[i].requires_grad_(True)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that stays in evaluation mode whatever ``train`` says; its scale and shift still learn."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        del mode
        return super().train(False)


def freeze_batchnorm(module: nn.Module) -> None:
    """Normalise by the running statistics from now on, also in train mode, and leave them as they are.

    A picture's output then does not depend on its neighbours in the batch. Names of weights do not change.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = FrozenBatchNorm2d
            child.train(False)


def new_resnet(classes: int, size: Size = "18", seed: int = 0) -> VisionModel:
    """A ResNet with random weights, fp32, in evaluation mode.

    ``18`` is ResNet-18 (11 million parameters); ``tiny`` has one block a stage and a quarter of its width or less
    (0.16 million), for pictures of 32 to 64 pixels. The global random state is left alone.

    Raises:
        UserError: an unknown size, or no class.
    """
    if size not in _SIZES:
        raise UserError(f"size: {size!r} is unknown; choose from {', '.join(_SIZES)}")
    if classes < 1:
        raise UserError(f"classes: a classifier needs at least 1, got {classes}")
    config = ResNetConfig(layer_type="basic", **_SIZES[size])
    config.num_labels = classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ResNetForImageClassification(config)
    return VisionModel(net).eval()


def save_resnet(model: VisionModel, out: Path) -> Path:
    """Write a Hugging Face directory (config.json, model.safetensors) that ``transformers`` reads as it is."""
    with quiet():
        model.net.save_pretrained(out)
    return out


def load_resnet(name_or_dir: str | Path, classes: int | None = None, seed: int = 0) -> VisionModel:
    """A ResNet from a local Hugging Face directory with safetensors, or from the Hub; fp32, in evaluation mode.

    Args:
        name_or_dir: e.g. ``microsoft/resnet-18``, or what ``save_resnet`` wrote.
        classes: identities to tell apart; None keeps the head as it is, and so does their own number. Any other
            number gets a new head, drawn by ``seed``.

    Raises:
        UserError: no such directory or Hub name, not a ResNet, no or broken weights.
    """
    path = resolve(str(name_or_dir))
    config = _config(path)
    fetch_weights(str(name_or_dir), path)
    for file in weight_files(path):
        read_header(file)
    try:
        with quiet():
            auto: Any = ResNetForImageClassification
            net, report = auto.from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{path}: the weights do not fit config.json: {error}") from error
    new_head = classes is not None and classes != config.num_labels
    missing = sorted(set(report["missing_keys"]) - (_HEAD if new_head else set()))
    if missing:
        raise UserError(
            f"{path}: the weights lack {len(missing)} tensors config.json asks for (first: {missing[0]}); "
            "configuration and weights do not belong together"
        )
    model = VisionModel(net)
    if classes is not None and new_head:
        net.classifier[1] = _new_head(model.head.in_features, classes, seed)
        net.config.num_labels = net.num_labels = classes
    return model.eval()


def _new_head(size: int, classes: int, seed: int) -> nn.Linear:
    if classes < 1:
        raise UserError(f"classes: a classifier needs at least 1, got {classes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(size, classes)


def _config(path: Path) -> ResNetConfig:
    file = path / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kind = values["model_type"]
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing; expected a Hugging Face directory of a ResNet") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is not a model's configuration ({error}); copy the model directory again") from error
    if kind != "resnet":
        raise UserError(f"{file}: is of a model of type {kind!r}; expected resnet")
    return ResNetConfig.from_dict(values)

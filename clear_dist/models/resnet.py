"""Vision classifiers and embedders: ResNets in torchvision's layout, with a linear or an AM-softmax head over
identities.

The layout (conv1, bn1, layer1..layer4, fc; the stride of a bottleneck on its 3x3 convolution) is that of torchvision's
ResNets, so that weights published for it fit by name; ``resnet_files`` reads those of timm and transformers too.

Symbols: N pictures, D embedding size, K identities (classes), C, H, W channels, height and width of a stage's output,
s scale and m margin of an AM-softmax head. Stages count from 0; in CLEAR's vision experiments (arXiv 2410.18057) RMU's
layer is the third, index 2.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clear_dist.models.resnet_blocks import BasicBlock, Bottleneck, conv
from clear_dist.models.resnet_settings import SHAPES, Head, ResNetSettings, Size, Stem

__all__ = [
    "ResNetSettings",
    "VisionModel",
    "VisionStates",
    "empty_resnet",
    "freeze_batchnorm",
    "initialised",
    "new_resnet",
]


@dataclass
class VisionStates:
    """What a forward pass gives: ``embedding`` [N, D], None where it stopped below; of each stage asked for its output
    [N, C, H, W]."""

    embedding: Tensor | None
    stages: dict[int, Tensor] = field(default_factory=dict)


class VisionModel(nn.Module):
    """A ResNet with one output per identity.

    Its embedding is the pooled output of the last stage or, with ``embedding_size``, a projection of it: a matrix
    without bias, then batch normalisation. Pooled features come out of a ReLU, so their cosines are all positive; the
    normalisation centres what a cosine is taken of (as ArcFace's public code does), and makes a bias superfluous.

    ``autocast``: a precision, such as bf16, for the products of the trunk; weights keep theirs, and what comes out is
    fp32 whatever was inside. None: the model's own.
    """

    def __init__(self, settings: ResNetSettings) -> None:
        super().__init__()
        self.settings = settings
        self.autocast: torch.dtype | None = None
        shape = SHAPES[settings.size]
        block, expansion = (Bottleneck, 4) if shape.bottleneck else (BasicBlock, 1)
        channels = shape.widths[0]
        self.conv1 = conv(3, channels, 7, 2) if settings.stem == "standard" else conv(3, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        for index, (width, blocks) in enumerate(zip(shape.widths, shape.blocks, strict=True)):
            stage = nn.Sequential()
            for i in range(blocks):
                stage.append(block(channels, width, 2 if index and i == 0 else 1))
                channels = expansion * width
            self.add_module(f"layer{index + 1}", stage)
        self.projection = None
        if settings.embedding_size is not None:
            wide = settings.embedding_size
            self.projection = nn.Sequential(nn.Linear(channels, wide, bias=False), nn.BatchNorm1d(wide))
            channels = wide
        self.fc = nn.Linear(channels, settings.classes, bias=settings.head == "softmax")

    @property
    def head(self) -> nn.Linear:
        """weight [K, D]; bias [K], None where the head is AM-softmax. Use ``head_inputs``, which knows its meaning."""
        return self.fc

    @property
    def classes(self) -> int:
        return self.settings.classes

    @property
    def depth(self) -> int:
        """How many stages there are."""
        return len(self.stages)

    @property
    def dtype(self) -> torch.dtype:
        return self.fc.weight.dtype

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        return tuple(self.get_submodule(f"layer{i + 1}") for i in range(4))

    @property
    def label_margin(self) -> float:
        """What training takes from the label's logit: s m, 0 for a softmax head."""
        return self.settings.scale * self.settings.margin if self.settings.head == "am_softmax" else 0.0

    def forward(self, pixels: Tensor, stages: Collection[int] = (), depth: int | None = None) -> VisionStates:
        """One pass.

        Args:
            pixels: [N, 3, H, W], normalised; brought to the model's precision. Any memory format.
            stages: whose outputs are kept.
            depth: how many stages run; None for all and the pooling, which alone gives an embedding.

        Raises:
            IndexError: a stage that does not exist, or lies above ``depth``.
        """
        top = self.depth if depth is None else depth
        beyond = [i for i in (*stages, top - 1) if not 0 <= i < min(top, self.depth)]
        if beyond:
            raise IndexError(f"stage {beyond[0]} is not there: {min(top, self.depth)} stages are run, counted from 0")
        if self.autocast is None:
            return self._pass(pixels, stages, depth)
        with torch.autocast(pixels.device.type, self.autocast):
            out = self._pass(pixels, stages, depth)
        embedding = None if out.embedding is None else out.embedding.float()
        return VisionStates(embedding, {i: h.float() for i, h in out.stages.items()})

    def _pass(self, pixels: Tensor, stages: Collection[int], depth: int | None) -> VisionStates:
        kept: dict[int, Tensor] = {}
        h = F.relu(self.bn1(self.conv1(pixels.to(self.dtype))), inplace=True)
        if self.settings.stem == "standard":
            h = F.max_pool2d(h, 3, 2, padding=1)
        for i, stage in enumerate(self.stages[:depth]):
            h = stage(h)
            if i in stages:
                kept[i] = h
        if depth is not None:
            return VisionStates(None, kept)
        pooled = h.float().mean((-2, -1)) if self.autocast else h.mean((-2, -1))
        return VisionStates(pooled if self.projection is None else self.projection(pooled), kept)

    def embedding(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, D]."""
        out = self(pixels).embedding
        assert out is not None
        return out

    def stage(self, pixels: Tensor, index: int) -> Tensor:
        """[N, 3, H, W] -> [N, C, H', W'], the output of one stage; nothing above it is computed."""
        return self(pixels, (index,), depth=index + 1).stages[index]

    def logits(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, K], without margin."""
        return self.logits_of(self.embedding(pixels))

    def logits_of(self, embedding: Tensor) -> Tensor:
        """[N, D] -> [N, K], without margin; at least fp32, under autocast too."""
        h, weight = self.head_inputs(embedding)
        with torch.autocast(h.device.type, enabled=False):
            return h @ weight.t()

    def head_inputs(self, embedding: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(h, weight), whose product h weight^T is the logits [N, K]: all of the head that a loss has to know.

        softmax: ([e, 1], [W, b]), D + 1 columns. am_softmax: (s e / |e|, W / |W|), D columns; with labels
        ([.., -s m onehot(label)], [.., I]), D + K columns, so that the label's logit is s (cos - m). Both sides are
        really normalised: the length of an embedding, or of a row of W, says nothing. (In the paper's public code the
        normalised weight is thrown away.)

        Args:
            embedding: [N, D].
            labels: [N] int64: with them a margin is taken off; a softmax head has none. A label outside [0, K) has
                nothing to be taken off from.

        Returns:
            both at least fp32, whatever the model's precision and autocast.
        """
        kind = torch.promote_types(torch.promote_types(embedding.dtype, self.dtype), torch.float32)
        with torch.autocast(embedding.device.type, enabled=False):
            h, weight = embedding.to(kind), self.fc.weight.to(kind)
            if self.settings.head == "softmax":
                ones = h.new_ones(len(h), 1)
                return torch.cat([h, ones], 1), torch.cat([weight, self.fc.bias.to(kind)[:, None]], 1)
            h, weight = self.settings.scale * F.normalize(h, dim=1), F.normalize(weight, dim=1)
            if labels is None or self.label_margin == 0:
                return h, weight
            one = torch.eye(self.classes, dtype=kind, device=h.device)
            return torch.cat([h, -self._off(labels, kind)], 1), torch.cat([weight, one], 1)

    def classification_loss(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy [] of embeddings [N, D] and labels [N] int64, with the head's margin; in nats.

        At least fp32, whatever the model's precision and autocast. Nothing in it waits for the device or depends on
        values, so a CUDA graph can hold it.
        """
        logits = self.logits_of(embedding)
        if self.label_margin:
            logits = logits - self._off(labels, logits.dtype)
        return F.cross_entropy(logits, labels)

    def _off(self, labels: Tensor, kind: torch.dtype) -> Tensor:
        """[N, K]: s m where the label is, else 0."""
        every = torch.arange(self.classes, device=labels.device)
        return self.label_margin * (labels[:, None] == every).to(kind)

    def train_only(self, stages: Collection[int] | None) -> None:
        """Let only these stages be trained (RMU's), without stem and head; None: everything."""
        self.requires_grad_(stages is None)
        for i in stages or ():
            self.stages[i].requires_grad_(True)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that stays in evaluation mode whatever ``train`` says; its scale and shift still learn."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        del mode
        return super().train(False)


class FrozenBatchNorm1d(nn.BatchNorm1d):
    """The same for an embedding's normalisation."""

    def train(self, mode: bool = True) -> FrozenBatchNorm1d:
        del mode
        return super().train(False)


def freeze_batchnorm(module: nn.Module) -> None:
    """Normalise by the running statistics from now on, also in train mode, and leave them as they are.

    A picture's output then does not depend on its neighbours in the batch. Names of weights do not change.
    """
    frozen = {nn.BatchNorm2d: FrozenBatchNorm2d, nn.BatchNorm1d: FrozenBatchNorm1d}
    for child in module.modules():
        if type(child) in frozen:
            child.__class__ = frozen[type(child)]
            child.train(False)


def empty_resnet(settings: ResNetSettings) -> VisionModel:
    """A model whose weights are yet to be written: fp32, on the CPU, in evaluation mode; nothing is drawn."""
    with torch.device("meta"):
        model = VisionModel(settings)
    return model.to_empty(device="cpu").eval()


@torch.no_grad()
def initialised(settings: ResNetSettings, seed: int = 0) -> VisionModel:
    """A model with random weights, fp32, in evaluation mode; the global random state is left alone.

    As torchvision draws them: convolutions normal with variance 2 / (what goes out of a filter), scales 1, shifts 0,
    matrices and bias uniform in +-1 / sqrt(what goes in). An AM-softmax head is normal with variance 1 / D instead:
    directions are then uniform, and rows about 1 long make a step of the head the step on the sphere.
    """
    model = empty_resnet(settings)
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=g)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            if module is model.fc and settings.head == "am_softmax":
                module.weight.normal_(0.0, bound, generator=g)
                continue
            module.weight.uniform_(-bound, bound, generator=g)
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=g)
    return model


def new_resnet(
    classes: int,
    size: Size = "18",
    seed: int = 0,
    *,
    stem: Stem = "standard",
    head: Head = "softmax",
    embedding_size: int | None = None,
    scale: float = 30.0,
    margin: float = 0.4,
) -> VisionModel:
    """``initialised`` from the fields of ``ResNetSettings``.

    Raises:
        UserError: an unknown size, stem or head, or no class.
    """
    return initialised(ResNetSettings(size, stem, classes, head, embedding_size, scale, margin), seed)

"""The vocabulary every package shares: views, pictures, examples, packed batches, per-token statistics.

Legend for shapes: R rows of a packed batch, L tokens of a row, P pictures, T scored (answer) tokens,
S tokens of whole sequences (prompt and answer), N examples, D hidden size, V vocabulary. Of clear_dist only ``errors``
is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from clear_dist.errors import UserError as UserError  # noqa: PLC0414 (re-exported)

if TYPE_CHECKING:
    from PIL.Image import Image

Modality = Literal["text", "visual", "both"]
SetName = Literal["forget", "retain", "real_faces", "real_world", "holdout"]
Kind = Literal["qa", "caption", "name", "describe", "attribute", "choice"]
SETS: tuple[SetName, ...] = ("forget", "retain", "real_faces", "real_world", "holdout")


class View(StrEnum):
    """A split as the model sees it.

    The reference usually reads what the student reads. On two views it does not: on GUIDE its prompt carries the
    privacy instruction, on AUGMENTED its picture is transformed. Answers are the same tokens in both, so statistics
    that compare the two are aligned by answer position.
    """

    FORGET = "forget"
    RETAIN = "retain"
    IDK = "idk"  # forget prompts with "I don't know" answers
    RANDOM = "random"  # forget prompts with answers about other people
    PRIVATE = "private"  # the forget examples whose answers hold private information: names, facts
    SAFE = "safe"  # the prompts of PRIVATE with safe answers: descriptions of what is visible, or refusals
    GUIDE = "guide"  # prompts of PRIVATE with answers the original gave under the privacy instruction
    AUGMENTED = "augmented"  # forget pictures; the reference sees them through a seeded image transform


@dataclass(frozen=True)
class Picture:
    """A picture by reference: decoded only when a batch needs it.

    digest: SHA-256 of the encoded bytes, the picture's identity everywhere (attributes, caches, records).
    source: where it comes from, for error messages, e.g. ``full+tofu[12].image``.
    read: returns the encoded bytes.
    """

    digest: str
    source: str
    read: Callable[[], bytes] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Example:
    """One question with its answer, with a picture or without: the unit of training and of evaluation.

    id: stable and unique within its set, e.g. ``full+tofu/12/caption``.
    person: whom it is about; None where nobody (real_world).
    seen: False for pictures held out of all training; True otherwise.
    paraphrase: the same answer worded differently; perturbed: wrong answers in the same form (truth ratio).
    options: multiple-choice answers, the right one first.
    fact: the string a factually right answer must contain (None: unknown, not scored).
    attributes: visible attributes of the picture, where they are known.
    """

    id: str
    set: SetName
    kind: Kind
    question: str
    answer: str
    picture: Picture | None = None
    person: str | None = None
    seen: bool = True
    paraphrase: str | None = None
    perturbed: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    fact: str | None = None
    attributes: Mapping[str, str] | None = None

    @property
    def modality(self) -> Literal["text", "visual"]:
        return "text" if self.picture is None else "visual"


@dataclass(frozen=True)
class ImageLayout:
    """What a picture of some size takes in a model that cuts pictures by their size.

    tokens: placeholder tokens in its prompt. patches: rows of ``Batch.pixel_values``. inputs: what the vision tower is
    told beside the pixels, by the name transformers gives it, for instance ``image_sizes: (height, width)``.
    grid: rows and columns of its tokens, where the decoder's rotary positions follow them (Qwen2.5-VL).
    """

    tokens: int
    patches: int
    inputs: Mapping[str, tuple[int, ...]]
    grid: tuple[int, int] | None = None


class Processor(Protocol):
    """What data needs to know of a model: tokens and pixels. Provided by ``models``."""

    eos_id: int
    pad_id: int
    image_id: int | None  # placeholder token; None for a text-only model
    image_tokens: int  # placeholder tokens per picture; 1 where ``layout_of`` says how many; 0 for a text-only model
    image_shape: tuple[int, ...]  # (3, H, W), or a row of ``pixel_values``; (0, 0, 0) for a text-only model
    # (height, width) of a picture -> its layout; None where every picture takes the same ``image_tokens``
    layout_of: Callable[[int, int], ImageLayout] | None

    def encode_prompt(self, question: str, with_picture: bool) -> tuple[list[int], list[int]]:
        """(prefix, rest). The prefix ends with the image tokens and is the same for every question on a
        picture, so that several questions can share it; without a picture the prefix is empty. Training,
        scoring and generation all use prefix + rest + answer, so tokens never differ between them."""
        ...

    def encode_answer(self, answer: str) -> list[int]:
        """Answer tokens, ending with EOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens dropped, stripped."""
        ...

    def pixels(self, image: Image) -> Tensor:
        """[3, H, W] float32, as the vision tower wants it; [patches, *image_shape] where there is a ``layout_of``."""
        ...


@dataclass
class Batch:
    """Packed sequences: several rows, each holding many sequences, attention block-diagonal.

    What sequences share (a picture, a prompt) may stand once, before all that grows on it (``data.trunk``). Positions
    restart in every sequence and go on behind what is shared, so each sequence sees exactly what it would see alone.
    """

    input_ids: Tensor  # [R, L] int64
    position_ids: Tensor  # [R, L] int64
    visible_until: Tensor  # [R, L] int64; a token is seen by those behind it in its row up to this place (exclusive)
    real: Tensor  # [R, L] bool; False: padding, at a row's end
    # [P, 3, H, W] float32; P >= 1 for a vision-language model (a zero dummy if none). Where pictures are cut by their
    # size, the patches of all of them, joined: [patches, *image_shape].
    pixel_values: Tensor | None
    image_slots: Tensor  # [P_real * image_tokens] int64 flat positions in R*L, picture by picture
    score_index: Tensor  # [T] int64 flat position in R*L whose hidden state predicts targets[t]
    targets: Tensor  # [T] int64
    token_example: Tensor  # [T] int64 in [0, N): the example a scored token belongs to; non-decreasing
    view_examples: dict[str, slice]  # view -> its examples' range in [0, N)
    view_tokens: dict[str, slice]  # view -> its tokens' range in [0, T)
    example_ids: list[str]  # N ids
    real_tokens: int  # non-padding tokens
    # Whole sequences, only where an objective looks at more than answers (RMU): a prefix shared by several
    # examples appears once for each of them.
    sequence_index: Tensor | None = None  # [S] int64 flat position in R*L
    sequence_example: Tensor | None = None  # [S] int64 in [0, N), non-decreasing
    sequence_image: Tensor | None = None  # [S] bool: an image token
    view_sequence: dict[str, slice] = field(default_factory=dict)  # view -> its range in [0, S)
    # What the reference reads where that is not this batch: only the views it is asked about, with its own prompts
    # and pictures. View by view, its examples and scored tokens are aligned with this batch's.
    reference: Batch | None = None
    # What the reference said, read from a cache instead of computed: view -> states (see ReferenceStates).
    cached: dict[str, ReferenceStates] | None = None
    # What a tower that cuts pictures by their size is told beside the pixels: name -> [P, k] int64, a row a picture,
    # on the CPU, since shapes are computed from it (``ImageLayout.inputs``).
    image_inputs: dict[str, Tensor] = field(default_factory=dict)
    # [3, R, L] int64: rotary positions in time, height and width, where a picture of the batch has a grid of them.
    rotary_ids: Tensor | None = None

    # [P, n, D_tower]: what a frozen vision tower makes of the pictures, kept from before instead of computed
    # (``engine.tower_cache``); pixel_values is then None. P >= 1: a zero dummy if there is no picture.
    tower_features: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies while it computes."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        if self.reference is not None:
            changed["reference"] = self.reference._each(change)
        if self.cached is not None:
            changed["cached"] = {view: states.each(change) for view, states in self.cached.items()}
        return Batch(**{**vars(self), **changed})

    def attention_mask(self) -> Tensor:
        """[R, 1, L, L] bool, True where row i may look at column j: j <= i < ``visible_until[j]``.

        The explicit block-diagonal form is right in train and eval, with and without cache or checkpointing;
        restarted positions alone leak silently as soon as a cache or any 2-D mask is present.
        """
        place = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        causal = place[:, None] >= place
        return (causal & (place[:, None] < self.visible_until[:, None, :]))[:, None]


@dataclass
class ReferenceStates:
    """What the reference model made of one view, kept so that it need not run again.

    Present is what the objective needs: ``logp`` [T] fp32 log-probabilities of the answer tokens; ``hidden`` [T, D]
    final hidden states that predict them; ``layers`` layer -> [S, D] states of the whole sequences (``sequence``
    rows of the batch; without image tokens where no term looks at those: rows of image tokens are then zero).
    """

    logp: Tensor | None = None
    hidden: Tensor | None = None
    layers: dict[int, Tensor] = field(default_factory=dict)

    def each(self, change: Callable[[Tensor], Tensor]) -> ReferenceStates:
        """Every tensor changed."""
        return ReferenceStates(
            None if self.logp is None else change(self.logp),
            None if self.hidden is None else change(self.hidden),
            {layer: change(states) for layer, states in self.layers.items()},
        )


@dataclass(frozen=True)
class Hidden:
    """A statistic of hidden states: per token of the whole sequence, the squared distance of the student's state
    after decoder block ``layer`` (counted from 0) to a target.

    target: ``reference``, the same state of the reference model; ``control``, ``scale`` times the fixed unit vector
    ``u`` drawn by ``seed`` (RMU); ``redrawn``, ``scale`` times noise drawn for every batch and normalised over the
    whole of it (what the public CLEAR code does; it depends on how a batch is cut).
    images: whether image tokens count. average: divided by the hidden size.
    """

    layer: int
    target: Literal["reference", "control", "redrawn"]
    scale: float = 1.0
    seed: int = 0
    images: bool = False
    average: bool = False


@dataclass
class TokenStats:
    """Per-token statistics of one view, fp32, differentiable with respect to the student.

    Only what the objective asked for is present. ``example`` numbers the view's local examples from 0;
    ``total_examples`` and ``total_tokens`` count the view over **all** ranks and accumulation steps, so sums of
    local means divided by them add up to the global mean whatever the cut of the batch.

    values: statistic -> [T] over answer tokens (``logp``, ``kl_forward`` ...: see ``ops.token_stats``); names that
    start with ``sequence:`` and :class:`Hidden` -> [S] over the tokens of whole sequences.
    """

    example: Tensor  # [T] int64
    examples: int  # local N
    total_examples: int
    total_tokens: int
    values: dict[str | Hidden, Tensor]
    sequence_example: Tensor | None = None  # [S] int64
    sequence_image: Tensor | None = None  # [S] bool
    total_sequence: int = 0  # tokens of the view's whole sequences, image tokens included, as the totals above

    def __getitem__(self, name: str | Hidden) -> Tensor:
        return self.values[name]

    def per_sequence(self, x: Tensor, *, images: bool) -> Tensor:
        """[S] -> [N]: mean over each example's tokens, prompt and answer, with or without image tokens."""
        assert self.sequence_example is not None and self.sequence_image is not None
        kept = torch.ones_like(self.sequence_image) if images else ~self.sequence_image
        example, x = self.sequence_example[kept], x[kept]
        out = x.new_zeros(self.examples).index_add(0, example, x)
        return out / torch.bincount(example, minlength=self.examples).clamp(min=1)

    def per_example(self, x: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        """[T] -> [N]: sum or mean over each example's tokens."""
        out = x.new_zeros(self.examples).index_add(0, self.example, x)
        if reduction == "sum":
            return out
        counts = torch.bincount(self.example, minlength=self.examples).clamp(min=1)
        return out / counts

    def global_mean(self, per_example: Tensor) -> Tensor:
        """[N] -> scalar: this rank's part of the mean over the view's examples of the whole global batch."""
        return per_example.sum() / max(self.total_examples, 1)

    def global_token_mean(self, x: Tensor) -> Tensor:
        """[T] -> scalar: this rank's part of the mean over the view's tokens of the whole global batch."""
        return x.sum() / max(self.total_tokens, 1)


@dataclass(frozen=True)
class Request:
    """Something to score or to continue: a question on a picture (or none) and candidate answers."""

    question: str
    picture: Picture | None = None
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """One answer as a model sees it when it is told the answer so far: a value a token, EOS included.

    logp: natural log-probability of the token. top1: whether the token is the likeliest one. mean, std: expectation
    and standard deviation of log p(z) over the model's own distribution of the next token z (what Min-K%++
    calibrates by); empty where they were not computed.
    """

    logp: list[float]
    top1: list[bool]
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Prediction:
    """What a model made of one request: its candidate answers scored, and what it says itself (None: not asked)."""

    scored: list[Scored]
    text: str | None = None


class Predictor(Protocol):
    """What evaluation needs of a model. Provided by ``engine``; works on one process or many."""

    def predict(self, requests: Sequence[Request], max_new_tokens: int) -> list[Prediction]:
        """Per request, in one pass: every answer scored (``mean`` and ``std`` for the first one), and the greedy
        continuation of the question, the picture seen. With ``max_new_tokens`` 0 nothing is generated."""
        ...

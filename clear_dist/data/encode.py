"""An example as token ids, ready to be packed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clear_dist.data.images import picture_size
from clear_dist.types import Example, ImageLayout, Picture, Processor, UserError

Ids = NDArray[np.int64]

_SIZES: dict[str, tuple[int, int]] = {}  # digest -> (height, width): a picture is looked at once for all its questions


@dataclass(frozen=True, eq=False)
class Encoded:
    """One example as three runs of token ids: what it is scored on is ``answer``, given ``prefix + rest``.

    prefix: [p] int64, everything up to and including the image tokens; the same for every question on a picture,
        empty without one.
    rest: [q] int64, the rest of the prompt.
    answer: [a] int64, a >= 1, ends with EOS.
    layout: of a picture in a model that cuts pictures by their size.
    """

    example_id: str
    digest: str | None
    picture: Picture | None
    prefix: Ids
    rest: Ids
    answer: Ids
    layout: ImageLayout | None = None

    @property
    def length(self) -> int:
        """Tokens of the sequence when it stands alone."""
        return len(self.prefix) + len(self.rest) + len(self.answer)


def encode_prompt(
    processor: Processor, question: str, picture: Picture | None
) -> tuple[list[int], list[int], ImageLayout | None]:
    """(prefix, rest, layout) of a question: ``Processor.encode_prompt`` with as many image tokens as the picture takes.

    Raises UserError: a picture that cannot be opened, or of a shape the model does not take.
    """
    prefix, rest = processor.encode_prompt(question, picture is not None)
    if picture is None or processor.layout_of is None:
        return prefix, rest, None
    if picture.digest not in _SIZES:
        _SIZES[picture.digest] = picture_size(picture)
    try:
        layout = processor.layout_of(*_SIZES[picture.digest])
    except UserError as error:
        raise UserError(f"{picture.source}: {error}") from error
    return [i for t in prefix for i in ([t] * (layout.tokens if t == processor.image_id else 1))], rest, layout


def encode(example: Example, processor: Processor, max_length: int) -> Encoded:
    """Token ids of one example.

    Raises UserError: a picture for a model that sees none, an answer without a character, a number of image
    tokens other than the model's, a sequence longer than ``max_length``. Nothing is ever cut off: a truncated
    answer would be learned (and forgotten) as if it were the whole.
    """
    picture = example.picture
    if picture is not None and processor.image_tokens == 0:
        raise UserError(
            f"{example.id} has a picture, but the model is a text-only one. "
            "Use --modality text, or a vision-language model (--model)."
        )
    if not example.answer.strip():
        raise UserError(f"{example.id}: the answer is empty. Expected at least one character; fill or drop the row.")
    prefix, rest, layout = encode_prompt(processor, example.question, picture)
    answer = processor.encode_answer(example.answer)
    assert answer, f"{example.id}: Processor.encode_answer returned nothing, not even EOS"
    assert prefix or rest, f"{example.id}: an answer cannot be predicted from an empty prompt"
    if picture is not None:
        found = sum(token == processor.image_id for token in prefix)
        expected = processor.image_tokens if layout is None else layout.tokens
        if found != expected:
            raise UserError(
                f"{example.id}: the prompt holds {found} image tokens, the model expects {expected} "
                "for every picture. The processor's patch_size, image size and num_additional_image_tokens must "
                "be those of the model's vision tower (see processor_config.json in the model directory)."
            )
    total = len(prefix) + len(rest) + len(answer)
    if total > max_length:
        raise UserError(
            f"{example.id}: {total} tokens ({len(prefix)} up to the picture, {len(rest)} of question, {len(answer)} "
            f"of answer), more than --max-length {max_length}. Raise --max-length to at least {total}, or "
            "shorten or drop the row."
        )
    return Encoded(
        example_id=example.id,
        digest=None if picture is None else picture.digest,
        picture=picture,
        prefix=np.asarray(prefix, dtype=np.int64),
        rest=np.asarray(rest, dtype=np.int64),
        answer=np.asarray(answer, dtype=np.int64),
        layout=layout,
    )


def encode_all(examples: Iterable[Example], processor: Processor, max_length: int) -> list[Encoded]:
    """``encode`` for a whole set, once before training: every error appears before the first step."""
    return [encode(example, processor, max_length) for example in examples]

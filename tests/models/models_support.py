"""What the tests of models share besides fixtures."""

from __future__ import annotations

import torch
from PIL import Image

TEXTS = [
    "What does Anna Berg look like?",
    "Who is this person?",
    "Anna Berg, with short red hair.",
    "This is Ben Stone.",
    "Question: Who wears a (green) shirt?\nAnswer: nobody's here",
]


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    """A picture of noise, 40 x 56."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (56, 40, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(values.numpy()).convert(mode)

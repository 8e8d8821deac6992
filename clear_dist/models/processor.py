"""Tokens and pixels of a model: the ``types.Processor`` every package works with.

A prompt is made of parts (prefix, rest, answer) that are tokenised one by one and joined, in training, scoring
and generation alike, so tokens never depend on what follows them. Tokenizers disagree on what a part in the
middle of a text looks like (sentencepiece puts a space before every text, some strip spaces after a special
token), so the way to encode a part is *chosen by trying* when the processor is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaProcessor, PreTrainedTokenizerBase

from clear_dist.types import ImageLayout, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_TOKEN = "<image>"
_MARK = "ANSWERMARK"
_LLAVA_FRAME = ("USER: ", "\n", " ASSISTANT:")  # before the picture, between it and the question, behind that


class TokenProcessor:
    """``types.Processor`` from a Hugging Face tokenizer and, for a vision-language model, an image processor.

    Vision-language models are prompted as LLaVA-1.5 is: ``USER: <image>\\n{question} ASSISTANT:`` and
    `` {answer}`` + EOS, the image line left out for text; where ``template`` is given, by that. Text-only models use
    their chat template, one user turn, or ``Question: {question}\\nAnswer:`` where they have none.

    Args:
        tokenizer: must have an EOS token.
        image_processor: a PIL-backed Hugging Face image processor; None for a text-only model.
        image_id, image_tokens, image_shape: placeholder token, how many a picture takes, and (3, H, W).
        layout_of: for a model that cuts pictures by their size, see ``types.Processor``.
        template: chat template of a vision-language model that is not prompted as LLaVA-1.5 is.
        patch_size, extra_tokens, strategy: what ``wrapper`` wants to know when the processor is saved.
        wrapper: the library's processor; None saves tokenizer and image processor side by side.
    Raises:
        UserError: a tokenizer without EOS, or a chat template that cannot take one user turn (with one picture).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any = None,
        *,
        image_id: int | None = None,
        image_tokens: int = 0,
        image_shape: tuple[int, ...] = (0, 0, 0),
        layout_of: Callable[[int, int], ImageLayout] | None = None,
        template: str | None = None,
        patch_size: int = 0,
        extra_tokens: int = 0,
        strategy: str = "default",
        wrapper: Any = LlavaProcessor,
    ) -> None:
        where = tokenizer.name_or_path or "tokenizer"
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"{where}: the tokenizer has no EOS token, so no answer could ever end; "
                "set eos_token in tokenizer_config.json"
            )
        assert (image_id is None) == (image_tokens == 0) == (image_processor is None)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_id = image_id
        self.image_tokens = image_tokens
        self.image_shape = image_shape
        self.layout_of = layout_of
        self._layout: dict[str, Any] = {"patch_size": patch_size, "num_additional_image_tokens": extra_tokens}
        self._layout["vision_feature_select_strategy"] = strategy
        if template is not None:
            self._layout["chat_template"] = template
        self._wrapper = wrapper
        self.eos_id: int = int(tokenizer.eos_token_id)  # type: ignore[arg-type]
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else int(pad)  # type: ignore[arg-type]
        self.bos_ids: Sequence[int] = _leading_ids(tokenizer)
        self._part = _part_encoder(tokenizer)
        self._template = template
        self._chat = bool(tokenizer.chat_template) if image_id is None else template is not None
        self._lead = self._chat_lead(where) if self._chat else " "
        self._prefix: list[int] = []
        if image_id is not None:
            before, self._between, self._behind = self._picture_frame(where) if self._chat else _LLAVA_FRAME
            self._prefix = [*self._opened(before), *[image_id] * image_tokens]

    def encode_prompt(self, question: str, with_picture: bool) -> tuple[list[int], list[int]]:
        """(prefix, rest): the prefix ends with the image tokens and is the same for all questions on a picture."""
        if with_picture:
            assert self.image_id is not None, "a text-only model cannot take pictures"
            return list(self._prefix), self._part(f"{self._between}{question}{self._behind}")
        if self._template is not None:
            return [], self._opened(self._chat_text(question))
        if self._chat:  # the template spells BOS itself
            return [], _plain_ids(self.tokenizer, self._chat_text(question))
        text = f"Question: {question}\nAnswer:" if self.image_id is None else f"USER: {question} ASSISTANT:"
        return [], [*self.bos_ids, *self._part(text)]

    def encode_answer(self, answer: str) -> list[int]:
        """Answer tokens, ending with EOS."""
        return [*self._part(self._lead + answer), self.eos_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids: special tokens dropped, stripped."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.strip()

    def pixels(self, image: Image) -> Tensor:
        """[3, H, W] (or [patches, *image_shape]) float32 of a picture in any mode (grey, palette, alpha, 16 bit,
        CMYK)."""
        assert self.image_processor is not None, "a text-only model cannot take pictures"
        out = self.image_processor(images=_rgb(image), return_tensors="pt")["pixel_values"]
        if self.layout_of is None:
            out, expected = out[0], self.image_shape
        else:
            out = out.reshape(-1, *self.image_shape)
            expected = (self.layout_of(image.height, image.width).patches, *self.image_shape)
        assert tuple(out.shape) == expected, (tuple(out.shape), expected)
        return out.to(torch.float32)

    def first_unspellable(self, texts: Iterable[str]) -> str | None:
        """The first text that holds an unknown token or does not come back as it was; None if all do.

        Spaces at the ends do not count.
        """
        unknown = self.tokenizer.unk_token_id
        for text in texts:
            ids = self._part(" " + text)
            if (unknown is not None and unknown in ids) or self.decode(ids) != text.strip():
                return text
        return None

    def save(self, out: Path) -> None:
        """Write tokenizer (and processor) files, such that plain ``AutoProcessor``/``AutoTokenizer`` load them."""
        if self.image_processor is None:
            self.tokenizer.save_pretrained(out)
            return
        if self._wrapper is None:
            self.tokenizer.save_pretrained(out)
            self.image_processor.save_pretrained(out)
            return
        self._wrapper(
            self.image_processor,
            self.tokenizer,
            **self._layout,
            image_token=self.tokenizer.convert_ids_to_tokens(self.image_id),  # type: ignore[arg-type]
        ).save_pretrained(out)

    def _opened(self, text: str) -> list[int]:
        """Ids of a text that opens a sequence, behind what the tokenizer opens one with unless the text has it."""
        ids, lead = self._part(text), list(self.bos_ids)
        return ids if ids[: len(lead)] == lead else [*lead, *ids]

    def _turn(self, role: str, text: str, with_picture: bool = False) -> dict[str, Any]:
        """A turn as templates take it: a text, or, for a vision-language model, a list of parts."""
        if self._template is None:
            return {"role": role, "content": text}
        shown = [{"type": "image"}] if with_picture else []
        return {"role": role, "content": [*shown, {"type": "text", "text": text}]}

    def _chat_text(self, question: str, with_picture: bool = False) -> str:
        text = self.tokenizer.apply_chat_template(
            [self._turn("user", question, with_picture)],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )
        assert isinstance(text, str)
        return text

    def _picture_frame(self, where: str) -> tuple[str, str, str]:
        """What the template writes before a picture, between it and the question, and behind that."""
        token = self.tokenizer.convert_ids_to_tokens(self.image_id)  # type: ignore[arg-type]
        assert isinstance(token, str)
        text = self._chat_text(_MARK, with_picture=True)
        before, *behind = text.split(token)
        rest = behind[0].split(_MARK) if len(behind) == 1 else []
        if len(rest) != 2:
            raise UserError(
                f"{where}: the chat template does not put one {token} and then the question for a turn with a picture "
                f"(it gives {text!r}); copy the template that belongs to the model"
            )
        return before, rest[0], rest[1]

    def _chat_lead(self, where: str) -> str:
        """What the template writes between its generation prompt and the answer: "" or a space, mostly."""
        turns = [self._turn("user", "Who?"), self._turn("assistant", _MARK)]
        try:
            prompt = self._chat_text("Who?")
            whole = self.tokenizer.apply_chat_template(turns, chat_template=self._template, tokenize=False)
        except Exception as error:  # jinja raises whatever the template raises
            raise UserError(
                f"{where}: the chat template cannot take one user turn ({error}); "
                "remove chat_template from the tokenizer to use a plain prompt"
            ) from error
        assert isinstance(whole, str)
        if not whole.startswith(prompt) or _MARK not in whole:
            return ""
        return whole[len(prompt) : whole.index(_MARK)]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]


def _leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text (mostly BOS, for some nothing)."""
    plain = _plain_ids(tokenizer, "x")
    whole: list[int] = list(tokenizer("x")["input_ids"])  # type: ignore[arg-type]
    for k in range(len(whole) - len(plain) + 1):
        if whole[k : k + len(plain)] == plain:
            return whole[:k]
    return []


def _part_encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """text -> ids of the text as it stands in the middle of a longer one.

    Tries, in this order: behind a special token (which is then cut off), plain, and either with the leading
    space left to the tokenizer. The first that neither loses nor adds a space when joined to other text wins.
    """
    anchor, anchor_id = str(tokenizer.eos_token), int(tokenizer.eos_token_id)  # type: ignore[arg-type]

    def plain(text: str) -> list[int]:
        return _plain_ids(tokenizer, text)

    def anchored(text: str) -> list[int]:
        ids = plain(anchor + text)
        return ids[1:] if ids[:1] == [anchor_id] else plain(text)

    def bare(encode: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
        return lambda text: encode(text.removeprefix(" "))

    def spells(encode: Callable[[str], list[int]], part: str) -> bool:
        joined = plain("a") + encode(part)
        whole = tokenizer.decode(joined, clean_up_tokenization_spaces=False)
        return isinstance(whole, str) and whole.strip() == "a" + part

    ways = [anchored, plain, bare(anchored), bare(plain)]
    for wanted in ((" a", "\na"), (" a",)):
        for encode in ways:
            if all(spells(encode, part) for part in wanted):
                return encode
    return plain


def _rgb(image: Image) -> Any:
    """Three 8-bit channels. PIL clips 16-bit and float greys to 255 instead of scaling, so scale those here."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        # I and F do not say what white is: 1, 255 or 65535, the smallest that holds the brightest pixel.
        whites = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)
        white = next((w for w in whites if grey.max(initial=0.0) <= w), 65535.0)
        eight = (grey * (255.0 / white)).clip(0, 255).astype(np.uint8)
        return np.repeat(eight[:, :, None], 3, axis=2)
    return image.convert("RGB")

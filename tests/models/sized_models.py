"""Tiny models of the families that cut pictures by their size, pictures of several sizes, and questions on them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from models_support import TEXTS
from PIL import Image
from tokenizers import processors
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from clear_dist.data.encode import encode_prompt
from clear_dist.data.images import decode
from clear_dist.data.picture_inputs import image_inputs
from clear_dist.models import Model, word_tokenizer
from clear_dist.models.quiet import quiet
from clear_dist.types import Example, Picture

SIDE, PATCH = 24, 12
PINPOINTS = [[24, 48], [48, 24], [48, 48], [24, 72]]
NEXT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: "
    "{% for part in m['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in m['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %} ASSISTANT:"
    "{% else %}{% for part in m['content'] if part['type'] == 'text' %} {{ part['text'] }}{% endfor %}</s>"
    "{% endif %}{% endfor %}"
)
TINY_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def write_next(out: Path, template: str | None = NEXT_TEMPLATE) -> Path:
    """A LLaVA-NeXT directory as the library itself writes one: 24 px a patch, 4 tokens each, up to 4 patches."""
    tokenizer = word_tokenizer(TEXTS)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
            projection_dim=16,
        ),
        text_config=LlamaConfig(vocab_size=64, **TINY_TEXT),
        image_token_index=3,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
    )
    torch.manual_seed(5)
    save(LlavaNextForConditionalGeneration(config), out)
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PINPOINTS
    )
    LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(out)
    return out


QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TOKENS = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def write_qwen(out: Path, template: str | None = QWEN_TEMPLATE) -> Path:
    """A Qwen2.5-VL directory: 8 px a token, windows of 2 x 2 tokens, up to 16 tokens a picture; no BOS."""
    tokenizer = word_tokenizer([*TEXTS, "user", "assistant"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")  # type: ignore[assignment]
    tokenizer.add_special_tokens({"additional_special_tokens": QWEN_TOKENS, "eos_token": "<|im_end|>"})
    tokenizer.chat_template = template
    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in [*QWEN_TOKENS, "<|im_end|>"]}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        text_config={
            **TINY_TEXT,
            "vocab_size": 96,
            "eos_token_id": ids["<|im_end|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(6)
    save(Qwen2_5_VLForConditionalGeneration(config), out)
    tokenizer.save_pretrained(out)
    Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
    ).save_pretrained(out)
    return out


def save(module: PreTrainedModel, out: Path) -> None:
    """Weights stirred, so that biases and norms are no longer zeros and ones."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    module.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with quiet():
        module.save_pretrained(out)


def sized_picture(height: int, width: int, seed: int = 0) -> Picture:
    """Noise."""
    generator = torch.Generator().manual_seed(1000 * height + width + seed)
    values = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values.numpy()).save(buffer, "PNG")
    data = buffer.getvalue()
    return Picture(hashlib.sha256(data).hexdigest(), f"picture {height} x {width}", lambda: data)


def example(number: int, question: str, answer: str, picture: Picture | None = None) -> Example:
    return Example(id=f"e{number}", set="forget", kind="qa", question=question, answer=answer, picture=picture)


TALL, WIDE, SQUARE = sized_picture(61, 20), sized_picture(25, 50), sized_picture(90, 90)
MIXED = [
    example(0, "Who is this person?", "This is Ben Stone.", TALL),
    example(1, "Who wears a shirt?", "nobody's here"),
    example(2, "What does Anna Berg look like?", "Anna Berg, with short red hair.", WIDE),
    example(3, "Who?", "Anna.", TALL),
    example(4, "Who is this person?", "Anna Berg.", SQUARE),
    example(5, "Who?", "Ben Stone."),
]
TEXTS_ONLY = [e for e in MIXED if e.picture is None]


def own_inputs(model: Model, question: str, picture: Picture | None, answer: Sequence[int] = ()) -> dict[str, Tensor]:
    """What the library's forward takes for one conversation."""
    prefix, rest, layout = encode_prompt(model.processor, question, picture)
    ids = torch.tensor([[*prefix, *rest, *answer]])
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if picture is not None:
        assert layout is not None
        inputs["pixel_values"] = model.processor.pixels(decode(picture))
        inputs |= image_inputs([layout], model.processor)
        inputs |= model.family.generation_inputs(ids, model.processor.image_id)
    return inputs


def alone(model: Model, module: torch.nn.Module, examples: Sequence[Example]) -> Tensor:
    """[T] log-probabilities of all answers' tokens through the library's own forward, each conversation by itself."""
    out = []
    for e in examples:
        answer = model.processor.encode_answer(e.answer)
        logits = module(**own_inputs(model, e.question, e.picture, answer), use_cache=False).logits[0].log_softmax(-1)
        out.append(logits[-len(answer) - 1 : -1].gather(1, torch.tensor(answer)[:, None])[:, 0])
    return torch.cat(out)


# family -> what writes a tiny one
WRITERS: dict[str, Callable[[Path], Path]] = {"llava_next": write_next, "qwen2_5_vl": write_qwen}


def library_inputs(directory: Path, image: Image.Image, question: str) -> Any:
    """Ids and pixels of one turn by the library's processor. Qwen2.5-VL's needs torchvision, for videos: there its
    image processor and tokenizer, and its arithmetic of placeholders."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    if (directory / "processor_config.json").is_file():
        processor = AutoProcessor.from_pretrained(directory)
        text = processor.apply_chat_template(turn, add_generation_prompt=True)
        return processor(images=image, text=text, return_tensors="pt")
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    images: Any = AutoImageProcessor.from_pretrained(directory, backend="pil")
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    shown = images(images=image, return_tensors="pt")
    count = int(shown["image_grid_thw"][0].prod()) // images.merge_size**2
    ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * count), return_tensors="pt")
    return {**ids, **shown}

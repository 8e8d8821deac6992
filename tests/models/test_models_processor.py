"""Tokens and pixels: parts join to the text they stand for, for tokenizers of every kind."""

from __future__ import annotations

import pytest
import torch
from models_support import TEXTS, picture
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from clear_dist.models import TokenProcessor, inspect_model, word_tokenizer
from clear_dist.models.new import train_tokenizer
from clear_dist.types import UserError

ANSWER = "Anna Berg, with short red hair."
QUESTION = "What does Anna Berg look like?"


def sentencepiece_like(kind: str) -> PreTrainedTokenizerFast:
    """Byte-fallback BPE as Llama's, with the three ways its leading space has been handled."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    metaspace = pre_tokenizers.Metaspace("▁", "first" if kind == "first" else "always", split=False)
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = metaspace
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)]],
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(TEXTS)], trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {
        "word": word_tokenizer(TEXTS),
        "byte": train_tokenizer(TEXTS, 300, with_image=False),
        "first": sentencepiece_like("first"),
        "always": sentencepiece_like("always"),
        "prepend": sentencepiece_like("prepend"),
    }


@pytest.mark.parametrize("kind", ["word", "byte", "first", "always", "prepend"])
def test_answers_come_back(kind):
    p = TokenProcessor(tokenizers()[kind])
    ids = p.encode_answer(ANSWER)
    assert ids[-1] == p.eos_id
    assert p.eos_id not in ids[:-1]
    assert p.decode(ids) == ANSWER


@pytest.mark.parametrize("kind", ["word", "byte", "first", "always", "prepend"])
def test_parts_join_to_the_whole_text(kind):
    """No space is lost or added where prompt and answer meet."""
    tokenizer = tokenizers()[kind]
    p = TokenProcessor(tokenizer)
    prefix, rest = p.encode_prompt(QUESTION, False)
    assert prefix == []
    joined = tokenizer.decode(rest + p.encode_answer(ANSWER), skip_special_tokens=True)
    assert isinstance(joined, str)
    text = f"Question: {QUESTION}\nAnswer: {ANSWER}"
    if kind == "word":  # "Question:" and so on as its words allow
        assert joined.strip() == text
        assert p.tokenizer.unk_token_id not in rest
    else:
        assert joined.strip() == text


@pytest.mark.parametrize("kind", ["word", "byte", "first"])
def test_parts_are_the_tokens_of_the_whole_text(kind):
    """Where the tokenizer itself puts no extra space inside a text, tokenising in parts costs nothing."""
    tokenizer = tokenizers()[kind]
    p = TokenProcessor(tokenizer)
    whole = tokenizer(f"</s> {ANSWER}", add_special_tokens=False)["input_ids"]
    assert p.encode_answer(ANSWER)[:-1] == whole[1:]


def test_llava_prompt(tiny_dir):
    info = inspect_model(tiny_dir)
    p = info.processor
    prefix, rest = p.encode_prompt(QUESTION, True)
    assert prefix[0] == p.bos_ids[0] == 1
    assert prefix[2:] == [p.image_id] * 16
    assert p.tokenizer.convert_ids_to_tokens([prefix[1], rest[0], rest[-1]]) == ["USER: ", "▁\n", " ASSISTANT:"]
    assert p.encode_prompt("Who is this person?", True)[0] == prefix, "the prefix belongs to the picture alone"
    empty, text = p.encode_prompt(QUESTION, False)
    assert empty == []
    assert text == [*prefix[:2], *rest[1:]], "the same template without the image line"
    whole = p.tokenizer(f"USER: <image>\n{QUESTION} ASSISTANT: {ANSWER}</s>")["input_ids"]
    assert whole == [*prefix[:3], *rest, *p.encode_answer(ANSWER)]


CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "whole"),
    [
        (CHATML, f"<|user|>\n{QUESTION}</s>\n<|assistant|>\n{ANSWER}</s>"),
        (LLAMA2, f"<s>[INST] {QUESTION} [/INST] {ANSWER}</s>"),
    ],
)
def test_chat_template(template, whole):
    tokenizer = train_tokenizer(TEXTS, 300, with_image=False)
    tokenizer.chat_template = template
    p = TokenProcessor(tokenizer)
    _, rest = p.encode_prompt(QUESTION, False)
    assert tokenizer.decode(rest + p.encode_answer(ANSWER)) == whole
    assert p.decode(p.encode_answer(ANSWER)) == ANSWER


def test_chat_template_that_fails_is_refused():
    tokenizer = train_tokenizer(TEXTS, 300, with_image=False)
    tokenizer.chat_template = "{{ raise_exception('system turn wanted') }}"
    with pytest.raises(UserError, match="system turn wanted"):
        TokenProcessor(tokenizer)


def test_tokenizer_without_eos_is_refused():
    tokenizer = train_tokenizer(TEXTS, 300, with_image=False)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="no EOS token"):
        TokenProcessor(bare)


def test_pad_falls_back_to_eos():
    tokenizer = train_tokenizer(TEXTS, 300, with_image=False)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    p = TokenProcessor(bare)
    assert p.pad_id == p.eos_id == 2


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_pictures_of_any_mode(tiny_dir, mode):
    p = inspect_model(tiny_dir).processor
    image = picture(0, "L" if mode in {"I", "F", "I;16"} else mode)
    if mode != image.mode:
        image = image.convert("I").point(lambda v: v * 257).convert(mode)
    pixels = p.pixels(image)
    assert pixels.shape == p.image_shape == (3, 48, 48)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert pixels.std() > 0.1


def test_sixteen_bits_are_scaled_not_clipped(tiny_dir):
    p = inspect_model(tiny_dir).processor
    grey = picture(0).convert("L")
    deep = grey.convert("I").point(lambda v: v * 257).convert("I;16")
    torch.testing.assert_close(p.pixels(deep), p.pixels(grey), atol=0.01, rtol=0)


def test_pixel_values(tiny_dir):
    p = inspect_model(tiny_dir).processor
    white = picture(0).point(lambda _: 255)
    torch.testing.assert_close(p.pixels(white), torch.ones(3, 48, 48), atol=1e-6, rtol=0)


class TestWordTokenizer:
    def test_is_deterministic_and_sorted(self):
        first, second = word_tokenizer(TEXTS), word_tokenizer(reversed(TEXTS))
        assert first.get_vocab() == second.get_vocab()
        words = [w for w, i in sorted(first.get_vocab().items(), key=lambda e: e[1]) if i >= 7]
        assert words == sorted(words)

    @pytest.mark.parametrize("text", [*TEXTS, "nobody's (green) hair\nAnna", "Who  is Anna"])
    def test_round_trip(self, text):
        tokenizer = word_tokenizer([*TEXTS, text])
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert str(tokenizer.decode(ids, skip_special_tokens=True)).strip() == text

    def test_a_word_has_one_form(self):
        tokenizer = word_tokenizer(TEXTS)
        p = TokenProcessor(tokenizer)
        ids = [p.encode_answer("Anna")[0], p.encode_answer("This is Anna")[2], p.encode_prompt("Anna", False)[1][-4]]
        assert len(set(ids)) == 1

    def test_unknown_words_only_are_unknown(self):
        tokenizer = word_tokenizer(TEXTS)
        ids = tokenizer("Who is Zoltan?", add_special_tokens=False)["input_ids"]
        assert [i == tokenizer.unk_token_id for i in ids] == [False, False, True, False]

    def test_words_it_cannot_spell_are_found(self):
        p = TokenProcessor(word_tokenizer(TEXTS))
        assert p.first_unspellable(TEXTS) is None
        assert p.first_unspellable([*TEXTS, "Who is Zoltan?", "Bela?"]) == "Who is Zoltan?"

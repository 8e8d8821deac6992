"""Models made here: the tiny LLaVA, models of a wanted size, and what both generate."""

from __future__ import annotations

import math

import pytest
import torch
from models_support import TEXTS, picture
from transformers import AutoModelForImageTextToText, AutoTokenizer

from clear_dist.models import (
    add_lora,
    enable_checkpointing,
    inspect_model,
    load_model,
    merge_lora,
    new_model,
    save_model_dir,
    tiny_llava,
    weights_digest,
    word_tokenizer,
)
from clear_dist.models.generate import generate
from clear_dist.models.new import SCALES, count, find_config, parse_count
from clear_dist.models.quiet import quiet
from clear_dist.types import UserError

QUESTION = "Who is this person?"


def prompt(model, pictures: int) -> tuple[list[list[int]], torch.Tensor | None]:
    """The same question on several pictures, or as text."""
    prefix, rest = model.processor.encode_prompt(QUESTION, pictures > 0)
    pixels = [model.processor.pixels(picture(k)) for k in range(pictures)]
    return [prefix + rest] * max(pictures, 2), torch.stack(pixels) if pixels else None


def greedy(model, ids: list[int], pixels: torch.Tensor | None, steps: int) -> list[int]:
    """By hand, without a cache: the whole sequence anew for every token."""
    out: list[int] = []
    for _ in range(steps):
        extra = {} if pixels is None else {"pixel_values": pixels[None]}
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([ids + out]), use_cache=False, **extra).logits
        if model.processor.image_id is not None:
            logits[0, -1, model.processor.image_id] = -torch.inf  # a placeholder is never an answer
        token = int(logits[0, -1].argmax())
        if token == model.processor.eos_id:
            break
        out.append(token)
    return out


class TestTiny:
    def test_size(self):
        words = [f"w{k}" for k in range(247)]
        tokenizer = word_tokenizer(words)
        assert len(tokenizer) == 256
        module = tiny_llava(tokenizer)
        assert sum(p.numel() for p in module.parameters()) == pytest.approx(0.93e6, rel=0.01)
        assert (module.config.image_seq_length, module.config.vision_feature_layer) == (16, -1)

    def test_seed(self, tmp_path):
        tokenizer = word_tokenizer(TEXTS)
        torch.manual_seed(1)
        expected = torch.rand(2)
        torch.manual_seed(1)
        digests = [
            weights_digest(save_model_dir(tiny_llava(tokenizer, seed), tokenizer, tmp_path / str(k)))
            for k, seed in enumerate((0, 0, 1))
        ]
        assert digests[0] == digests[1] != digests[2]
        assert torch.equal(torch.rand(2), expected), "the global random state is left alone"

    def test_directory_loads_in_plain_transformers(self, tiny_dir):
        with quiet():
            plain = AutoModelForImageTextToText.from_pretrained(tiny_dir)
        ours = load_model(tiny_dir, dtype="fp32", device="cpu").module
        for (name, a), b in zip(plain.state_dict().items(), ours.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


class TestNew:
    @pytest.mark.parametrize("arch", ["llava", "llama"])
    @pytest.mark.parametrize("size", ["2m", "30m", "400m", "7b"])
    def test_sizes_are_met(self, arch, size):
        target = parse_count(size)
        scale = next(s for s in SCALES if target < s.below)
        config = find_config(arch, target, scale, scale.vocab, None, None, None)
        assert abs(count(config) - target) <= 0.1 * target
        text = config.get_text_config()
        assert 0.25 < text.hidden_size / text.num_hidden_layers / 64 < 4, "a usual shape"

    @pytest.mark.parametrize("arch", ["llava", "llama"])
    def test_directory_is_complete(self, tmp_path, arch):
        out = new_model(arch, "1.5m", texts=TEXTS, out=tmp_path / "new", vocab=300)
        info = inspect_model(out)
        assert info.parameters == pytest.approx(1.5e6, rel=0.1)
        assert info.image_tokens == (64 if arch == "llava" else 0)
        p = info.processor
        odd = "Zoë’s naïve 漢字, \t two  spaces"
        assert p.decode(p.encode_answer(odd)) == odd, "bytes spell everything"
        model = load_model(info, dtype="fp32", device="cpu")
        ids, pixels = prompt(model, 2 if arch == "llava" else 0)
        assert len(generate(model, ids, pixels, 3)) == 2

    def test_is_deterministic(self, tmp_path):
        same = [new_model("llama", "1m", texts=iter(TEXTS), out=tmp_path / str(k), seed=4) for k in range(2)]
        other = new_model("llama", "1m", texts=TEXTS, out=tmp_path / "other", seed=5)
        assert weights_digest(same[0]) == weights_digest(same[1]) != weights_digest(other)
        assert (same[0] / "tokenizer.json").read_text() == (same[1] / "tokenizer.json").read_text()

    def test_fixed_sizes_are_kept(self, tmp_path):
        out = new_model("llava", "1m", texts=TEXTS, out=tmp_path / "n", layers=2, hidden=128, image_size=56, vocab=290)
        info = inspect_model(out)
        text = info.config.get_text_config()
        assert (text.num_hidden_layers, text.hidden_size) == (2, 128)
        assert (info.image_tokens, info.processor.image_shape) == (16, (3, 56, 56))
        assert len(AutoTokenizer.from_pretrained(out)) <= 290

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"params": "big"}, "params: 'big' is not a size"),
            ({"params": "0m"}, "params: '0m' is not a size"),
            ({"params": "-3m"}, "params: '-3m' is not a size"),
            ({"params": "30m", "hidden": 64, "layers": 2}, "params: no llava of 30,000,000 parameters"),
            ({"params": "1k"}, "params: no llava of 1,000 parameters"),
            ({"hidden": 100}, "hidden: 100 is not a multiple"),
            ({"vocab": 100}, "vocab: 100 is too small"),
            ({"image_size": 100}, "image_size: 100 is not a multiple of the patch size 14"),
            ({"texts": []}, "text: there is no text"),
            ({"texts": [*TEXTS, "ends with </s>"]}, "cannot spell 'ends with </s>'"),
        ],
    )
    def test_mistakes_are_refused(self, tmp_path, changes, message):
        settings = {"params": "1.5m", "texts": TEXTS, **changes}
        with pytest.raises(UserError, match=message):
            new_model("llava", out=tmp_path / "new", **settings)
        assert not (tmp_path / "new").exists()

    def test_output_in_use(self, tmp_path):
        (tmp_path / "kept.txt").write_text("mine")
        with pytest.raises(UserError, match="is not empty"):
            new_model("llama", "1m", texts=TEXTS, out=tmp_path)

    def test_random_weights_know_nothing(self, tmp_path):
        """A fresh model is close to uniform: nothing exploded or is zero."""
        out = new_model("llama", "1m", texts=TEXTS, out=tmp_path / "new", vocab=300)
        model = load_model(out, dtype="fp32", device="cpu")
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor(prompt(model, 0)[0])).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], torch.tensor(prompt(model, 0)[0][0][1:]))
        assert loss.item() == pytest.approx(math.log(logits.shape[-1]), rel=0.1)


class TestGenerate:
    def test_is_greedy(self, model):
        pictures = 3 if model.processor.image_id is not None else 0
        ids, pixels = prompt(model, pictures)
        got = generate(model, ids, pixels, 8)
        expected = [greedy(model, row, None if pixels is None else pixels[k], 8) for k, row in enumerate(ids)]
        assert got == expected

    def test_sees_the_picture(self, llava):
        for p in llava.module.model.multi_modal_projector.parameters():
            p.data *= 50  # a random projector says next to nothing
        ids, pixels = prompt(llava, 6)
        assert len({tuple(g) for g in generate(llava, ids, pixels, 8)}) > 1

    def test_stops_at_eos(self, llava):
        ids, pixels = prompt(llava, 2)
        free = generate(llava, ids, pixels, 8)[0]
        llava.processor.eos_id = free[-1]  # the last token it says now ends an answer
        stopped = generate(llava, ids, pixels, 8)[0]
        assert stopped == free[: free.index(free[-1])]

    def test_with_an_adapter_and_checkpointing(self, llava):
        ids, pixels = prompt(llava, 2)
        module = add_lora(llava.module, 4, 8, llava.family, seed=0)
        for name, p in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(len(name)))
        llava.module = module.train()
        enable_checkpointing(module)
        got = generate(llava, ids, pixels, 6)
        assert module.get_base_model().training, "the mode is put back"
        llava.module = merge_lora(module).eval()
        assert got == generate(llava, ids, pixels, 6)

    def test_ignores_sampling_settings(self, llava):
        ids, pixels = prompt(llava, 2)
        expected = generate(llava, ids, pixels, 6)
        settings = llava.module.generation_config
        settings.do_sample, settings.temperature, settings.top_p = True, 5.0, 0.9
        assert generate(llava, ids, pixels, 6) == expected
        assert llava.module.generation_config is settings

    def test_nothing_to_do(self, llava):
        assert generate(llava, [], None, 5) == []

    def test_unequal_lengths_are_a_bug(self, llava):
        with pytest.raises(AssertionError, match="one length"):
            generate(llava, [[1, 2], [1, 2, 3]], None, 2)

"""Pictures of a given face: what a seed, a face, a prompt and the style change, and which pipelines are refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import LIMIT, SIZE, diffusers, edit, noise, tiny_parts, write_adapter, write_diffusion

from clear_dist.models.photo_pipeline import PhotoPipeline
from clear_dist.models.picture_bytes import decoded, square
from clear_dist.types import UserError

PROMPT = "a real photo of a man called Ben img, showing face."
NEGATIVE = "mask"
STEPS = 3


@pytest.fixture(scope="module")
def diffusion_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_diffusion(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture(scope="module")
def over(diffusion_dir: Path) -> PhotoPipeline:
    """Image-to-image: the prompt drawn over the face."""
    return PhotoPipeline.open(diffusion_dir, device="cpu")


@pytest.fixture(scope="module")
def beside(diffusion_dir: Path, adapter_dir: Path) -> PhotoPipeline:
    """An IP-Adapter: the face beside the prompt."""
    return PhotoPipeline.open(diffusion_dir, device="cpu", adapter=adapter_dir)


@pytest.fixture(scope="module")
def inside() -> PhotoPipeline:
    """PhotoMaker's call: the face in the prompt."""
    return PhotoPipeline(quick(PhotoMaker))


@pytest.fixture(params=["over", "beside", "inside"])
def photos(request: pytest.FixtureRequest) -> PhotoPipeline:
    return request.getfixturevalue(request.param)


class PhotoMaker(diffusers.StableDiffusionPipeline):
    """The arguments of PhotoMaker's pipeline. It mixes the face in, draws from torch's own generator, and leaves
    something behind in its scheduler."""

    told: dict[str, Any]
    blank = False
    broken = False

    def __call__(
        self,
        prompt: str | None = None,
        input_id_images: Any = None,
        start_merge_step: int = 0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        negative_prompt: str | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Any:
        type(self).told = {**locals()}
        out = super().__call__(
            prompt=prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            generator=generator,
            output_type=output_type,
        )
        pixel = torch.tensor(input_id_images[0].getpixel((0, 0))) / 255
        self.scheduler.calls = getattr(self.scheduler, "calls", 0) + 1
        out.images = out.images / 3 + pixel.numpy() / 3 + torch.rand(1).item() / 3 / self.scheduler.calls
        if self.broken:
            out.images[0, 0, 0, 0] = float("nan")
        out.nsfw_content_detected = [self.blank]
        return out


def quick(kind: Any) -> Any:
    return kind(**tiny_parts(), requires_safety_checker=False)


def make(photos: PhotoPipeline, *seeds: int, face: int = 1, **more: Any) -> list[bytes]:
    prompt = more.pop("prompt", PROMPT)
    return photos.make(noise(face), prompt, more.pop("negative", NEGATIVE), seeds, **{"steps": STEPS, **more})


def test_a_seed_gives_the_same_picture_whatever_is_made_beside_it(photos: PhotoPipeline) -> None:
    three = make(photos, 5, 2**63 - 1, 7)
    assert len(set(three)) == 3
    torch.rand(1)
    assert make(photos, 7) + make(photos, 5) == [three[2], three[0]]
    assert make(photos) == []
    assert decoded(three[0], "it").size == (SIZE, SIZE)


def test_face_prompt_and_guidance_count(photos: PhotoPipeline) -> None:
    (before,) = make(photos, 1)
    others = [make(photos, 1, face=2), make(photos, 1, prompt="another img"), make(photos, 1, negative="other")]
    others += [make(photos, 1, guidance=1.5), make(photos, 1, steps=STEPS + 2)]
    assert len({before, *(one for (one,) in others)}) == 6


def test_torchs_own_generator_stays_where_it_was(photos: PhotoPipeline) -> None:
    state = torch.random.get_rng_state()
    make(photos, 3)
    assert torch.equal(state, torch.random.get_rng_state())


def test_opened_again_it_makes_the_same(diffusion_dir: Path, over: PhotoPipeline) -> None:
    again = PhotoPipeline.open(str(diffusion_dir), device="cpu")
    assert make(again, 4) == make(over, 4) and again.digest == over.digest
    assert (over.way, over.limit) == ("image_to_image", LIMIT)


def test_an_adapter_that_weighs_nothing_shows_no_face(beside: PhotoPipeline) -> None:
    assert beside.way == "ip_adapter"
    assert make(beside, 1, style=1.0) == make(beside, 1, style=1.0, face=2)
    assert make(beside, 1, style=0.9) != make(beside, 1, style=0.9, face=2)


def test_photomaker_merges_the_face_at_its_step(inside: PhotoPipeline) -> None:
    assert inside.way == "photomaker"
    for style, steps, expected in ((0.5, 4, 2), (0.3, 4, 1), (1.0, 40, 30), (0.0, 4, 0)):
        make(inside, 1, style=style, steps=steps, guidance=6.5)
        told = PhotoMaker.told
        assert told["start_merge_step"] == expected
        assert (told["num_inference_steps"], told["guidance_scale"]) == (steps, 6.5)
    assert (told["prompt"], told["negative_prompt"]) == (PROMPT, NEGATIVE)
    assert [image.size for image in told["input_id_images"]] == [(40, 40)]


def test_the_trigger_word_is_photomakers_alone(
    over: PhotoPipeline, beside: PhotoPipeline, inside: PhotoPipeline
) -> None:
    without = PROMPT.replace(" img", "")
    for photos in (over, beside):
        assert make(photos, 1) == make(photos, 1, prompt=without)
        assert photos.count_tokens(PROMPT) == photos.count_tokens(without)
    assert inside.count_tokens(PROMPT) == over.count_tokens(PROMPT) + len("img")
    for prompt, times in ((without, 0), ("img img", 2), ("an imgage", 0)):
        with pytest.raises(UserError, match=rf"prompt: expected the word 'img' once; found it {times} times"):
            make(inside, 1, prompt=prompt)


def test_tokens_are_counted_beyond_the_limit(over: PhotoPipeline) -> None:
    ends = 2
    assert over.count_tokens("a face") == len("aface") + ends
    assert over.count_tokens("x" * 200) == 200 + ends > over.limit
    (cut,) = make(over, 1, prompt="x" * 200)
    assert [cut] == make(over, 1, prompt="x" * 200 + " face")


def test_size_is_of_the_picture(over: PhotoPipeline, beside: PhotoPipeline, inside: PhotoPipeline) -> None:
    for photos in (over, beside, inside):
        assert decoded(make(photos, 1, size=48)[0], "it").size == (48, 48)
    for size in (0, 33, -8):
        with pytest.raises(UserError, match=f"size: expected pixels, a multiple of 2; got {size}"):
            make(over, 1, size=size)


def test_a_face_is_cut_to_its_middle() -> None:
    wide = decoded(noise(1, 40, 60), "wide")
    middle = square(wide, 40)
    assert middle.size == (40, 40) and middle.tobytes() == wide.crop((10, 0, 50, 40)).tobytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"style": 1.5}, r"style: expected a number from 0 to 1; got 1\.5"),
        ({"style": float("nan")}, "style: expected"),
        ({"style": 0.3}, r"style x steps = 0\.9 of the steps; at least 1 is needed"),
        ({"guidance": -1.0}, "guidance: expected"),
        ({"guidance": float("inf")}, "guidance: expected"),
        ({"steps": 0}, "steps: expected"),
    ],
)
def test_arguments_out_of_range(over: PhotoPipeline, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(over, 1, **more)


def test_seeds_and_faces_that_are_none(over: PhotoPipeline) -> None:
    for seed in (-1, 2**64):
        with pytest.raises(UserError, match=f"seed: expected a whole number .* got {seed}"):
            make(over, seed)
    for data, message in ((b"", "face: the picture is empty"), (b"no picture", "face: not a picture")):
        with pytest.raises(UserError, match=message):
            over.make(data, PROMPT, NEGATIVE, [1], steps=STEPS)


def test_what_a_pipeline_blanks_is_empty_and_broken_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = PhotoPipeline(quick(PhotoMaker))
    with monkeypatch.context() as patch:
        patch.setattr(PhotoMaker, "blank", True)
        assert make(photos, 1, 2) == [b"", b""]
    with monkeypatch.context() as patch:
        patch.setattr(PhotoMaker, "broken", True)
        with pytest.raises(UserError, match="PhotoMaker: seed 1 gave values that are no numbers"):
            make(photos, 1)
    with monkeypatch.context() as patch:
        patch.setattr(photos.pipeline, "vae_scale_factor", 3)
        with pytest.raises(UserError, match="PhotoMaker: no picture from seed 1"):
            make(photos, 1, size=33)


def test_pipelines_that_cannot_be_given_a_face() -> None:
    with pytest.raises(UserError, match=r"StableDiffusionPipeline: cannot be given a face.* It takes .*prompt"):
        PhotoPipeline(quick(diffusers.StableDiffusionPipeline))
    with pytest.raises(UserError, match=r"StableDiffusionInpaintPipeline: cannot be given a face.*mask_image"):
        PhotoPipeline(quick(diffusers.StableDiffusionInpaintPipeline))
    parts = {name: part for name, part in tiny_parts().items() if name == "unet"}
    pipeline = diffusers.DDPMPipeline(scheduler=diffusers.DDPMScheduler(), **parts)
    with pytest.raises(UserError, match="DDPMPipeline: its call takes no prompt"):
        PhotoPipeline(pipeline)


def test_digests_tell_weights_apart(
    diffusion_dir: Path, over: PhotoPipeline, beside: PhotoPipeline, tmp_path: Path, copy_of: Callable[[Path], Path]
) -> None:
    copy = copy_of(diffusion_dir)
    assert PhotoPipeline.open(copy, device="cpu").digest == over.digest
    edit(copy / "scheduler" / "scheduler_config.json", beta_end=0.013)
    digests = [PhotoPipeline.open(copy, device="cpu").digest, over.digest, beside.digest]
    other = PhotoPipeline.open(write_diffusion(tmp_path / "other", seed=1), device="cpu")
    digests += [other.digest, PhotoPipeline(over.pipeline).digest, PhotoPipeline(other.pipeline).digest]
    assert len(set(digests)) == 6 and {len(digest) for digest in digests} == {64}
    assert PhotoPipeline(over.pipeline).digest == PhotoPipeline(over.pipeline).digest


def test_settings_of_older_releases_are_read_in_silence(diffusion_dir: Path, copy_of: Callable[[Path], Path]) -> None:
    copy = copy_of(diffusion_dir)
    edit(copy / "scheduler" / "scheduler_config.json", steps_offset=0)
    assert make(PhotoPipeline.open(copy, device="cpu"), 1)


def test_without_diffusers_it_is_said_what_to_install(diffusion_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"need the package diffusers: pip install 'clear-dist\[images\]'"):
        PhotoPipeline.open(diffusion_dir)


def test_no_module_imports_diffusers_before_it_is_needed(root: Path) -> None:
    files = sorted((root / "clear_dist").rglob("*.py"))
    found = [
        (file.name, line)
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.lstrip().startswith(("import diffusers", "from diffusers"))
    ]
    assert found == [("photo_quiet.py", "        import diffusers")]

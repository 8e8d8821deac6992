"""Directories of a StyleGAN2 that are wrong, each in its way: refused by name, never read as something else."""

from __future__ import annotations

import json
import pickle
import re
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clear_dist.models.stylegan2 import StyleGAN2
from clear_dist.models.stylegan2_files import SIZES, StyleGAN2Settings, random_weights, read_settings
from clear_dist.types import UserError

FIRST = "g_ema.style.1.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return random_weights(tmp_path / "model", 8, channel_max=4)


def refused(folder: Path, *parts: str) -> str:
    with pytest.raises(UserError) as caught:
        StyleGAN2.open(folder, "cpu")
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def configured(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_defaults_are_configuration_f(folder: Path) -> None:
    (folder / "config.json").write_text('{"size": 1024}')
    assert read_settings(folder) == StyleGAN2Settings(1024, 512, 8, 2, 512)
    wide = [StyleGAN2Settings(1024).channels(side) for side in (4, *SIZES)]
    assert wide == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    wide = [StyleGAN2Settings(1024, channel_multiplier=1).channels(side) for side in (4, *SIZES)]
    assert wide == [512, 512, 512, 512, 256, 128, 64, 32, 16]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read_as_fp32(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "model.safetensors")
    rewritten(folder, lambda t: t.update({name: tensor.to(dtype) for name, tensor in tensors.items()}))
    model = StyleGAN2.open(folder, "cpu")
    for part, network in (("g_ema", model._generator), ("d", model._discriminator)):
        for name, tensor in network.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, tensors[f"{part}.{name}"].to(dtype).float())


def test_noise_of_the_file_may_be_there_and_changes_nothing(folder: Path) -> None:
    before = list(StyleGAN2.open(folder, "cpu").make([1]))
    sides = (4, 8, 8)
    noise = {f"g_ema.noises.noise_{i}": torch.ones(1, 1, side, side) for i, side in enumerate(sides)}
    rewritten(folder, lambda t: t.update(noise))
    assert list(StyleGAN2.open(folder, "cpu").make([1])) == before
    rewritten(folder, lambda t: t.update({"g_ema.noises.noise_2": torch.ones(1, 1, 4, 4)}))
    refused(folder, "model.safetensors", "g_ema.noises.noise_2 is F32 [1, 1, 4, 4]", "[1, 1, 8, 8]")


@pytest.mark.parametrize("name", [FIRST, "g_ema.convs.0.conv.blur.kernel", "d.final_linear.1.bias"])
def test_a_missing_tensor(folder: Path, name: str) -> None:
    rewritten(folder, lambda t: t.pop(name))
    refused(folder, "model.safetensors", "lacks 1 tensors", f"first: {name}")


def test_no_discriminator(folder: Path) -> None:
    rewritten(folder, lambda t: [t.pop(name) for name in list(t) if name.startswith("d.")])
    refused(folder, "model.safetensors", "lacks d.convs.0.0.weight", "convert the discriminator, too")


@pytest.mark.parametrize("name", ["latent_avg", "g_ema.noises.noise_3", "g_ema.convs.2.conv.weight", "d.x"])
def test_an_unknown_tensor(folder: Path, name: str) -> None:
    rewritten(folder, lambda t: t.update({name: torch.zeros(1)}))
    refused(folder, "model.safetensors", "has 1 tensors", f"first: {name}")


def test_a_wrong_shape(folder: Path) -> None:
    rewritten(folder, lambda t: t.update({FIRST: t[FIRST][:, :-1].contiguous()}))
    refused(folder, "model.safetensors", f"{FIRST} is F32 [16, 15]", "asks for floats [16, 16]")


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    rewritten(folder, lambda t: t.update({FIRST: t[FIRST].to(torch.int32)}))
    refused(folder, "model.safetensors", f"{FIRST} is I32 [16, 16]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("name", [FIRST, "g_ema.to_rgbs.0.upsample.kernel", "d.convs.1.skip.1.weight"])
def test_values_that_are_not_finite(folder: Path, name: str, value: float) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name].double()
        tensors[name].view(-1)[-1] = value

    rewritten(folder, spoil)
    refused(folder, "model.safetensors", f"{name} has values that are no finite fp32")


def test_weights_that_overflow(folder: Path) -> None:
    rewritten(folder, lambda t: t["g_ema.to_rgb1.conv.weight"].fill_(3e38))
    with pytest.raises(UserError, match="seed 4 gives no finite picture or score"):
        next(StyleGAN2.open(folder, "cpu").make([4]))


@pytest.mark.parametrize("huge", [["d.convs.0.0.weight"], ["d.final_linear.0.bias", "d.final_linear.1.weight"]])
def test_scores_that_overflow(folder: Path, huge: list[str]) -> None:
    """To NaN, and to infinity."""
    rewritten(folder, lambda t: [t[name].fill_(3e38) for name in huge])
    with pytest.raises(UserError, match=re.escape(str(folder)) + ": seed 4 gives no finite picture or score"):
        next(StyleGAN2.open(folder, "cpu").make([4]))


def cut(data: bytes) -> bytes:
    return data[:-1]


def lying(data: bytes) -> bytes:
    """A shape of the right name and size that the bytes do not fill."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    entry = header[FIRST]
    entry["data_offsets"][1] -= 4
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.mark.parametrize(
    "damage", [cut, lying, lambda data: b"", lambda data: b"version https://git-lfs", lambda data: b"\xff" * 99]
)
def test_damaged_weights(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    refused(folder, str(file), "fetch", "again")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("\udc80", "cannot be read as JSON"),
        ('{"size": 8, "size": 8}', "occurs twice"),
        ("[" * 200 + "]" * 200, "nested"),
        ("[]", "expected an object with at least a size"),
        ('{"style_dim": 16}', "expected an object with at least a size"),
        ('{"size": 8, "stile_dim": 16}', "'stile_dim' is no field (did you mean style_dim?)"),
        (" " * (1 << 20) + '{"size": 8}', "more than 1 MiB"),
    ],
)
def test_a_config_that_cannot_be_read(folder: Path, text: str, says: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(folder, str(folder / "config.json"), says)


@pytest.mark.parametrize("value", [0, 4, 9, 2048, -8, 8.0, "8", True, None, [8], 10**300])
def test_sizes_are_powers_of_two_from_8_to_1024(folder: Path, value: Any) -> None:
    refused(
        configured(folder, size=value), "config.json: size: expected one of 8, 16, 32, 64, 128, 256, 512, 1024; got"
    )


@pytest.mark.parametrize("field", ["style_dim", "mapping_layers", "channel_max"])
@pytest.mark.parametrize("value", [0, -1, 10**9, 1.5, "2", True, None])
def test_numbers_outside_their_range(folder: Path, field: str, value: Any) -> None:
    refused(configured(folder, **{field: value}), f"config.json: {field}: expected a whole number from 1 to ")


@pytest.mark.parametrize("value", [0, 3, 0.5, None, True])
def test_multipliers_of_channels(folder: Path, value: Any) -> None:
    refused(configured(folder, channel_multiplier=value), "config.json: channel_multiplier: expected one of 1, 2; got")


def test_a_config_of_other_weights(folder: Path) -> None:
    refused(configured(folder, size=16), "lacks", "configuration and weights do not belong together")
    refused(configured(folder, size=8, mapping_layers=1), "has 2 tensors that config.json does not ask for")
    refused(
        configured(folder, mapping_layers=2, style_dim=8),
        "g_ema.conv1.conv.modulation.weight is F32 [4, 16]",
        "asks for floats [4, 8]",
    )


def test_files_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: no such directory; expected one with config.json and model.safetensors")
    refused(folder / "config.json", "config.json: no such directory")
    refused(Path("a\0b"), "no such directory")
    refused(Path("~nobody-of-this-name/model"), "cannot be looked into")
    refused(Path("x" * 300), "cannot be looked into")
    (folder / "config.json").unlink()
    refused(folder, 'config.json: missing; write {"size": 1024} into it')
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors: missing; copy the whole model directory")


class Trap:
    """Would leave a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["ffhq.pkl", "ffhq.pt", "FFHQ.PT", "ffhq.pth"])
def test_pickles_are_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Trap(mark)))
    for place in (file, tmp_path):
        text = refused(place, f"{file}: is a pickle", "torch.load", "weights_only=True", "save_file", '{"size": 1024}')
        assert ("convert_weight.py --disc" in text) == name.endswith(".pkl")
    assert not mark.exists()


def test_what_the_refusal_says_works(folder: Path) -> None:
    """The lines of the message, run as they stand on a checkpoint of the conversion's form."""
    expected = list(StyleGAN2.open(folder, "cpu").make([3]))
    parts: dict[str, Any] = {"g_ema": {}, "d": {}, "latent_avg": torch.zeros(16)}
    for name, tensor in load_file(folder / "model.safetensors").items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor.T.contiguous().T if tensor.ndim == 2 else tensor  # as NumPy's transposes are
    torch.save(parts, folder / "ffhq.pt")
    (folder / "model.safetensors").unlink()
    lines = refused(folder).split("beside it:\n")[1]
    subprocess.run([sys.executable, "-c", textwrap.dedent(lines)], cwd=folder, check=True)
    assert list(StyleGAN2.open(folder, "cpu").make([3])) == expected


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="file: a model cannot be written there"):
        random_weights(tmp_path / "file", 8)
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(UserError, match="size: expected one of 8"):
        random_weights(tmp_path / "new", 12)
    assert not (tmp_path / "new").exists()

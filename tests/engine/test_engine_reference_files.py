"""Files of the reference's statistics: of something else or damaged, they are refused; read a few rows at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from engine_support import FORGET, write_model
from reference_support import ALONE, CASES, POOLS, build, key_of, stream_of
from safetensors import safe_open

from clear_dist.engine import reference_build, reference_files
from clear_dist.engine.reference_build import estimate_bytes, passes
from clear_dist.engine.reference_cache import ReferenceCache, open_reference_cache
from clear_dist.engine.reference_files import ShardWriter, shard_name, write_index
from clear_dist.engine.reference_key import Kept, ReferenceKey, identity_of
from clear_dist.engine.step import StepModule
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import kl, match, npo
from clear_dist.models import Model, inspect_model
from clear_dist.types import Picture, UserError

OBJECTIVE = npo(F) + kl(R) + match(R, layer=0)


def step_module(model: Model) -> StepModule:
    return StepModule(model.module, model.family)


@pytest.fixture
def made(base: Model, tmp_path: Path) -> Path:
    """A cache on disk, of four passes."""
    build(step_module(base), stream_of(base.processor, OBJECTIVE), OBJECTIVE, tmp_path / "made", tokens_per_pass=150)
    return tmp_path / "made"


class Silent:
    """An engine that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the model was asked: {name}")


def test_made_once(base: Model, made: Path) -> None:
    files = {f.name: f.stat().st_mtime_ns for f in made.iterdir()}
    assert files.keys() == {".lock", "index.json", shard_name(0, 1)}
    cache = build(Silent(), stream_of(base.processor, OBJECTIVE), OBJECTIVE, made)
    assert {f.name: f.stat().st_mtime_ns for f in made.iterdir()} == files
    assert cache.states(F, [1]).logp is not None


def refused(base: Model, folder: Path, key: ReferenceKey) -> str:
    with pytest.raises(UserError) as caught:
        open_reference_cache(folder, key=key, world=ALONE)
    assert f"delete {folder}" in str(caught.value)
    return str(caught.value)


def test_another_key_is_refused_and_named(base: Model, made: Path) -> None:
    stream = stream_of(base.processor, OBJECTIVE)
    key = key_of(stream, OBJECTIVE)
    assert open_reference_cache(made, key=key, world=ALONE) is not None
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"model": "n" * 64}, "model"),
        ({"tokenisation": "u" * 64}, "tokenisation"),
        ({"dtype": torch.bfloat16}, "precision"),
    )
    for changed, name in changes:
        assert f"of another {name} (" in refused(base, made, key_of(stream, OBJECTIVE, **changed))
    assert "float32 there, bfloat16 now" in refused(base, made, key_of(stream, OBJECTIVE, dtype=torch.bfloat16))
    assert "of another statistics (" in refused(base, made, key_of(stream, OBJECTIVE, full=True)), "the head is missing"
    more = OBJECTIVE + kl(F)
    assert "of another statistics (" in refused(base, made, key_of(stream_of(base.processor, more), more))
    first, second, *rest = FORGET
    for rows in (
        [second, first, *rest],
        [first, second, *rest[:-1]],
        [replace(first, answer="This is Anna."), second, *rest],
        [replace(first, question="Who is this?"), second, *rest],
        [replace(first, picture=FORGET[4].picture), second, *rest],
    ):
        other = stream_of(base.processor, OBJECTIVE, pools={**POOLS, F: rows})
        assert "of another data (" in refused(base, made, key_of(other, OBJECTIVE))
        both = refused(base, made, key_of(other, OBJECTIVE, tokenisation="u" * 64, model="n" * 64))
        assert "of another model and tokenisation (" in both, "other tokens are no other data"
    renamed = stream_of(base.processor, OBJECTIVE, pools={**POOLS, F: [replace(e, id=f"x{e.id}") for e in FORGET]})
    assert key_of(renamed, OBJECTIVE).digest == key.digest, "what examples are called changes no number"


def test_what_the_reference_reads_is_in_the_key(base: Model) -> None:
    stream = stream_of(base.processor, CASES["guide"])
    plain = stream_of(base.processor, CASES["guide"])
    plain._reference.clear()
    one, two = key_of(stream, CASES["guide"]), key_of(plain, CASES["guide"])
    assert one.differences(two.parts) == ["data"]


def test_identity_of_a_model(base_dir: Path, tmp_path: Path) -> None:
    """Weights, configuration and tokenizer count; where files lie, and how JSON is laid out, does not."""
    model, words = identity_of(inspect_model(base_dir))
    moved = Path(shutil.copytree(base_dir, tmp_path / "moved"))
    for name in ("config.json", "tokenizer_config.json"):
        value = json.loads((moved / name).read_text())
        if "text_config" in value:
            value["text_config"]["_name_or_path"] = "x"
        (moved / name).write_text(json.dumps({"transformers_version": "0", **value, "_name_or_path": "x"}))
    assert identity_of(inspect_model(moved)) == (model, words)
    other = identity_of(inspect_model(write_model(tmp_path / "weights", seed=6)))
    assert other[0] != model and other[1] == words

    def edited(name: str, change: Callable[[Any], None]) -> tuple[str, str]:
        folder = Path(shutil.copytree(base_dir, tmp_path / name))
        (file,) = folder.glob(name)
        value = json.loads(file.read_text())
        change(value)
        file.write_text(json.dumps(value))
        return identity_of(inspect_model(folder))

    def swap(value: Any) -> None:
        words = value["model"]["vocab"]
        first, second = list(words)[-2:]
        words[first], words[second] = words[second], words[first]

    spelt = edited("tokenizer.json", swap)
    assert spelt[0] == model and spelt[1] != words
    seen = edited("processor_config.json", lambda v: v["image_processor"].update(image_mean=[0.1, 0.2, 0.3]))
    assert seen[0] == model and seen[1] != words
    config = edited("config.json", lambda v: v["text_config"].update(rms_norm_eps=0.1))
    assert config[0] != model and config[1] == words


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(cut, "bytes, index.json says"), (flip, "SHA-256"), (Path.unlink, "missing, though index.json names it")],
    ids=["cut", "flipped", "missing"],
)
def test_a_damaged_shard_is_refused(base: Model, made: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(made / shard_name(0, 1))
    stream = stream_of(base.processor, OBJECTIVE)
    found = refused(base, made, key_of(stream, OBJECTIVE))
    assert message in found and str(made / shard_name(0, 1)) in found
    with pytest.raises(UserError, match=r"index\.json"):
        build(Silent(), stream, OBJECTIVE, made)


def test_a_large_shard_is_measured_only(base: Model, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_files, "HASHED", 100)
    key = key_of(stream_of(base.processor, OBJECTIVE), OBJECTIVE)
    flip(made / shard_name(0, 1))
    assert open_reference_cache(made, key=key, world=ALONE) is not None
    cut(made / shard_name(0, 1))
    assert "bytes, index.json says" in refused(base, made, key)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"v": 1}', "moved"])
def test_a_damaged_index_is_refused(base: Model, made: Path, text: str) -> None:
    if text == "moved":  # a name that leads out of the folder
        index = json.loads((made / "index.json").read_text())
        index["shards"][0]["file"] = "../" + index["shards"][0]["file"]
        text = json.dumps(index)
    (made / "index.json").write_text(text)
    message = refused(base, made, key_of(stream_of(base.processor, OBJECTIVE), OBJECTIVE))
    assert "is no index of reference statistics, or damaged" in message


def test_an_interrupted_build_leaves_nothing_and_is_begun_anew(base: Model, tmp_path: Path) -> None:
    stream = stream_of(base.processor, OBJECTIVE)
    module = step_module(base).train()

    def interrupt(done: int, total: int) -> None:
        assert done < total
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(module, stream, OBJECTIVE, tmp_path, tokens_per_pass=150, progress=interrupt)
    assert {f.name for f in tmp_path.iterdir()} == {".lock"} and module.training
    (tmp_path / shard_name(3, 4)).write_bytes(b"of an attempt that was killed")
    (tmp_path / "mine.txt").write_text("somebody's")
    assert open_reference_cache(tmp_path, key=key_of(stream, OBJECTIVE), world=ALONE) is None
    build(module.eval(), stream, OBJECTIVE, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {".lock", "index.json", "mine.txt", shard_name(0, 1)}
    assert not module.training


def test_only_what_is_wanted_is_asked_and_more_is_added(base: Model, tmp_path: Path) -> None:
    """Runs of other steps share a folder: the second one asks about what it lacks, the first one reads on."""
    stream, module = stream_of(base.processor, OBJECTIVE), step_module(base)
    whole = build(module, stream, OBJECTIVE, tmp_path / "whole", tokens_per_pass=150)
    some = {F: [5, 0], R: [2]}
    first = build(module, stream, OBJECTIVE, tmp_path / "grown", wanted=some, tokens_per_pass=150)
    assert first.lacking(F, [0, 1, 5]) == [1] and first.lacking(R, [2]) == []
    assert 0 < first.bytes < whole.bytes / 2
    with pytest.raises(AssertionError, match="not asked about every example of forget"):
        first.states(F, [0, 1])
    (tmp_path / "grown" / shard_name(0, 1, 7)).write_bytes(b"of an attempt that was killed")
    calls: list[int] = []
    more = {F: [0, 1, 2], R: [2, 3]}
    second = build(module, stream, OBJECTIVE, tmp_path / "grown", wanted=more, progress=lambda n, _: calls.append(n))
    assert calls == [1], "one pass: of two examples and one"
    assert [f.name for f in second.files] == [shard_name(0, 1), shard_name(0, 1, 1)]
    assert not (tmp_path / "grown" / shard_name(0, 1, 7)).exists()
    again = build(Silent(), stream, OBJECTIVE, tmp_path / "grown", wanted={F: [5, 1], R: [3]})
    for cache, view, indices in ((first, F, [5, 0]), (second, F, [2, 5, 1, 0]), (again, R, [3, 2])):
        found, wanted = cache.states(view, indices), whole.states(view, indices)
        pairs = zip((found.logp, found.hidden), (wanted.logp, wanted.hidden), strict=True)
        for a, b in [
            *((a, b) for a, b in pairs if b is not None),
            *zip(found.layers.values(), wanted.layers.values(), strict=True),
        ]:
            assert a is not None
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_head_is_kept_once(base: Model, tmp_path: Path) -> None:
    objective = CASES["kl"]
    stream = stream_of(base.processor, objective)
    build(step_module(base), stream, objective, tmp_path, full=True, wanted={R: [0]})
    more = build(step_module(base), stream, objective, tmp_path, full=True, wanted={R: [1]})
    head = more.head()
    assert head is not None and torch.equal(head, base.family.head(base.module).weight)
    with safe_open(more.files[1], framework="pt", device="cpu") as shard:
        assert "head" not in shard.keys()  # noqa: SIM118 (not a mapping)


def test_an_interrupted_addition_leaves_what_was_there(base: Model, made: Path) -> None:
    stream = stream_of(base.processor, OBJECTIVE)
    folder = made.parent / "some"
    build(step_module(base), stream, OBJECTIVE, folder, wanted={F: [0], R: [0]})

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(step_module(base), stream, OBJECTIVE, folder, progress=interrupt)
    assert {f.name for f in folder.iterdir()} == {".lock", "index.json", shard_name(0, 1)}
    cache = open_reference_cache(folder, key=key_of(stream, OBJECTIVE), world=ALONE)
    assert cache is not None and cache.lacking(F, [0, 1]) == [1]


def test_a_picture_that_cannot_be_read_stops_the_build(base: Model, tmp_path: Path) -> None:
    bad = replace(FORGET[0], picture=Picture("0" * 64, "people[9].image", lambda: b"no picture"))
    stream = stream_of(base.processor, OBJECTIVE, pools={**POOLS, F: [*FORGET[1:], bad]})
    with pytest.raises(UserError, match=r"people\[9\]\.image"):
        build(step_module(base), stream, OBJECTIVE, tmp_path, tokens_per_pass=150)
    assert {f.name for f in tmp_path.iterdir()} == {".lock"}


def test_a_full_disk_is_said_beforehand(base: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(folder: Path) -> Any:
        return shutil._ntuple_diskusage(1000, 1000, 1000)

    monkeypatch.setattr(reference_build.shutil, "disk_usage", usage)
    with pytest.raises(UserError, match=r"take 0\.00 GB, the disk has 0\.00"):
        build(step_module(base), stream_of(base.processor, OBJECTIVE), OBJECTIVE, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {".lock"}


def test_a_disk_that_fills_up_on_the_way(base: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, calls = ShardWriter.append, []

    def failing(self: ShardWriter, name: str, rows: torch.Tensor) -> None:
        calls.append(name)
        if len(calls) > 15:
            raise OSError(28, "No space left on device")
        append(self, name, rows)

    monkeypatch.setattr(ShardWriter, "append", failing)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        build(step_module(base), stream_of(base.processor, OBJECTIVE), OBJECTIVE, tmp_path, tokens_per_pass=150)
    assert len(calls) == 16 and {f.name for f in tmp_path.iterdir()} == {".lock"}


def test_a_folder_that_cannot_be(base: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        build(step_module(base), stream_of(base.processor, OBJECTIVE), OBJECTIVE, tmp_path / "file" / "cache")


@pytest.mark.parametrize("name", ["npo", "rmu", "all"])
def test_the_size_is_known_beforehand(base: Model, tmp_path: Path, name: str) -> None:
    objective, full = CASES[name], name == "all"
    stream = stream_of(base.processor, objective)
    cache = build(step_module(base), stream, objective, tmp_path, full=full)
    head = base.family.head(base.module).weight
    assert isinstance(head, torch.Tensor)
    estimate = estimate_bytes(
        stream, objective.needs, head.shape[1], itemsize=4, vocabulary=head.shape[0] if full else 0
    )
    with (tmp_path / shard_name(0, 1)).open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert cache.bytes == header + estimate and header < 3000


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("layout", ["dense", "padded"])
def test_passes_hold_every_example_once(base: Model, ranks: int, layout: str) -> None:
    stream = stream_of(base.processor, CASES["all"], layout=layout)
    views = sorted(CASES["all"].needs.reference)
    for tokens in (60, 100_000):
        parts = passes(stream, {view: range(len(POOLS[view])) for view in views}, ranks, tokens)
        assert len(parts) == ranks and len({len(mine) for mine in parts}) == 1, "a pass is a collective"
        flat = [chosen for mine in parts for chosen in mine]
        assert all(chosen.keys() == set(views) for chosen in flat), "all ranks run the same blocks"
        for view in views:
            assert sorted(i for chosen in flat for i in chosen[view]) == list(range(len(POOLS[view])))
        real = [stream.packed_reference(chosen).real_tokens for chosen in flat]
        assert (len(flat) == ranks) == (tokens == 100_000)
        longest = max(e.length for view in views for e in stream.encoded(view, reference=True))
        assert max(real) <= tokens + longest
    assert all(any(chosen.values()) for chosen in flat)


def test_reading_maps_and_never_loads_the_file(tmp_path: Path) -> None:
    """Two examples of a file of half a gigabyte (sparse: nothing but holes, so that the test is quick)."""
    rows, width = 64_000, 2048
    key = ReferenceKey(
        {p: "" for p in ("model", "data", "tokenisation", "statistics", "precision")}, {F: Kept(False, True, {})}, True
    )
    shapes: dict[str, Any] = {
        f"{F}.examples": (torch.int64, (rows // 64,)),
        f"{F}.tokens": (torch.int64, (rows // 64,)),
        f"{F}.hidden": (torch.float32, (rows, width)),
        "head": (torch.float32, (8, width)),
    }
    writer = ShardWriter(tmp_path / shard_name(0, 1), shapes)
    writer.append(f"{F}.examples", torch.arange(rows // 64).flip(0))
    writer.append(f"{F}.tokens", torch.full((rows // 64,), 64))
    writer.append("head", torch.ones(8, width))
    writer._at[f"{F}.hidden"] = writer._end[f"{F}.hidden"] - 64 * width * 4  # a hole
    writer.append(f"{F}.hidden", torch.full((64, width), 3.0))
    shard = {"file": shard_name(0, 1), "bytes": writer.bytes, "sha256": "-"}
    writer._out.close()
    writer._part.rename(writer.file)
    tensors = {f"{F}.hidden": {"dtype": "float32", "width": [width]}}
    write_index(tmp_path, key, ALONE, tensors=tensors, examples={F: rows // 64}, shards=[shard])
    cache = open_reference_cache(tmp_path, key=key, world=ALONE, hashes=False)
    assert isinstance(cache, ReferenceCache) and cache.bytes > 500e6
    before = psutil.Process().memory_info().rss
    found, head = cache.states(F, [0, 500]).hidden, cache.head()
    grown = psutil.Process().memory_info().rss - before
    assert found is not None and head is not None and head.shape == (8, width)
    assert bool((found[:64] == 3).all()) and bool((found[64:] == 0).all()) and found.shape == (128, width)
    assert grown < 50e6, f"{grown / 1e6:.0f} MB"


def test_shards_are_plain_safetensors(base: Model, made: Path) -> None:
    with safe_open(made / shard_name(0, 1), framework="pt", device="cpu") as shard:
        names = set(shard.keys())
        assert names == {
            *(f"{F}.{n}" for n in ("examples", "tokens", "logp")),
            *(f"{R}.{n}" for n in ("examples", "tokens", "rows", "hidden", "image", "layer.0")),
        }
        assert sorted(shard.get_tensor(f"{F}.examples").tolist()) == list(range(len(POOLS[F])))
        lengths = shard.get_tensor(f"{R}.rows")
        image = shard.get_tensor(f"{R}.image")
        assert len(image) == int(lengths.sum()) and len(shard.get_tensor(f"{R}.layer.0")) == int((~image).sum())
    index = json.loads((made / "index.json").read_text())
    assert index["parts"]["statistics"] == (
        "forget: log-probabilities; retain: final states of answers, states after block 0 without image tokens"
    )


def test_a_writer_takes_neither_more_nor_fewer_rows(tmp_path: Path) -> None:
    shapes: dict[str, Any] = {"a": (torch.bfloat16, (3, 2)), "b": (torch.bool, (3,)), "c": (torch.float32, (0, 5))}
    writer = ShardWriter(tmp_path / "x.safetensors", shapes)
    with pytest.raises(AssertionError, match="a: more rows"):
        writer.append("a", torch.zeros(4, 2, dtype=torch.bfloat16))
    writer.append("a", torch.arange(4.0).bfloat16().view(2, 2))
    writer.append("b", torch.tensor([True, False, True]))
    with pytest.raises(AssertionError, match="missing"):
        writer.finish()
    writer.append("a", torch.full((1, 2), 9.0, dtype=torch.bfloat16))
    writer.append("c", torch.zeros(0, 5))
    assert not (tmp_path / "x.safetensors").exists()
    said = writer.finish()
    assert said["bytes"] == (tmp_path / "x.safetensors").stat().st_size
    with safe_open(tmp_path / "x.safetensors", framework="pt", device="cpu") as file:
        assert file.get_tensor("a").tolist() == [[0, 1], [2, 3], [9, 9]]
        assert file.get_tensor("b").tolist() == [True, False, True] and file.get_tensor("c").shape == (0, 5)

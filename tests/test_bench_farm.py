"""The farm's benchmark trains the same thing both ways, takes away one thing at a time, and writes what it promises.

Its figures are not tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import bench_farm, farm_plain
from benchmarks.bench_farm import write_pictures
from benchmarks.farm_crew import Crew, Variant, farm_of, variants_of
from benchmarks.farm_rows import (
    DERIVED,
    MODELS,
    PARTS,
    TAKEN,
    TRAINING,
    best_plain,
    markdown,
    model_rows,
    phase_rows,
    ratio,
    start_up_row,
    training_rows,
)
from benchmarks.farm_ways import Case, Job, Way, difference, do, mine_of, train
from clear_dist.data.identities import load_identities, square
from clear_dist.data.identity_cache import open_identities
from clear_dist.errors import UserError
from clear_dist.shadow.run import Resident

PEOPLE, PICTURES, SIDE = 3, 4, 16
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Six people of four pictures, 16 px, of whom a model learns three."""
    folder = tmp_path_factory.mktemp("farm")
    write_pictures(f"clear-mini:{2 * PEOPLE}x{PICTURES}", 2 * PEOPLE, PICTURES, SIDE, folder / "pictures")
    data = load_identities(folder / "pictures", SIDE, cache=folder / "cache")
    return Case(str(folder / "pictures"), str(data.file), SIDE, PEOPLE, 5, "tiny", "cpu", enrol=2, warm=1)


@pytest.fixture(scope="module")
def data(case: Case) -> Resident:
    return Resident(open_identities(Path(case.cache)), CPU)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_plain_and_farm_train_the_same_thing(case: Case, data: Resident) -> None:
    everybody = replace(case, batch=PEOPLE * PICTURES)  # rounding grows fast where a batch is a handful of pixels
    assert difference(everybody, data, steps=3) < 1e-4, "momentum and weight decay included"


def test_another_loss_would_be_noticed(case: Case, data: Resident, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm_plain, "MARGIN", 0.3)
    assert difference(case, data, steps=1) > bench_farm.TOLERANCE


def test_the_written_out_step_is_the_farms(case: Case, data: Resident) -> None:
    farm = train(case, Way("farm"), data, steps=4, seed=1)
    step = train(case, Way("step"), data, steps=4, seed=1)
    assert step["loss"] == farm["loss"], "bit for bit"
    assert step["images"] == farm["images"] == 4 * case.batch, "warm steps do not count"
    everybody = replace(case, batch=PEOPLE * PICTURES)
    farm = train(everybody, Way("farm", bf16=False), data, steps=2, seed=1)
    other = train(everybody, Way("step", bf16=False, channels_last=False, fused=False), data, steps=2, seed=1)
    assert other["loss"] == pytest.approx(farm["loss"], rel=1e-4), "the same, but for rounding"


@pytest.mark.parametrize("way", [Way("plain"), Way("resident"), Way("step", files=True), Way(bf16=False)])
def test_every_way_trains(case: Case, data: Resident, way: Way) -> None:
    done = do(case, data, Job(asdict(way), 2, 1))
    assert done["images"] == 2 * case.batch and done["seconds"] > 0 and 0 < done["loss"] < 40


@pytest.mark.parametrize("source", ["file", "resident"])
def test_plain_batches_are_shuffled_passes(case: Case, data: Resident, source: str) -> None:
    if source == "file":
        shown = farm_plain.file_batches(farm_plain.Pictures(Path(case.folder), SIDE, PEOPLE), 4, 0)
    else:
        mine = mine_of(case, data)
        shown = farm_plain.resident_batches(mine.pixels.float(), mine.labels, 4)
    three = list(islice(shown, 6))
    for epoch in (three[:3], three[3:]):
        x = torch.cat([pixels for pixels, _ in epoch])
        assert len(x.flatten(1).unique(dim=0)) == PEOPLE * PICTURES, "every picture once"
        assert torch.cat([labels for _, labels in epoch]).bincount().tolist() == [PICTURES] * PEOPLE
    assert not torch.equal(three[0][0], three[3][0])


def test_plain_pictures_are_those_of_the_farm(case: Case, data: Resident) -> None:
    found = farm_plain.Pictures(Path(case.folder), SIDE, PEOPLE)
    mine = mine_of(case, data)
    for i in (0, PICTURES, len(found) - 1):
        x, label = found[i]
        assert torch.allclose(x, mine.pixels[i].float() / 127.5 - 1, atol=1e-6) and label == mine.labels[i]
    ramp = np.linspace(0, 255, 48 * 36 * 3).reshape(36, 48, 3).astype(np.uint8)
    ours = torch.from_numpy(square(Image.fromarray(ramp), 12)).float() / 127.5 - 1
    assert (farm_plain.transform(Image.fromarray(ramp), 12) - ours).abs().max() < 0.03, "cut about the middle"


def test_each_variant_takes_away_one_thing() -> None:
    for device, cores in (("cpu", 2), ("cpu", 1), ("cuda", 16)):
        variants = variants_of(device, cores)
        assert len({v.name for v in variants}) == len(variants)
        farm = next(v for v in variants if v.name == farm_of(variants, device))
        for variant in variants:
            if variant.lacks is None:
                continue
            parts = [f.name for f in fields(Way) if f.name != "loop"]
            changed = [n for n in parts if getattr(variant.way, n) != getattr(farm.way, n)]
            changed += ["tuned"] * (variant.tuned != farm.tuned)
            changed += ["threads"] * ((variant.processes, variant.threads) != (farm.processes, farm.threads))
            assert len(changed) == 1, variant
            assert variant.processes * variant.threads == farm.processes * farm.threads


def test_ratios_are_of_medians() -> None:
    found = ratio([10.0, 30.0, 20.0], [1.0, 10.0, 4.0])
    assert found == {"median": 20 / 4, "min": 3.0, "max": 10.0}, "not the median of 10, 3 and 5"


def test_rows_and_their_arithmetic(case: Case) -> None:
    variants = variants_of("cpu", 2)
    farm = farm_of(variants, "cpu")
    speeds = {v.name: [100.0, 120.0, 80.0] for v in variants}
    speeds["plain, 2 loader processes"] = [50.0, 60.0, 40.0]
    speeds["plain, 0 loader processes"] = [10.0, 70.0, 20.0]
    speeds["fp32"] = [25.0, 20.0, 40.0]
    speeds[farm] = [200.0, 200.0, 100.0]
    assert best_plain(speeds) == "plain, 2 loader processes", "by its median, not by its best round"
    rows = training_rows(case, variants, farm, speeds, {"batch": 5, "rounds": 3})
    by_name = {r["variant"]: r for r in rows if r["part"] != DERIVED}
    assert by_name[farm]["ratio_to_plain"]["median"] == 4.0
    assert by_name["fp32"]["part"] == TAKEN and by_name["fp32"]["farm_over_it"]["median"] == 8.0
    (derived,) = (r for r in rows if r["part"] == DERIVED)
    assert derived["variant"] == farm and derived["minutes"] == pytest.approx(256 * 1885 * 20 / 200 / 60)

    start = start_up_row(case, [5.0, 6.0, 4.0], [200.0, 200.0, 100.0], 2, 500.0, {})
    assert start["model_s"]["median"] == 5.0 and start["farm_over_it"]["median"] == 11 / 5, "10, 11 and 14 seconds"

    done = {
        "plain": {"wall": 12.0, "seconds": 10.0, "images": 500.0},
        "farm": {"wall": 10.0, "model": 6.0, "models": 4, "images": 500.0, "decoded": 1.0},
    }
    plain, ours = model_rows(case, 2, [done], {})
    assert plain["models_per_hour"]["median"] == 300 and plain["steady_models_per_hour"]["median"] == 360
    assert ours["models_per_hour"]["median"] == 1440 and ours["steady_models_per_hour"]["median"] == 1200
    assert ours["ratio_to_plain"]["median"] == pytest.approx(4.8)

    phases = phase_rows(case, [{"SGD": 1.0, "save": 3.0, "augmentation (photo)": 9.0}])
    assert [r["share"] for r in phases] == [0.25, 0.75, None]

    text = markdown([*rows, start, plain, ours, *phases], "About.")
    assert "Derived, not measured" in text and "4.80 (4.80-4.80)" in text and "25.0%" in text


def test_a_process_that_dies_is_no_figure(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="ended"):
        Crew(replace(case, cache=str(Path(case.cache).with_name("none.safetensors"))), 1, True)
    assert "none.safetensors" in capfd.readouterr().err


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 identities with at least 2 pictures; expected 4"):
        write_pictures("clear-mini:3x2", 4, 2, SIDE, tmp_path)


def test_loops_that_differ_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(farm_plain, "MARGIN", 0.0)
    assert bench_farm.main(arguments(tmp_path)) == 2
    assert "nothing was timed" in capsys.readouterr().err and not list(tmp_path.iterdir())


def arguments(out: Path) -> list[str]:
    words = "--device cpu --sizes 16 --network tiny --people 3 --pictures 4 --side 16 --batch 6 --steps 4 --epochs 1"
    return [*words.split(), *"--models 4 --rounds 1 --threads 1 --out".split(), str(out)]


@pytest.mark.slow
def test_results_have_the_promised_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_farm.main(arguments(tmp_path)) == 0
    found = json.loads((tmp_path / "bench_farm.json").read_text())
    rows = found["rows"]
    names = {part: [r["variant"] for r in rows if r["part"] == part] for part in (TRAINING, TAKEN, MODELS, PARTS)}
    variants: list[Variant] = variants_of("cpu", 1)
    assert names[TRAINING] == [v.name for v in variants if v.lacks is None]
    assert names[TAKEN] == [*(v.name for v in variants if v.lacks), "new process"]
    assert names[MODELS] == ["plain", "farm"]
    assert {"forward and backward", "SGD", "save", "reading: embeddings, logits"} <= set(names[PARTS])
    farm = next(r for r in rows if r["part"] == MODELS and r["variant"] == "farm")
    assert farm["models"] == 4 and farm["images_a_model"] == 12, "2 steps of 6"
    assert sum(r["share"] or 0 for r in rows if r["part"] == PARTS) == pytest.approx(1)
    (text,) = tmp_path.glob("bench_farm_*_cpu.md")
    (figure,) = tmp_path.glob("bench_farm_*_cpu.png")
    assert figure.name in text.read_text() and figure.read_bytes()[:4] == b"\x89PNG"
    assert "Whole models" in capsys.readouterr().out

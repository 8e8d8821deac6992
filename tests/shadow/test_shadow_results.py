"""What the attacks are given: pictures, people and models in step with what was really trained and seen."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from vision_farm import finished, hashes, identities, make_farm, planned, run_farm, settings

from clear_dist.data.augment_batch import normalise
from clear_dist.data.identities import Identities
from clear_dist.errors import UserError
from clear_dist.models.resnet import ResNetSettings
from clear_dist.models.resnet_files import model_from
from clear_dist.shadow.objects import get, object_path
from clear_dist.shadow.results import FarmResults, head_of, read_results
from clear_dist.shadow.settings import Training, to_json

PLANTED = 6  # a person all of whose pictures are the same
DATA = identities(alike=PLANTED)
CHOSEN = settings(DATA, keep="weights", precision="fp32", trace=("npo",), enrol=3)
MOST = math.log((1 - 1e-6) / 1e-6)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_farm(tmp_path_factory.mktemp("results") / "farm", DATA, CHOSEN)
    run_farm(folder)
    return folder


@pytest.fixture(scope="module")
def results(farm: Path) -> FarmResults:
    return read_results(farm)


def test_everyone_is_who_they_were(results: FarmResults) -> None:
    layout, _ = planned(DATA, CHOSEN)
    attacked = [i for i in range(14) if i not in layout.split.pretrain]
    assert results.names == tuple(DATA.names[i] for i in attacked)
    assert [results.names[i] for i in results.identity] == [name.split("/")[0] for name in results.ids]
    assert sorted(results.ids) == sorted(i for i in DATA.ids if DATA.names.index(i.split("/")[0]) in attacked)
    assert Counter(results.identity[results.enrolled].tolist()) == dict.fromkeys(range(11), 3)
    assert Counter(results.group) == {"forget": 2, "holdout": 2, "other": 7}
    by_name = dict(zip(results.names, results.group, strict=True))
    assert {name for name, group in by_name.items() if group == "forget"} == {
        DATA.names[i] for i in layout.split.forget
    }
    assert (
        results.incomplete == ()
        and results.settings["enrol"] == 3
        and set(results.settings["methods"]) == {"retain_ft", "npo"}
    )


def test_rows_are_complete(results: FarmResults) -> None:
    assert {row: sorted(models) for row, models in results.logits.items()} == {
        "original": [0, 1, 2, 3],
        "gold": [0, 1],
        "retain_ft": [0, 1],
        "npo": [0, 1],
    }
    assert {row: sorted(models) for row, models in results.predicted.items()} == {
        row: sorted(models) for row, models in results.logits.items()
    }
    for row in results.logits:
        for m in results.logits[row]:
            assert results.logits[row][m].shape == results.predicted[row][m].shape == (77,)
            assert results.logits[row][m].dtype == np.float64 and results.predicted[row][m].dtype == np.int64
    assert len({logits.tobytes() for models in results.logits.values() for logits in models.values()}) == 10


def read_again(
    farm: Path, data: Identities, results: FarmResults, name: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A model's logits and guesses from its kept weights, one picture after the other, found by its id."""
    done = finished(farm)[name]
    assert done.weights is not None
    state = get(farm, done.weights.sha256)
    model = model_from(ResNetSettings(size="tiny", classes=len(state["fc.weight"]), head="am_softmax"), state)
    row = {picture: at for at, picture in enumerate(data.ids)}
    pixels = torch.stack([data.pixels[row[picture]] for picture in results.ids])
    with torch.no_grad():
        e = model.embedding(normalise(pixels)).double().numpy()
    centres = np.stack([e[(results.identity == i) & results.enrolled].mean(0) for i in range(len(results.names))])
    cosine = (e @ centres.T) / np.linalg.norm(e, axis=1)[:, None] / np.linalg.norm(centres, axis=1)[None]
    own = np.clip(cosine[np.arange(len(e)), results.identity], 1e-6, 1 - 1e-6)
    return np.log(own / (1 - own)), cosine.argmax(1)


@pytest.mark.parametrize("name", ["shadow/002", "gold/001", "npo/000"])
def test_a_reading_is_of_the_pictures_it_says(farm: Path, results: FarmResults, name: str) -> None:
    kind, _, number = name.partition("/")
    row = {"shadow": "original"}.get(kind, kind)
    logits, predicted = read_again(farm, DATA, results, name)
    found = results.logits[row][int(number)]
    free = np.abs(logits) < 10  # beyond, a logit magnifies what rounding leaves of 1 - cos
    assert free.mean() > 0.8
    np.testing.assert_allclose(found[free], logits[free], rtol=0, atol=2e-2)
    assert np.corrcoef(found[free], logits[free])[0, 1] > 0.9999
    assert (results.predicted[row][int(number)] == predicted).mean() > 0.98


def test_a_person_without_variety_is_always_recognised(results: FarmResults) -> None:
    """All pictures of one person are the same: their cosine to the mean is 1 in every model, trained on them or not."""
    mine = results.identity == results.names.index(DATA.names[PLANTED])
    assert mine.sum() == 7
    for row, models in results.logits.items():
        for m, logits in models.items():
            assert logits[mine] == pytest.approx([MOST] * 7), row
            assert (logits[~mine] < MOST - 1e-3).all(), row
            assert (results.predicted[row][m][mine] == results.identity[mine]).all()


def test_trained_is_what_tasks_were_trained_on(farm: Path, results: FarmResults) -> None:
    layout, tasks = planned(DATA, CHOSEN)
    for m in range(4):
        people = {results.names[i] for i in np.flatnonzero(results.trained[m])}
        assert people == {DATA.names[i] for i in layout.trained[m]}
        assert finished(farm)[f"shadow/{m:03d}"].metrics["pictures"] == 7 * len(people)
    assert [bool(results.trained[m, results.group.index("forget")]) for m in range(4)] == [True, True, False, False]
    assert len(tasks) == 11


def test_a_trace_begins_at_the_original_and_ends_at_the_result(results: FarmResults) -> None:
    assert set(results.traces) == {"npo"} and set(results.traces["npo"]) == {0, 1}
    for m, trace in results.traces["npo"].items():
        assert trace.progress[0] == 0 and (np.diff(trace.progress) > 0).all()
        assert trace.logits.shape == trace.predicted.shape == (len(trace.progress), 77)
        assert trace.logits.dtype == np.float64 and trace.predicted.dtype == np.int64
        assert np.array_equal(trace.logits[0], results.logits["original"][m])
        assert np.array_equal(trace.logits[-1], results.logits["npo"][m])
        assert np.array_equal(trace.predicted[-1], results.predicted["npo"][m])
        assert not np.array_equal(trace.logits[0], trace.logits[-1])


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_damaged_result_is_said_and_made_again(farm: Path, harm: str) -> None:
    before = hashes(farm)
    path = object_path(farm, before["gold/001"][0])
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.unlink() if harm == "remove" else path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"gold/001: .*run the farm's command again"):
        read_results(farm)
    assert run_farm(farm) == 1
    assert hashes(farm) == before and read_results(farm).incomplete == ()


def test_damaged_weights_of_a_parent_are_made_again_before_its_children(tmp_path: Path) -> None:
    farm = make_farm(tmp_path / "farm", DATA, CHOSEN)
    assert run_farm(farm, limit=3) == 3
    before = hashes(farm)
    sha256 = before["pretrain"][1]
    assert sha256 is not None
    object_path(farm, sha256).write_bytes(b"no weights")
    assert run_farm(farm, limit=2) == 2
    assert hashes(farm)["pretrain"] == before["pretrain"]


def test_what_is_not_done_is_listed(tmp_path: Path) -> None:
    farm = make_farm(tmp_path / "farm", DATA, CHOSEN)
    everything = [task.name for task in planned(DATA, CHOSEN)[1] if task.kind != "pretrain"]
    empty = read_results(farm)
    assert empty.incomplete == tuple(everything) and not empty.logits and empty.trained.shape == (4, 11)
    assert run_farm(farm, limit=4) == 4
    part = read_results(farm)
    assert part.incomplete == tuple(everything[3:]) and sorted(part.logits["original"]) == [0, 1, 2]


def test_there_must_be_a_farm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no farm of shadow models there"):
        read_results(tmp_path)


def test_a_task_name_from_elsewhere_is_refused(farm: Path, tmp_path: Path) -> None:
    content = json.loads((farm / "farm.json").read_text())
    content["tasks"][5]["name"] = "gold/first"
    (tmp_path / "farm.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"farm\.json: task 'gold/first': expected KIND/NUMBER"):
        read_results(tmp_path)


def test_renaming_people_moves_nobody() -> None:
    layout, _ = planned(DATA, CHOSEN)
    here = head_of(to_json(CHOSEN), DATA, layout)
    other = replace(DATA, names=tuple(f"q{i:02d}" for i in range(14)), ids=tuple(f"q{i}" for i in DATA.ids))
    there = head_of(to_json(CHOSEN), other, layout)
    assert here["pictures"]["enrolled"] == there["pictures"]["enrolled"]
    assert here["identities"]["group"] == there["identities"]["group"] and here["threads"] == 1


def test_models_know_the_people_they_were_trained_on(tmp_path: Path) -> None:
    """What the attacks live on: a picture's logit is higher in models that learned its person."""
    data = identities(people=16)
    training = Training(12, 0.05, 16)
    chosen = settings(data, (), models=6, design="fixed_block", shadow=training, pretrain=2, precision="fp32", enrol=3)
    farm = make_farm(tmp_path / "farm", data, chosen)
    run_farm(farm)
    results = read_results(farm)
    logits = np.stack([results.logits["original"][m] for m in range(6)])
    learned = results.trained[:, results.identity]
    for group in ("forget", "holdout"):
        mine = (np.array(results.group)[results.identity] == group) & ~results.enrolled
        inside, outside = logits[:, mine][learned[:, mine]], logits[:, mine][~learned[:, mine]]
        assert len(inside) == len(outside) == 3 * 2 * 4
        assert inside.mean() - outside.mean() > 0.5, group
    gold = np.stack([results.logits["gold"][m] for m in range(3)])
    forget = (np.array(results.group)[results.identity] == "forget") & ~results.enrolled
    assert logits[:3, forget].mean() - gold[:, forget].mean() > 0.5

"""What a user can get wrong in shadow-farm: one message that says what, status 2, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from farm_commands import METHOD, farm_command, in_this_process, run, write_pictures

from clear_dist.models.resnet import new_resnet
from clear_dist.models.resnet_files import save_resnet
from clear_dist.recipes import shadow_farm
from clear_dist.shadow.presets import PRESETS

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    write_pictures(folder / "pictures")
    write_pictures(folder / "single", each=1)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("the farm was run before the mistake was found")

    monkeypatch.setattr(shadow_farm, "run_local", refuse)
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(place / "cache"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def refused(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command with other words, later ones standing for earlier; its message."""

    def go(*words: object, out: Path | None = None) -> str:
        target = out or tmp_path / "farm"
        assert run(*farm_command(place / "pictures", target, *words)) == 2
        error = capfd.readouterr().err
        assert "error: " in error and "Traceback" not in error
        assert out is not None or not target.exists(), "nothing is written"
        return " ".join(error[error.index("error: ") :].split())

    return go


MISTAKES: list[tuple[tuple[object, ...], str]] = [
    (("--methods", "retain_f"), "--methods retain_f: no such method (did you mean retain_ft?)"),
    (("--methods", "undial"), "--methods undial: is for language models"),
    (("--methods", "npo,npo"), "--methods npo: named twice"),
    (("--trace", "scrb"), "--trace scrb: no such method (did you mean scrub?)"),
    (("--tune", "npo.lr=1"), "--tune npo.lr: npo is none of this farm's methods"),
    (("--tune", "retain_ft.epoch=1"), "--tune retain_ft.epoch: no such setting (did you mean epochs?)"),
    (("--tune", "retain_ft.lr=fast"), "--tune retain_ft: lr: Input should be a valid number"),
    (("--tune", "retain_ft.batchnorm=maybe"), "--tune retain_ft: batchnorm: Input should be 'train' or 'frozen'"),
    (("--tune", "retain_ft.set.depth=1"), "--tune retain_ft.set.depth: retain_ft has no such hyperparameter"),
    (("--tune", "retain_ft.lr"), "tune"),
    (("--tune", "retain_ft.objective=nll(RETAIN"), "--tune retain_ft: "),
    (
        ("--tune", "retain_ft.objective=nll(SAFE)"),
        "SAFE: the objective looks at it, and a vision model has no such view",
    ),
    (("--models", 5), "--models 5: expected an even number of at least 4"),
    (("--models", 2), "--models: expected a whole number >= 4"),
    (
        ("--forget", 9, "--holdout", 9),
        "14 identities with enough pictures, and 9 to forget, 9 held out, 3 for pretrain",
    ),
    (("--enrol", 7), "no identity with at least 8 pictures; found 14 identities with 98 good pictures"),
    (("--identities", 10), "--identities 10: a model learns 2 fixed identities and some of 7 others; expected 3 to 9"),
    (("--design", "random_half", "--identities", 4), "--identities 4: random_half takes half of the 11 identities"),
    (("--size", 8), "--size: expected a whole number >= 16"),
    (("--epochs", 0), "--epochs: expected a number > 0"),
    (("--pretrain", "elsewhere"), "both say what models start from: give one of them"),
    (("--images", "nowhere"), "nowhere: no such file or directory"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[" ".join(map(str, words)) for words, _ in MISTAKES])
def test_a_mistake_is_named(words: tuple[object, ...], said: str, refused: Refused) -> None:
    assert said in refused(*METHOD, *words)


OUT_OF_RANGE = {
    "batch=0": "batch: expected at least 2, got 0",
    "epochs=0": "epochs: expected above 0, got 0",
    "lr=-1": "lr: expected above 0, got -1",
    "lr=nan": "lr: expected above 0, got nan",
    "momentum=7": "momentum: expected in [0, 1), got 7",
    "repeat=0": "repeat: expected at least 1, got 0",
    "warmup=-1": "warmup: expected at least 0, got -1",
    "perturb=-1": "perturb: expected at least 0, got -1",
    "augment=upside_down": "augment: expected one of none, shift, photo, got upside_down",
}


@pytest.mark.parametrize("word", OUT_OF_RANGE)
def test_a_value_out_of_range_is_named(word: str, refused: Refused) -> None:
    message = refused(*METHOD, "--tune", f"retain_ft.{word}")
    assert message.startswith("error: --tune retain_ft") and OUT_OF_RANGE[word] in message


def test_a_stage_that_is_not_there_is_named(refused: Refused) -> None:
    assert "layer" in refused("--methods", "rmu", "--tune", "rmu.set.layer=9")


def test_two_hyperparameters_of_one_method_are_both_set(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("--methods", "rmu", "--tune", "rmu.set.c=3", "--tune", "rmu.set.layer=1", "--dry-run")
    assert run(*farm_command(place / "pictures", place / "none", *words)) == 0
    assert "misdirect(FORGET, layer=1, scale=3, average=True)" in " ".join(capfd.readouterr().err.split())


def test_one_picture_of_each_is_too_few(place: Path, refused: Refused) -> None:
    message = refused(*METHOD, "--images", place / "single")
    assert "single: no identity with at least 3 pictures; found 14 identities with 14 good pictures in all" in message


def test_a_bad_picture_stops_the_farm_where_that_is_asked_for(tmp_path: Path, refused: Refused) -> None:
    images = write_pictures(tmp_path / "pictures")
    (images / "p04" / "3.png").write_bytes(b"")
    message = refused(*METHOD, "--images", images, "--on-bad-data", "fail", out=tmp_path / "out")
    assert "p04/3.png is bad: the picture is empty (0 bytes)" in message and not (tmp_path / "out").exists()


START = ("--pretrain-identities", 0, "--weights")


def test_weights_that_are_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere" in refused(*METHOD, *START, tmp_path / "nowhere", out=tmp_path / "out")


def test_weights_of_another_network_are_refused(refused: Refused, tmp_path: Path) -> None:
    save_resnet(new_resnet(5, "18"), tmp_path / "net")
    assert "settings and weights do not belong together" in refused(
        *METHOD, *START, tmp_path / "net", out=tmp_path / "out"
    )


@pytest.fixture
def begun(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A farm with one task done."""
    monkeypatch.setattr(shadow_farm, "run_local", lambda *args, **more: in_this_process(*args, **more, limit=1))
    assert run(*farm_command(place / "pictures", tmp_path / "farm", *METHOD)) == shadow_farm.FAILED
    return tmp_path / "farm"


def test_another_seed_is_named(begun: Path, refused: Refused) -> None:
    assert "settings.seed: 0 there, 1 now" in refused(*METHOD, "--seed", 1, out=begun)


def test_a_farm_of_other_settings_is_left_alone(begun: Path, refused: Refused) -> None:
    before = (begun / "farm.json").read_bytes()
    for words, said in (
        (("--lr", 0.5), f"holds another farm (settings.shadow.lr: {PRESETS['mini'].shadow.lr:g} there, 0.5 now)"),
        (("--enrol", 3), "settings.enrol: 2 there, 3 now"),
        (("--enrolment", "paper"), "settings.enrolment: 'held_out' there, 'paper' now"),
        (("--tune", "retain_ft.lr=0.5"), "task retain_ft/000 is another one there"),
        (("--tune", "retain_ft.lr=0.5"), "spec.method.lr: 0.01 there, 0.5 now"),
        (("--trace", "retain_ft"), "spec.trace: False there, True now"),
    ):
        assert said in refused(*METHOD, *words, out=begun), words
    assert (begun / "farm.json").read_bytes() == before


def test_other_pictures_are_another_farm(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    images, farm = write_pictures(tmp_path / "pictures"), tmp_path / "farm"
    monkeypatch.setattr(shadow_farm, "run_local", lambda *args, **more: in_this_process(*args, **more, limit=1))
    assert run(*farm_command(images, farm, *METHOD)) == shadow_farm.FAILED
    (images / "p04" / "3.png").unlink()
    assert "settings.digest: " in refused(*METHOD, "--images", images, out=farm)


def test_the_directory_cannot_be_a_file(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("mine")
    assert f"{tmp_path}/file: cannot be written" in refused(*METHOD, out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_launcher_has_its_own_workers(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert "--executor ray: under a launcher its ranks are the workers" in refused(*METHOD, "--executor", "ray")


def test_a_dry_run_is_dry_under_a_launcher(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert (
        run(*farm_command(place / "pictures", tmp_path / "farm", "--methods", "none", "--models", 4, "--dry-run")) == 0
    )
    assert not (tmp_path / "farm").exists()

"""Writing a CLEAR-mini dataset: CLEAR's Hub layout, TOFU's files, and the ground truth CLEAR does not have."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clear_dist.data.mini.draw import contact_sheet
from clear_dist.data.mini.tables import Photo, Row, Tables, columns, evenly, ground_truth, take, tofu_files
from clear_dist.data.mini.world import Shot, World, build_world
from clear_dist.types import UserError

Progress = Callable[[int, int], None]
SHARD = "train-00000-of-00001.parquet"
_LISTS = ("options", "perturbed_captions", "perturbed_names")


def write_clear_mini(out: Path, preset: str = "mini", seed: int = 0, on_progress: Progress | None = None) -> Path:
    """Write the dataset of (preset, seed) into ``out`` and return it; the same bytes every time.

    An ``out`` that already holds this very dataset is returned as it is. The directory appears in one piece
    or not at all. on_progress: called with (done, total) after every picture and every config.

    Raises:
        UserError: unknown preset, or ``out`` holds something else.
    """
    out = Path(out)
    world = build_world(preset, seed)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        _require_same(out, world)
        return out
    shots = sum(map(len, world.shots.values())) + len(world.real_faces) + len(world.strangers)
    total = shots + len(columns())
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    def photograph(shots: list[Shot]) -> Iterator[Photo]:
        for shot in shots:
            yield take(shot)
            step()

    tables = Tables(
        world,
        photos={name: list(photograph(shots)) for name, shots in world.shots.items()},
        faces=list(photograph(world.real_faces)),
        strangers=list(photograph(world.strangers)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    partial.chmod(0o755)
    try:
        with no_progress_bars():
            for config, names in columns().items():
                write_parquet(partial / config / SHARD, names, tables.rows(config))
                step()
        (partial / "tofu").mkdir()
        for name, rows in tofu_files(world).items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (partial / "tofu" / f"{name}.json").write_text(lines, encoding="utf-8")
        truth = ground_truth(tables)
        assert len(truth["pictures"]) == shots, "no two pictures are the same"
        (partial / "attributes.json").write_text(json.dumps(truth, separators=(",", ":")) + "\n", encoding="utf-8")
        sheet(world, partial / "sheet.png")
        (partial / "README.md").write_text(_card(world), encoding="utf-8")
        try:
            partial.rename(out)
        except OSError:  # somebody else was faster: fine if theirs is the same
            _require_same(out, world)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def sheet(world: World, path: Path, people: int = 12, pictures: int = 8) -> None:
    """A contact sheet, saved as PNG: one row a person, the last four rows people to forget."""
    *kept, a, b, c, d = world.fictitious.people
    shown = [*evenly(kept, people - 4), a, b, c, d]
    contact_sheet([[shot.draw() for shot in world.shots[person.name][:pictures]] for person in shown], path)


def write_parquet(path: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    """A table of a config, its columns in this order; the same bytes for the same rows."""
    import datasets

    types: dict[str, object] = {name: datasets.Value("string") for name in names}
    types |= {name: datasets.List(datasets.Value("string")) for name in names if name in _LISTS}
    types |= {name: datasets.Image() for name in names if name == "image"}
    path.parent.mkdir()
    table = {name: [row[name] for row in rows] for name in names}
    datasets.Dataset.from_dict(table, features=datasets.Features(types)).to_parquet(path, batch_size=1000)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """One bar a config would drown the caller's own."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _require_same(out: Path, world: World) -> None:
    """Raise unless ``out`` is a complete dataset of this preset, seed and version."""
    wanted = {"v": 1, "dataset": "clear-mini", "preset": world.preset.name, "seed": world.seed}
    try:
        truth = json.loads((out / "attributes.json").read_text(encoding="utf-8"))
        found = {key: truth.get(key) for key in wanted}
    except (OSError, ValueError, AttributeError):
        found = None
    if found is None:
        raise UserError(
            f"out: {out} is not empty and holds no CLEAR-mini dataset; name a directory that is empty or new."
        )
    if found != wanted:
        raise UserError(
            f"out: {out} holds CLEAR-mini preset {found['preset']!r}, seed {found['seed']!r}, version {found['v']!r}; "
            f"wanted preset {wanted['preset']!r}, seed {wanted['seed']!r}, version {wanted['v']!r}. "
            "Name another directory or remove that one."
        )
    missing = [config for config in columns() if not (out / config / SHARD).is_file()]
    if missing:
        raise UserError(f"out: {out} lacks the config {missing[0]!r} ({SHARD}); remove it and write the dataset again.")


def _card(world: World) -> str:
    """README.md: the configs as the Hub's loader reads them, and what this is."""
    lines = ["---", "configs:"]
    for config in columns():
        lines.append(f"- config_name: {config}")
        if config == "full":
            lines.append("  default: true")
        lines += ["  data_files:", "  - split: train", f"    path: {config}/train-*"]
    sizes = world.preset
    forget = ", ".join(f"{split} {count}" for split, count in sizes.forget.items())
    pictures = sum(map(len, world.shots.values()))
    lines += [
        "---",
        "# CLEAR-mini",
        "",
        f"Drawn people in the layout and schema of therem/CLEAR: {sizes.people} people, {pictures} pictures, "
        f"20 questions each in TOFU's schema (`tofu/`). Preset `{sizes.name}`, seed {world.seed}. "
        f"People to forget: {forget}, always the last ones.",
        "",
        f"The last {sizes.unseen} pictures of everybody are flagged `unseen` in `attributes.json`, which knows what "
        "every picture shows (by the SHA-256 of its encoded bytes) and what every text answer must contain. "
        "They are for evaluation only.",
        "",
        "![people](sheet.png)",
        "",
    ]
    return "\n".join(lines)

"""The scale study: every point of a grid predicted, those whose devices are here measured, one report."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil

from clear_dist.config.scale import Grid, ScaleStudyConfig
from clear_dist.errors import UserError
from clear_dist.flags import is_main_process
from clear_dist.planner.hardware import Gpu, gpu_of
from clear_dist.services.progress import say, task
from clear_dist.services.rundir import claim_output, versions, write_run

from .scale_grid import Study, placed, read_grid
from .scale_measure import device_here, point_file, read_point, run_points, write_point
from .scale_points import Row, digest_of, point_of, reasons_not_to_measure, rows_of
from .scale_table import print_points, print_summary

START_SECONDS, POINT_SECONDS = 10.0, 1.0  # until ranks have loaded libraries, and an engine is made: for the estimate
STUDY_FILE = "scale_study.json"


def run(config: ScaleStudyConfig) -> None:
    """``clear-dist scale-study``: scale_study.json, index.html, report.md, figures/ and points/ under ``--out``.

    Raises:
        UserError: a mistake in the grid; a directory that holds something else.
    """
    if not is_main_process():
        return  # a launcher's other ranks: points start ranks of their own
    grid = read_grid(config.grid)
    if config.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            study = placed(grid, config.grid, Path(folder))
            rows, left_out, reasons, _ = planned(study)
            print_points(rows, reasons)
            announce(rows, left_out, reasons, grid, [])
        return
    claim = claim_output(config.out, config)
    try:
        study = placed(grid, config.grid, config.out / "models")
        rows, left_out, reasons, device = planned(study)
        facts = {"points": len(rows), "device": device}
        write_run(config.out, config, finished=False, **facts)
        found = measure_all(rows, reasons, study, device, config.out, left_out)
        content = study_json(study, rows, found, reasons, left_out, device)
        write_study(config.out / STUDY_FILE, content)
        from clear_dist.report.scale_page import scale_report  # matplotlib is slow to import

        page, _ = scale_report(config.out)
        write_run(config.out, config, finished=True, **facts)
        print_summary(content)
        say(f"report: {page}")
    finally:
        claim.release()


def planned(study: Study) -> tuple[list[Row], list[str], list[str | None], str]:
    """(rows, lines on what is left out, of each row why it is not measured, the device that is here)."""
    grid = study.grid
    device, gpus = ("cpu", 0) if grid.measure == "never" and grid.gpu != "auto" else device_here()
    memory = psutil.virtual_memory()
    rows, left_out = rows_of(study, hardware(grid, device), memory.total)
    ranks = grid.measure_ranks if device == "cpu" else gpus
    reasons = [next(reasons_not_to_measure(row, grid, device, ranks, memory.available), None) for row in rows]
    return rows, left_out, reasons, device


def hardware(grid: Grid, device: str) -> Gpu:
    """What is predicted for. Raises UserError: ``auto`` on a GPU that the planner does not know."""
    try:
        return gpu_of(device if grid.gpu == "auto" else grid.gpu)
    except UserError as error:
        raise UserError(str(error).replace("--gpu", "gpu: auto," if grid.gpu == "auto" else "gpu")) from None


def measure_all(
    rows: Sequence[Row],
    reasons: Sequence[str | None],
    study: Study,
    device: str,
    out: Path,
    left_out: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """digest -> content of the point's file, of every row that is to be measured."""
    grid = study.grid
    asked = {
        digest_of(point := point_of(row, grid, device)): (row, point)
        for row, why in zip(rows, reasons, strict=True)
        if why is None
    }
    found = {digest: point for digest in asked if (point := read_point(point_file(out, digest))) is not None}
    found = {digest: point for digest, point in found.items() if point["measured"] is not None}
    lacking = sorted((d for d in asked if d not in found), key=lambda digest: asked[digest][0].gpus)
    announce(rows, left_out, reasons, grid, [asked[digest][0] for digest in lacking])
    with task("measuring", len(lacking), bool(lacking)) as bar:
        done = 0
        for ranks, group in groupby(lacking, key=lambda digest: asked[digest][0].gpus):
            digests = list(group)
            points = [{**asked[digest][1], "model": asked[digest][0].plan.model} for digest in digests]
            results = run_points(points, ranks, grid.timeout)
            for digest, (measured, why) in zip(digests, results, strict=True):
                row, point = asked[digest]
                write_point(point_file(out, digest), point, measured, why)
                found[digest] = {"measured": measured, "why": why}
                name = f"{row.model} {row.stage} {row.method} on {row.gpus}"
                if why is not None:
                    say(f"  {name}: {why}")
                done += 1
                if bar is not None:
                    bar.update(done, name)
    return found


def announce(
    rows: Sequence[Row], left_out: Sequence[str], reasons: Sequence[str | None], grid: Grid, to_measure: Sequence[Row]
) -> None:
    """How many points there are, and about how long it will take."""
    here = sum(why is None for why in reasons)
    say(f"{len(rows):,} points: {here} to be measured here, {len(rows) - here} predicted only")
    for line in left_out:
        say(f"  left out: {line}")
    if to_measure:
        steps = grid.warmup + grid.steps + 1
        seconds = START_SECONDS * len({row.gpus for row in to_measure})
        seconds += sum(POINT_SECONDS + steps * row.speed.step_s for row in to_measure)
        say(f"{len(to_measure)} measurements, about {seconds:.0f} s by the plan; what is measured stays measured")


def study_json(
    study: Study,
    rows: Sequence[Row],
    found: Mapping[str, Mapping[str, Any]],
    reasons: Sequence[str | None],
    left_out: Sequence[str],
    device: str,
) -> dict[str, Any]:
    """The content of scale_study.json."""
    grid = study.grid
    lines = []
    for row, why in zip(rows, reasons, strict=True):
        point = found[digest_of(point_of(row, grid, device))] if why is None else {"measured": None, "why": why}
        measured = point["measured"] and _measured(row, point["measured"])
        lines.append({**row.key, "predicted": row.predicted(), "measured": measured, "why": point["why"]})
    gpu = hardware(grid, device)
    memory = psutil.virtual_memory().total if gpu.name == "cpu" else gpu.memory
    return {
        "v": 1,
        "machine": machine(device),
        "gpu": {"name": gpu.name, "memory_bytes": memory, "flops": rows[0].peak_flops if rows else gpu.flops_bf16},
        "grid": {**grid.model_dump(mode="json"), "models": list(study.models)},
        "baseline": grid.baseline,
        "left_out": list(left_out),
        "rows": lines,
    }


def _measured(row: Row, found: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement as a row has it: by the tokens that were read, and on a CPU by the peak that was measured."""
    real = replace(row, tokens=found["tokens"], pictures=found["pictures"])
    return {**real.rates(found["step_s"], found["peak_flops"] or row.peak_flops), "peak_bytes": found["peak_bytes"]}


def machine(device: str) -> dict[str, Any]:
    """What measured figures mean nothing without."""
    cpu = platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name"))
    return {
        "device": device,
        "cpu": next(names, cpu),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load": round(psutil.getloadavg()[0], 2),  # of the last minute, this study's own work included
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": versions(),
    }


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def write_study(file: Path, content: Mapping[str, Any]) -> None:
    """A line a row, floats to six digits; whole or not at all."""
    head = {key: _short(value) for key, value in content.items() if key != "rows"}
    rows = ",\n  ".join(json.dumps(_short(row)) for row in content["rows"])
    text = json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n  {rows}\n ]\n}}\n'
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _short(part) for key, part in value.items()}
    return [_short(part) for part in value] if isinstance(value, list | tuple) else value

"""A language model grades what a run's models say about forgotten people. Nothing but this command asks one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clear_dist.config import JudgeConfig
from clear_dist.data.clear import cache_directory
from clear_dist.evaluation.aftermath import asks_for_private
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import write_summary
from clear_dist.metrics.interval import mean_interval
from clear_dist.metrics.record import Record, read_records
from clear_dist.report.build import report
from clear_dist.report.run import read_summary
from clear_dist.services.judge import ask_all, endpoint
from clear_dist.services.judge_rubric import GRADES, HIGHEST, LOWEST, PROMPT_VERSION, Case, parse_reply, request_body
from clear_dist.services.progress import say, task
from clear_dist.services.rundir import holder_of
from clear_dist.types import UserError

from .export import run_file

PREFIX = "judge_"
INVALID = "judge_invalid"  # 1 where a reply could not be read, 0 where it could; absent where none was asked for


def run(config: JudgeConfig) -> None:
    """``clear-dist judge``.

    Raises:
        UserError: no run, nothing to grade in it, a run in use, an address or key that cannot be used, a server that
            refuses or stays away. Nothing of the run is changed then.
    """
    records_file, summary_file = run_file(config.run, "records.jsonl"), run_file(config.run, "summary.json")
    where = endpoint(config.url, key_env=config.api_key_env, timeout=config.timeout)
    if holder := holder_of(config.run):
        raise UserError(f"{config.run}: in use by {holder}; wait for it")
    records, summary = read_records(records_file), read_summary(summary_file)
    chosen = chosen_records(records, config.limit)
    if not chosen:
        raise UserError(f"{config.run}: no answers about forgotten people to grade; name a run that asked some")
    say(f"sending {len(chosen)} questions, answers and names to {where.url}")
    if where.key is not None and not where.local and where.url.startswith("http:"):
        say("  note: the key travels without encryption; use https where the server offers it")

    bodies = [request_body(case_of(records[i]), config.judge_model) for i in chosen]
    with task(f"judging with {config.judge_model}", len(bodies)) as bar:
        replies = ask_all(
            where,
            bodies,
            cache_directory() / "judge",
            workers=config.workers,
            on_progress=bar.update if bar is not None else None,
        )
    graded = with_grades(records, dict(zip(chosen, replies, strict=True)))
    blocks = judge_blocks(graded, config.judge_model)
    for content in summary["models"].values():
        content.pop("judge", None)
    for model, block in blocks.items():
        if model in summary["models"]:
            summary["models"][model]["judge"] = block
        figures = ", ".join(f"{g} {block[g]['value']:.2f}" if block[g] else f"{g} –" for g in GRADES)
        say(f"{model}: {figures}; invalid {block['invalid']} of {block['asked']}")
    write_records(records_file, graded)
    write_summary(summary_file, summary)
    report(Path(config.run))
    say(f"report: {config.run / 'index.html'}")


def is_judged(record: Record) -> bool:
    """Answers about people to forget: to questions on their pictures that ask for something private, and to text
    questions about them. Controls and models under attack are left out."""
    asked = asks_for_private(record) or (record.set == "forget" and record.kind == "qa")
    return asked and record.generated is not None and "/" not in record.model


def chosen_records(records: Sequence[Record], limit: int | None) -> list[int]:
    """Places of the records to grade; at most ``limit`` of each model, evenly spread, so that models that answered the
    same questions are graded on the same."""
    by_model: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        if is_judged(record):
            by_model.setdefault(record.model, []).append(place)
    out: list[int] = []
    for places in by_model.values():
        count = len(places) if limit is None else min(limit, len(places))
        out += [places[i * len(places) // count] for i in range(count)]
    return out


def case_of(record: Record) -> Case:
    return Case(record.prompt, record.generated or "", record.person, record.answer)


def with_grades(records: Sequence[Record], replies: Mapping[int, str | None]) -> list[Record]:
    """Records with the scores judge_privacy, judge_informativeness, judge_hallucination (1 to 5; None where the reply
    is invalid) and judge_invalid. Grades of an earlier judge are taken out: two judges are never averaged."""
    out = []
    for place, record in enumerate(records):
        scores = {name: value for name, value in record.scores.items() if not name.startswith(PREFIX)}
        if place in replies:
            grades = parse_reply(replies[place])
            scores |= {PREFIX + name: None if grades is None else grades[name] for name in GRADES}
            scores[INVALID] = int(grades is None)
        out.append(replace(record, scores=scores))
    return out


def judge_blocks(records: Sequence[Record], judge_model: str) -> dict[str, dict[str, Any]]:
    """Per model: an estimate of each grade over the replies that could be read (None where there is none), how many
    were asked for and how many were invalid, the judge and the version of its prompt."""
    by_model: dict[str, list[Record]] = {}
    for record in records:
        if record.score(INVALID) is not None:
            by_model.setdefault(record.model, []).append(record)
    return {
        model: {
            **{name: grade_estimate([v for r in rows if (v := r.score(PREFIX + name)) is not None]) for name in GRADES},
            "asked": len(rows),
            "invalid": sum(r.score(INVALID) == 1 for r in rows),
            "judge_model": judge_model,
            "prompt_version": PROMPT_VERSION,
        }
        for model, rows in by_model.items()
    }


def grade_estimate(grades: Sequence[float]) -> dict[str, object] | None:
    """Mean grade with its 95% interval. Worked out on the scale from 0 to 1, where a grade that is always the lowest or
    the highest gets the interval of such a share instead of none at all."""
    if not grades:
        return None
    span = HIGHEST - LOWEST
    found = mean_interval([(g - LOWEST) / span for g in grades])
    value, low, high = (LOWEST + span * x for x in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high).as_dict()

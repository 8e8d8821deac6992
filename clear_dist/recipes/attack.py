"""U-LIRA and U-MIA on a farm of shadow models: can forgotten people be told from people never seen?"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clear_dist.attacks.bootstrap import Attacked, attack
from clear_dist.attacks.logits import Logits
from clear_dist.attacks.membership_curve import roc
from clear_dist.config.attack import AttackConfig
from clear_dist.services.progress import console, say, task
from clear_dist.services.rundir import claim_output, write_run
from clear_dist.types import UserError

from .attack_files import attack_row, example_rows, terminal_table, write_examples, write_json
from .attack_rows import (
    GROUPS,
    Ints,
    attacked,
    candidates,
    check_results,
    distributions,
    epochs,
    identification,
    logits_of,
)

if TYPE_CHECKING:
    from clear_dist.shadow.results import FarmResults

FIRST = ("original", "gold")


def run(config: AttackConfig) -> None:
    """``clear-dist attack``: attack.json, examples.csv, curves.json, run.json and the report under ``--out``.

    Raises:
        UserError: no farm there, a logit that is not finite, too few finished models of original or gold.
    """
    from clear_dist.shadow.results import read_results

    results = read_results(config.farm)
    check_results(results)
    enrolment = config.enrolment or str(results.settings.get("enrolment", "held_out"))
    counted = ~results.enrolled | (enrolment == "paper")
    pictures = attacked(results, counted)
    chosen, skipped = choose(results, pictures, config)
    claim = claim_output(config.out, config)
    try:
        facts: dict[str, Any] = {
            "farm_digest": farm_digest(config.farm),
            "settings": results.settings,
            "enrolment": enrolment,
            "models": {
                row: {"forgotten": len(logits.forgotten), "never": len(logits.never)} for row, logits in chosen.items()
            },
            "pictures": len(pictures),
            "incomplete": list(results.incomplete),
            "skipped": skipped,
        }
        write_run(config.out, config, finished=False, **facts)
        for row, why in skipped.items():
            say(f"note: {row} is left out: {why}")
        if results.incomplete:
            say(f"note: {len(results.incomplete)} tasks of the farm are not done; figures rest on those that are")
        rows: dict[str, Any] = {}
        lines: list[dict[str, object]] = []
        curves: dict[str, Any] = {"roc": {}, "distributions": distributions(results, list(chosen), counted)}
        curves["epochs"] = {}
        with task("attacking", len(chosen)) as bar:
            for done, (row, logits) in enumerate(chosen.items(), 1):
                found = attack(logits, variance=config.variance, count=config.draws, seed=config.seed)
                rows[row] = row_of(results, row, found, config)
                lines += example_rows(results, row, pictures, logits, found)
                curves["roc"][row] = {"u_lira": roc(found.u_lira.scores), "u_mia": roc(found.u_mia.scores)}
                if watched := epochs(
                    results,
                    row,
                    pictures,
                    variance=config.variance,
                    folds=config.folds,
                    draws=config.draws,
                    seed=config.seed,
                ):
                    curves["epochs"][row] = watched
                if bar is not None:
                    bar.update(done, row)
        write_json(config.out / "attack.json", {"v": 1, **rows})
        write_examples(config.out / "examples.csv", lines)
        write_json(config.out / "curves.json", {"v": 1, **curves})
        write_run(config.out, config, finished=True, **facts)
        from clear_dist.report.farm import farm_report  # matplotlib is slow to import

        page, _ = farm_report(config.out)
        console.print(terminal_table(rows))
        say(f"report: {page}")
    finally:
        claim.release()


def choose(results: FarmResults, pictures: Ints, config: AttackConfig) -> tuple[dict[str, Logits], dict[str, str]]:
    """(row -> what is attacked, original and gold first; row -> why it is left out).

    Raises UserError if original or gold has too few models.
    """
    chosen: dict[str, Logits] = {}
    skipped: dict[str, str] = {}
    for row in dict.fromkeys((*FIRST, *results.settings.get("methods", ()), *results.logits)):
        try:
            chosen[row] = logits_of(results, row, pictures, folds=config.folds, seed=config.seed)
        except UserError as error:
            if row not in FIRST:
                skipped[row] = str(error)
                continue
            unfinished = sum(name.startswith(("shadow", "gold")) for name in results.incomplete)
            advice = (
                f"{unfinished} tasks of original and gold are not done: run clear-dist shadow-farm again with the same "
                "options, it goes on where it stopped"
                if unfinished
                else "Lower --folds, or make a farm with more --models"
            )
            raise UserError(
                f"{config.farm}: {row} cannot be attacked, and every other figure is read beside it: {error}. {advice}."
            ) from None
    return chosen, skipped


def row_of(results: FarmResults, row: str, found: Attacked, config: AttackConfig) -> dict[str, Any]:
    """A row of attack.json: accuracies of identification, and both attacks."""
    models = candidates(results, row)
    accuracies = {
        f"{group}_acc": identification(
            results, results.predicted[row], models, group, seed=config.seed, draws=config.draws
        )
        for group in GROUPS
    }
    return attack_row(accuracies, found, config.variance)


def farm_digest(folder: Path) -> str | None:
    """SHA-256 of farm.json, which has settings, splits, the data's digest and the keys of all tasks."""
    file = folder / "farm.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None

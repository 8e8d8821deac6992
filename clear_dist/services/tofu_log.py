"""TOFU's evaluation logs (github.com/locuslab/tofu, arXiv 2401.06121), and telling logs apart.

TOFU writes a file per set, ``eval_log.json`` (retain), ``eval_log_forget.json``, ``eval_real_author_wo_options.json``
and ``eval_real_world_wo_options.json``, and an aggregate that holds all four under these names. In each: field -> row
-> value. Losses are means per answer token, EOS included (nats). TOFU's real authors are our set ``real_faces``, its
world facts ``real_world``; in both the wrong answers are the options of a multiple choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clear_dist.evaluation.predict import probability_of
from clear_dist.metrics.record import LogProbs, Record
from clear_dist.metrics.truth_ratio import Mean, ratio_of
from clear_dist.services.log_rows import Log, LogRow, loss, losses, read_object, same_keys, share
from clear_dist.services.open_unlearning_log import EVAL_FILE, is_open_unlearning, read_open_unlearning
from clear_dist.types import SetName, UserError

BLOCKS: dict[str, SetName] = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_faces",
    "eval_real_world_wo_options.json": "real_world",
}
AGGREGATE = "eval_log_aggregated.json"
REQUIRED = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "rougeL_recall")
# What is checked row by row beside these, where it is there.
OPTIONAL = ("rouge1_recall", "generated_text", "gt_loss", "num_token_gt", "truth_ratio")


def read_log(path: Path) -> Log:
    """A log of TOFU or open-unlearning: a file, or the directory it was written into.

    Raises UserError naming file, block, field and row: not JSON, JSON of another kind, missing blocks or fields, rows
    that differ between fields, values that are no finite numbers, keys that occur twice.
    """
    if path.is_dir():
        return _read_directory(path)
    content = read_object(path)
    if any(block in content for block in BLOCKS):
        return _tofu(path, content)
    if is_open_unlearning(content):
        return read_open_unlearning(path, content)
    if "avg_gt_loss" in content:
        raise UserError(f"{path}: one set's log of TOFU; name the directory that holds all of {', '.join(BLOCKS)}")
    if content and all(isinstance(v, int | float) for v in content.values()):
        raise UserError(f"{path}: averages only; name the log with a value per row (open-unlearning's {EVAL_FILE})")
    raise UserError(
        f"{path}: neither a log of TOFU (blocks {', '.join(BLOCKS)}) nor of open-unlearning (metrics such as "
        f"forget_Q_A_Prob); it has {', '.join(map(repr, list(content)[:5])) or 'no keys'}"
    )


def _read_directory(folder: Path) -> Log:
    alone = [name for name in BLOCKS if (folder / name).is_file()]
    whole = [name for name in (AGGREGATE, EVAL_FILE) if (folder / name).is_file()]
    if (alone and EVAL_FILE in whole) or len(whole) == 2:
        raise UserError(f"{folder}: logs of two kinds ({', '.join([*alone, *whole])}); name the file that is meant")
    if len(alone) == len(BLOCKS):
        return _tofu(folder, {name: read_object(folder / name) for name in BLOCKS})
    if whole:
        return read_log(folder / whole[0])
    if alone:
        missing = [name for name in BLOCKS if name not in alone]
        raise UserError(f"{folder}: no {', '.join(missing)}; TOFU's utility and forget quality need all four files")
    raise UserError(f"{folder}: no evaluation log here; expected {', '.join(BLOCKS)}, {AGGREGATE} or {EVAL_FILE}")


def _tofu(source: Path, content: Mapping[str, Any]) -> Log:
    missing = [name for name in BLOCKS if name not in content]
    if missing:
        raise UserError(f"{source}: no block {', '.join(missing)}; TOFU's aggregated log has {', '.join(BLOCKS)}")
    ignored = [name for name in content if name not in BLOCKS]
    notes = (f"{source}: left alone: {', '.join(ignored)}",) if ignored else ()
    return Log(source, "TOFU", {s: _rows(f"{source}: block {b}", content[b]) for b, s in BLOCKS.items()}, notes=notes)


def _rows(where: str, block: object) -> list[LogRow]:
    if not isinstance(block, dict):
        raise UserError(f"{where}: expected an object of fields, got {type(block).__name__}")
    if missing := [name for name in REQUIRED if name not in block]:
        raise UserError(f"{where}: no {', '.join(missing)}; expected the fields {', '.join(REQUIRED)}")
    fields: dict[str, dict[str, Any]] = {}
    for name in (n for n in (*REQUIRED, *OPTIONAL) if n in block):
        if not isinstance(block[name], dict):
            raise UserError(f"{where}, {name}: expected an object of rows, got {type(block[name]).__name__}")
        fields[name] = block[name]
        same_keys(where, name, fields[name], fields[REQUIRED[0]])
    if not fields[REQUIRED[0]]:
        raise UserError(f"{where}: no rows")
    return [_row(where, key, {name: rows[key] for name, rows in fields.items()}) for key in fields[REQUIRED[0]]]


def _row(where: str, key: str, row: Mapping[str, Any]) -> LogRow:
    def at(name: str) -> str:
        return f"{where}, {name}, row {key!r}"

    for name in ("gt_loss", "truth_ratio", "num_token_gt"):  # not needed, but nothing may be broken beside what is
        if name in row:
            loss(at(name), row[name])
    texts = row.get("generated_text", ["", None, ""])
    if not isinstance(texts, list) or len(texts) != 3 or not all(isinstance(t, str | None) for t in texts):
        raise UserError(f"{at('generated_text')}: expected [question, generated, answer]")
    return LogRow(
        key,
        loss(at("avg_gt_loss"), row["avg_gt_loss"]),
        loss(at("avg_paraphrased_loss"), row["avg_paraphrased_loss"]),
        losses(at("average_perturb_loss"), row["average_perturb_loss"]),
        rouge_1=share(at("rouge1_recall"), row["rouge1_recall"]) if "rouge1_recall" in row else None,
        rouge_l=share(at("rougeL_recall"), row["rougeL_recall"]),
        prompt=(texts[0] or "").strip(),
        answer=(texts[2] or "").strip(),
        generated=texts[1],
    )


def records_of(log: Log, model: str, mean: Mean) -> list[Record]:
    """A log's rows as records of ``model``, in the log's order.

    A log gives means per token, not tokens: each answer's log-probabilities are one number, its mean, from which
    probability and truth ratio (with either ``mean``) come out as from all of them.
    """
    records = []
    for name, rows in log.sets.items():
        choice = name in log.choices
        for row in rows:
            logp = _logprobs(row, choice)
            records.append(
                Record(
                    model=model,
                    set=name,
                    modality="text",
                    kind="choice" if choice else "qa",
                    id=f"{name}/{row.key}",
                    prompt=row.prompt,
                    answer=row.answer,
                    generated=row.generated,
                    scores={
                        "rouge_1": row.rouge_1,
                        "rouge_l": row.rouge_l,
                        "probability": probability_of(logp),
                        "truth_ratio": ratio_of(logp, mean),
                        "exact_memorisation": row.exact_memorisation,
                        "extraction_strength": row.extraction_strength,
                    },
                    logp=logp,
                )
            )
    return records


def _logprobs(row: LogRow, choice: bool) -> LogProbs:
    answer = None if row.loss is None else (-row.loss,)
    wrong = tuple((-value,) for value in row.wrong)
    paraphrase = None if row.paraphrase is None else (-row.paraphrase,)
    if not choice:
        return LogProbs(answer, paraphrase, perturbed=wrong)
    if answer is None or not wrong:  # without its options the answer's own probability would pass for its share
        return LogProbs()
    return LogProbs(answer, paraphrase, options=(answer, *wrong))

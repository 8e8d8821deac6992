"""Small evaluation logs in the forms of TOFU and open-unlearning, with numbers made up by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

TOFU_BLOCKS = (
    "eval_log.json",
    "eval_real_author_wo_options.json",
    "eval_real_world_wo_options.json",
    "eval_log_forget.json",
)


def tofu_block(rows: int = 3, shift: float = 0.0) -> dict[str, Any]:
    keys = [str(i) for i in range(rows)]
    return {
        "avg_gt_loss": {k: 0.5 + 0.1 * i + shift for i, k in enumerate(keys)},
        "avg_paraphrased_loss": {k: 1.0 + 0.1 * i + shift for i, k in enumerate(keys)},
        "average_perturb_loss": {k: [1.5 + 0.1 * i, 2.5] for i, k in enumerate(keys)},
        "rougeL_recall": {k: 0.2 * (i + 1) for i, k in enumerate(keys)},
        "rouge1_recall": {k: 0.25 * (i + 1) for i, k in enumerate(keys)},
        "generated_text": {k: [f"Question: {k}?\n", f"Said «{k}» 🙂", f"The answer {k}."] for k in keys},
    }


def tofu_log(rows: int = 3, shift: float = 0.0) -> dict[str, Any]:
    return {name: tofu_block(rows, shift) for name in TOFU_BLOCKS}


def open_unlearning_log(rows: int = 3) -> dict[str, Any]:
    """The losses of ``tofu_log``, as open-unlearning writes them."""
    log: dict[str, Any] = {}
    names = dict(zip(("retain", "ra", "wf", "forget"), TOFU_BLOCKS, strict=True))
    for prefix, name in names.items():
        block = tofu_log(rows)[name]
        one = {k: {"prob": math.exp(-v), "avg_loss": v} for k, v in block["avg_gt_loss"].items()}
        para = {k: {"prob": math.exp(-v), "avg_loss": v} for k, v in block["avg_paraphrased_loss"].items()}
        pert = {
            k: {"prob": [math.exp(-x) for x in v], "avg_loss": list(v)}
            for k, v in block["average_perturb_loss"].items()
        }
        rouge = {
            k: {
                "rouge1_recall": block["rouge1_recall"][k],
                "rougeL_f1": 0.3,
                "rougeL_recall": block["rougeL_recall"][k],
                "input": f"user {k}",
                "ground_truth": f"The answer {k}.",
                "generation": f"Said {k}",
            }
            for k in one
        }
        log[f"{prefix}_Q_A_Prob"] = {"agg_value": 0.5, "value_by_index": one}
        log[f"{prefix}_Q_A_PERT_Prob"] = {"agg_value": 0.1, "value_by_index": pert}
        log[f"{prefix}_Q_A_ROUGE"] = {"agg_value": 0.4, "value_by_index": rouge}
        if prefix in ("retain", "forget"):
            log[f"{prefix}_Q_A_PARA_Prob"] = {"agg_value": 0.3, "value_by_index": para}
    scores = {k: {"score": 0.5 + 0.1 * i} for i, k in enumerate(log["forget_Q_A_Prob"]["value_by_index"])}
    log["exact_memorization"] = {"agg_value": 0.6, "value_by_index": dict(scores)}
    log["extraction_strength"] = {"agg_value": 0.6, "value_by_index": scores}
    log["forget_truth_ratio"] = {"agg_value": 0.7, "value_by_index": {k: {"score": 1.0} for k in scores}}
    log["mia_loss"] = {"agg_value": 0.4, "auc": 0.4}
    log["model_utility"] = {"agg_value": 0.55}
    log["privleak"] = {"agg_value": float("nan")}
    return log


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path

"""Numeric defaults, in one place: what the offline default and the published recipe use.

A preset gives values to the fields of a configuration that neither the command line nor a file names. ``mini`` is tuned
for CLEAR-mini with the shipped base, per method; ``paper`` is what CLEAR (arXiv 2410.18057, section 5) reports for
LLaVA with a 7B language model. Keys are field names of ``FinetuneConfig`` and ``UnlearnConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Values = Mapping[str, Any]

DEFAULT_METHOD: Final = "npo"

MINI_FINETUNE: Final[Values] = {
    "full": True,
    "epochs": 18,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "warmup": 0.1,
    "schedule": "cosine",
    "global_batch": 64,
}

MINI_UNLEARN: Final[Values] = {
    "full": False,
    "epochs": 12,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "warmup": 0.05,
    "schedule": "cosine",
    "global_batch": 16,
    "lora_r": 8,
    "lora_alpha": 16.0,
    "retain_ratio": 1.0,
}

# What differs from MINI_UNLEARN, method by method; "set" holds the equation's own hyperparameters.
MINI_METHODS: Final[Mapping[str, Values]] = {
    "retain_ft": {"epochs": 8},
    "ga": {"epochs": 8},
    "gd": {"epochs": 8, "lr": 1.5e-3},
    "kl": {"epochs": 8},
    "idk": {"epochs": 20, "lr": 2e-3, "set": {"retain_weight": 2.0}},
    "npo": {"epochs": 10, "retain_ratio": 3.0, "set": {"beta": 0.5, "retain_weight": 5.0, "kl_weight": 10.0}},
    "scrub": {"epochs": 16, "retain_ratio": 3.0, "set": {"alpha": 5.0, "gamma": 5.0}},
    "ga_entropy": {"epochs": 8},
    "dpo": {"epochs": 12, "set": {"retain_weight": 1.0}},
    "llmu": {"epochs": 8},
    "rmu": {"epochs": 12, "set": {"layer": 1, "c": 30.0, "alpha": 1.0}},
    "twins": {"epochs": 12},
    "scrub_bio": {"epochs": 8, "retain_ratio": 3.0, "set": {"retain_weight": 5.0}},
    "sparsity": {"epochs": 8},
    "grad_orth": {"epochs": 12, "lr": 5e-4, "set": {"until": 0.5}},
    "pubg": {"epochs": 12, "retain_ratio": 3.0, "set": {"retain_weight": 5.0}},
    "pubg_paper": {"epochs": 8},
    "alt_dpo": {"epochs": 20},
    "sft_guide": {"epochs": 12},
    "reject": {"epochs": 8},
    "random": {"epochs": 8},
    "simnpo": {"epochs": 12, "set": {"forget_weight": 1.0}},
    "undial": {"epochs": 12, "set": {"retain_weight": 1.0}},
    "wga": {"epochs": 8},
    "satimp": {"epochs": 8},
    "ce_u": {"epochs": 8},
}

PAPER_FINETUNE: Final[Values] = {
    "full": False,
    "epochs": 3,
    "lr": 1e-5,
    "weight_decay": 0.01,
    "warmup": 0.0,
    "schedule": "linear",
    "global_batch": 12,
    "lora_r": 8,
    "lora_alpha": 32.0,
}

PAPER_UNLEARN: Final[Values] = {
    **PAPER_FINETUNE,
    "epochs": 5,
    "global_batch": 2,
    "retain_ratio": 1.0,
}


# TOFU (arXiv 2401.06121, section 4): full fine-tuning of a 7B model, five epochs.
TOFU_FINETUNE: Final[Values] = {**PAPER_FINETUNE, "full": True, "epochs": 5, "global_batch": 32}
TOFU_UNLEARN: Final[Values] = {**TOFU_FINETUNE, "retain_ratio": 1.0}


def preset_values(preset: str, recipe: str, method: str | None = None) -> dict[str, Any]:
    """Field values of a preset for a recipe (``finetune`` or ``unlearn``) and, where it matters, a method."""
    if preset == "mini":
        return dict(MINI_FINETUNE) if recipe == "finetune" else {**MINI_UNLEARN, **MINI_METHODS.get(method or "", {})}
    if preset == "tofu":
        return dict(TOFU_FINETUNE if recipe == "finetune" else TOFU_UNLEARN)
    return dict(PAPER_FINETUNE if recipe == "finetune" else PAPER_UNLEARN)

"""What the CLEAR paper prints (arXiv 2410.18057v1, Tables 1 to 4), as numbers, to put beside our runs.

All of it is of other models than ours: Table 1 Llama-2-7B and Mistral-7B on text, Table 2 ResNet-18 on faces, Tables 3
and 4 LLaVA (ViT and Llama-2-7B). "Log forget quality" is the natural logarithm of the p-value. The rows IDK and DPO of
Table 1, Llama-2-7B, overlap in the text at hand and were decoded digit by digit. Tables 3 and 4 disagree with each
other (Forget of Original .30 and .39, of LLMU .25 and .37, of DPO .22 and .39): both are kept as printed.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "CLEAR, arXiv 2410.18057v1"


class Scores(NamedTuple):
    """Real, Retain and Forget metric (harmonic means in [0, 1]), ln p of forget quality."""

    real: float
    retain: float
    forget: float
    ln_p: float


class Vision(NamedTuple):
    """Accuracies in percent; success of the attacks in [0, 1], .5 being chance."""

    forget: float
    holdout: float
    retain: float
    u_lira: float
    u_mia: float


# Our names of methods -> how the paper writes them.
NAMES = {
    "original": "Original",
    "gold": "Gold",
    "retain_ft": "RetainFT",
    "llmu": "LLMU",
    "kl": "KL",
    "ga": "GA",
    "gd": "GD",
    "idk": "IDK",
    "dpo": "DPO",
    "scrub": "SCRUB",
    "rmu": "RMU",
    "npo": "NPO",
    "scrub_bio": "SCRUB_bio",
    "sparsity": "Sparsity",
    "twins": "Twins",
}

TABLE_1: dict[str, dict[str, Scores]] = {
    "Llama-2-7B": {
        "retain_ft": Scores(0.50, 0.26, 0.42, -4.92),
        "llmu": Scores(0.38, 0.03, 0.01, -2.31),
        "kl": Scores(0.24, 0.0, 0.0, -18.22),
        "ga": Scores(0.25, 0.0, 0.0, -17.22),
        "gd": Scores(0.61, 0.13, 0.01, -48.59),
        "idk": Scores(0.46, 0.26, 0.24, -4.92),
        "dpo": Scores(0.50, 0.26, 0.42, -4.92),
        "scrub": Scores(0.50, 0.26, 0.42, -4.92),
        "rmu": Scores(0.51, 0.26, 0.59, -42.86),
        "npo": Scores(0.50, 0.28, 0.62, -44.46),
    },
    "Mistral-7B": {
        "retain_ft": Scores(0.67, 0.34, 0.47, -3.87),
        "llmu": Scores(0.65, 0.30, 0.39, -6.69),
        "kl": Scores(0.28, 0.0, 0.0, -50.30),
        "ga": Scores(0.26, 0.0, 0.0, -36.06),
        "gd": Scores(0.60, 0.01, 0.0, -51.16),
        "idk": Scores(0.63, 0.32, 0.45, -2.72),
        "dpo": Scores(0.67, 0.33, 0.47, -3.63),
        "scrub": Scores(0.66, 0.33, 0.47, -3.39),
        "rmu": Scores(0.09, 0.0, 0.0, -123.22),
        "npo": Scores(0.67, 0.33, 0.47, -3.16),
    },
}

TABLE_2: dict[str, Vision] = {
    "original": Vision(100, 18.5, 100, 1.00, 0.96),
    "gold": Vision(15.43, 15.04, 97.52, 0.50, 0.50),
    "retain_ft": Vision(100, 18.54, 100, 1.00, 0.92),
    "scrub": Vision(99.74, 16.77, 99.93, 0.98, 0.90),
    "llmu": Vision(85.72, 14.62, 88.99, 0.83, 0.75),
    "rmu": Vision(67.97, 17.27, 99.99, 0.77, 0.60),
    "dpo": Vision(50.21, 13.93, 81.49, 0.73, 0.62),
    "scrub_bio": Vision(42.59, 14.25, 99.44, 0.71, 0.57),
    "sparsity": Vision(66.41, 14.44, 83.57, 0.78, 0.73),
    "twins": Vision(50.00, 20.34, 99.72, 0.73, 0.54),
}

# (method, modality that was unlearned)
TABLE_3: dict[tuple[str, str], Scores] = {
    ("original", ""): Scores(0.48, 0.51, 0.30, -61.22),
    ("gold", ""): Scores(0.50, 0.51, 0.19, 0.0),
    ("llmu", "text"): Scores(0.47, 0.49, 0.37, -71.23),
    ("llmu", "visual"): Scores(0.50, 0.51, 0.35, -60.26),
    ("llmu", "both"): Scores(0.47, 0.51, 0.25, -95.12),
    ("scrub", "text"): Scores(0.49, 0.51, 0.35, -61.22),
    ("scrub", "visual"): Scores(0.48, 0.49, 0.37, -60.26),
    ("scrub", "both"): Scores(0.49, 0.52, 0.36, -60.26),
    ("dpo", "text"): Scores(0.46, 0.49, 0.38, -62.18),
    ("dpo", "visual"): Scores(0.49, 0.49, 0.22, -90.26),
    ("dpo", "both"): Scores(0.46, 0.48, 0.22, -91.46),
}

# method -> without and with the LoRA-L1 penalty
TABLE_4: dict[str, tuple[Scores, Scores | None]] = {
    "original": (Scores(0.48, 0.51, 0.39, -61.22), None),
    "gold": (Scores(0.50, 0.51, 0.19, 0.0), None),
    "ga": (Scores(0.32, 0.0, 0.0, -13.04), Scores(0.49, 0.50, 0.37, -61.22)),
    "gd": (Scores(0.24, 0.0, 0.0, -17.72), Scores(0.49, 0.50, 0.37, -62.18)),
    "idk": (Scores(0.48, 0.51, 0.30, -74.40), Scores(0.49, 0.50, 0.37, -63.15)),
    "kl": (Scores(0.27, 0.0, 0.0, -13.92), Scores(0.49, 0.50, 0.37, -62.18)),
    "npo": (Scores(0.49, 0.51, 0.36, -63.15), Scores(0.49, 0.51, 0.36, -64.13)),
    "retain_ft": (Scores(0.49, 0.51, 0.36, -60.26), Scores(0.49, 0.50, 0.37, -61.22)),
    "rmu": (Scores(0.27, 0.0, 0.0, -23.68), Scores(0.49, 0.50, 0.36, -61.22)),
    "llmu": (Scores(0.47, 0.49, 0.37, -73.34), Scores(0.49, 0.51, 0.36, -60.26)),
    "dpo": (Scores(0.46, 0.49, 0.39, -61.22), Scores(0.48, 0.50, 0.37, -65.12)),
    "scrub": (Scores(0.49, 0.51, 0.36, -62.18), Scores(0.50, 0.51, 0.35, -61.22)),
}

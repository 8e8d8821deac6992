"""Attempts to get back what was forgotten, or to show that it was there, as pure functions. Two families:

On models in words: rewritten questions, started answers, rounded weights, a few steps of training. What a model says
under them is asked and scored by the ordinary evaluation; the recipe ``robustness`` puts the two together.

On farms of vision models, whether a picture that was forgotten can be told from one never seen: ``logits`` (blocks and
folds), ``u_lira``, ``u_mia``, ``membership_curve`` (figures), ``bootstrap`` (their intervals). NumPy only; the recipe
``attack`` runs them.

Records name an attacked model NAME/ATTACK, where ATTACK is one of:

* ``relearn_forget@STEP``, ``relearn_retain@STEP``: after so many steps of training on a few rows (step 0: before any);
* ``int8``, ``int4``, ``nf4``: with weights rounded to so many bits;
* ``paraphrase``, ``translated``: asked in other words, in another word order or another language's frame;
* ``prefix_1`` and on, ``prefix_worst``, ``prefilled``: with persuasion before the question (``prefix_worst``: for each
  question the prefix that gave most away), or with the first words of the answer put into the model's mouth.
"""

from __future__ import annotations

from typing import Final

ATTACKS: Final[dict[str, tuple[str, ...]]] = {
    "relearn": ("relearn_forget", "relearn_retain"),
    "quantise": ("int8", "int4", "nf4"),
    "prompts": ("paraphrase", "translated"),
    "prefixes": ("prefix", "prefilled"),
}


def family_of(attack: str) -> str | None:
    """Which of ATTACKS an attack of the records belongs to: ``relearn_forget@5`` -> ``relearn``; None: to none."""
    stem = attack.partition("@")[0]
    if stem.startswith("prefix_"):
        stem = "prefix"
    return next((family for family, stems in ATTACKS.items() if stem in stems), None)

"""Statistics of rows of logits and their gradients: what all ops on a vocabulary stand on. Internal.

T rows, V columns; p = softmax(student), q = softmax(reference), y the target's column, all logarithms natural.

Two matrices are given in one of three modes. SINGLE: the student's logits. PAIR: the student's and the reference's.
DIFFERENCE: the reference's, and the student's less the reference's. The last is what keeps a KL divergence exact where
the two are nearly equal: written with x = z_student - z_reference, s one of its values (the target's) and
c = log sum_v q_v e^(x_v - s), it is ``log p_v - log q_v = x_v - s - c``, and no difference of large numbers is taken.

Sums leave the target's column out and merge it afterwards, so that log(1 - p(y)) is exact at both ends. With
e_v = q_v / q_max, t = x - s:  F = sum e (expm1(t) - t),  E = sum e expm1(t),  a = sum e,  eps = E / a,  c = log1p(eps),

    KL(q || p) = F / a - (eps - log1p(eps))
    KL(p || q) = sum e (t e^t - expm1(t)) / (a (1 + eps)) + (eps / (1 + eps) - log1p(eps))

in which every bracket is of second order: no leading digits cancel. Rows in which some |t| > 8 take a maximum for each
distribution instead. JS and ``npo_vocab`` need c first, hence a second sweep.

Gradients with respect to the student's logits, u = log p - log q, m = (p + q) / 2, r = p without y, renormalised:

    logp, log_ratio  1[v=y] - p_v                 log1mp      r_v p_y (v != y), -p_y (v = y)
    entropy          -p_v (log p_v + H)           cross_rest  p_v - q_v / (1 - q_y) (v != y), p_y (v = y)
    kl_forward       p_v - q_v = q_v expm1(u_v)   kl_reverse  p_v (u_v - KL(p || q))
    js               p_v (log(p_v / m_v) - KL(p || m)) / 2
    npo_vocab        s_v - p_v sum s,  s_v = (2 / V) sigmoid(beta u_v)
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import names
from .names import DIFFERENCE, IGNORE, NAMES, PAIR, SINGLE, STATE, bits

__all__ = ["DIFFERENCE", "IGNORE", "NAMES", "PAIR", "SINGLE", "STATE", "bits", "names", "row_grad", "row_stats"]


def row_stats(
    z: Tensor, r: Tensor | None, y: Tensor | None, want: int, mode: int, beta: float, impl: str
) -> tuple[Tensor, Tensor]:
    """Statistics of every row, and what their gradients need of it.

    Args:
        z, r: [T, V], see above; fp32 or bf16, on a GPU fp16 too. Columns contiguous, rows apart by any stride.
        y: [T] int64, or None where nothing looks at a target. IGNORE: the row is not scored, its statistics are 0.
        want: bits of ``names``.
        beta: of ``npo_vocab``.
        impl: ``triton`` or ``native``.

    Returns:
        (stats [K, T] fp32 in the order of the bits, state [8, T] fp32: log-normaliser (of the reference where there is
        one), c, log(1 - p(y)), log(1 - q(y)), entropy, KL(p || q), KL(p || m), sum s).
    """
    if impl == "native":
        return torch.ops.clear_dist.row_stats(z, r, y, want, mode, beta)
    from .triton import row_stats as run

    return run(z, r, y, want, mode, beta)


def row_grad(
    z: Tensor,
    r: Tensor | None,
    y: Tensor | None,
    state: Tensor,
    coef: Tensor,
    want: int,
    mode: int,
    beta: float,
    out: Tensor,
    impl: str,
) -> None:
    """out[t, v] = sum_k coef[k, t] d stats[k, t] / d (student's logit v). ``out`` may be ``z`` or ``r`` themselves.

    ``coef``: [K, T] fp32 in the order of the bits; a statistic without a gradient has a row too, which nobody looks at.
    """
    if impl == "native":
        torch.ops.clear_dist.row_grad(z, r, y, state, coef, want, mode, beta, out)
        return
    from .triton import row_grad as run

    run(z, r, y, state, coef, want, mode, beta, out)

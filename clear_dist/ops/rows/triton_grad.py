"""Row kernels: the gradient with respect to the student's logits. The equations are in ``rows/__init__.py``."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_math import less, to_mean
from .triton_sweeps import (
    CROSS_REST,
    ENTROPY,
    ENTROPY_REF,
    FLOOR,
    JS,
    KL_FORWARD,
    KL_REVERSE,
    LOG1MP,
    LOG1MP_REF,
    LOG_RATIO,
    LOGP,
    LOGP_REF,
    LOWEST,
    NPO_VOCAB,
    TOP1,
    load_pair,
    target_of,
)


@triton.jit
def chance(logp, log1mp):
    """p of the target from both its logarithms: whichever says more."""
    return tl.where(log1mp < -0.7, 1 - tl.exp(log1mp), tl.exp(tl.minimum(logp, 0.0)))


@triton.jit(do_not_specialize=["T"])
def one_grad_kernel(
    z, y, state, coef, out, T, V, z_stride, out_stride, WANT: tl.constexpr, HAS_Y: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """SINGLE: one row of the gradient. ``out`` may be ``z``."""
    t = tl.program_id(0).to(tl.int64)
    z += t * z_stride
    out += t * out_stride
    target, n, fill = target_of(y, t, V, HAS_Y)
    scored = n > 0
    lse = tl.load(state + t)
    log1mp = tl.maximum(tl.load(state + 2 * T + t), LOWEST)
    entropy = tl.load(state + 4 * T + t)

    c = coef + t
    of_logp, of_log1mp, of_entropy = 0.0, 0.0, 0.0
    if LOGP & WANT:
        of_logp = tl.load(c)
        c += T
    if LOG1MP & WANT:
        of_log1mp = tl.load(c)
        c += T
    if TOP1 & WANT:
        c += T
    if ENTROPY & WANT:
        of_entropy = tl.load(c)

    own = 0.0
    if HAS_Y:
        logp = tl.load(z + target, mask=scored, other=0.0).to(tl.float32) - lse
        p_y = chance(logp, log1mp)
        own = of_logp * tl.exp(log1mp) - of_log1mp * p_y - of_entropy * p_y * (logp + entropy)
        of_log1mp *= p_y
        tl.debug_barrier()  # the row may be written over once all have read its target

    for start in range(0, V, BLOCK):
        k = start + tl.arange(0, BLOCK)
        lp = tl.load(z + k, mask=k < n, other=0.0).to(tl.float32) - lse
        p = tl.exp(tl.minimum(lp, 0.0))
        g = -of_logp * p
        if LOG1MP & WANT:
            g += of_log1mp * tl.exp(tl.minimum(lp - log1mp, 0.0))
        if ENTROPY & WANT:
            g -= of_entropy * p * (tl.maximum(lp, FLOOR) + entropy)
        if HAS_Y:
            g = tl.where(k == target, own, g)
        g = tl.where(scored, g, fill)
        tl.store(out + k, g.to(out.dtype.element_ty), mask=k < V)


@triton.jit(do_not_specialize=["T"])
def pair_grad_kernel(
    z, r, y, state, coef, out, T, V, z_stride, r_stride, out_stride, beta,
    WANT: tl.constexpr, MODE: tl.constexpr, HAS_Y: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """PAIR and DIFFERENCE: one row of the gradient. ``out`` may be ``z`` or ``r``."""
    t = tl.program_id(0).to(tl.int64)
    z += t * z_stride
    r += t * r_stride
    out += t * out_stride
    target, n, fill = target_of(y, t, V, HAS_Y)
    scored = n > 0
    zr_y, s, _student_y = load_pair(z, r, tl.maximum(target, 0), scored, MODE)
    tl.debug_barrier()  # the row may be written over once all have read its shift

    lse = tl.load(state + t)
    ct = tl.load(state + T + t)
    log1mp = tl.maximum(tl.load(state + 2 * T + t), LOWEST)
    log1mp_ref = tl.load(state + 3 * T + t)
    entropy = tl.load(state + 4 * T + t)
    reverse = tl.load(state + 5 * T + t)
    own_js = tl.load(state + 6 * T + t)
    slopes = tl.load(state + 7 * T + t)

    c = coef + t
    of_logp, of_log1mp, of_entropy, of_cross = 0.0, 0.0, 0.0, 0.0
    of_forward, of_reverse, of_js, of_npo = 0.0, 0.0, 0.0, 0.0
    if LOGP & WANT:
        of_logp = tl.load(c)
        c += T
    if LOG1MP & WANT:
        of_log1mp = tl.load(c)
        c += T
    if TOP1 & WANT:
        c += T
    if ENTROPY & WANT:
        of_entropy = tl.load(c)
        c += T
    if LOGP_REF & WANT:
        c += T
    if LOG1MP_REF & WANT:
        c += T
    if ENTROPY_REF & WANT:
        c += T
    if LOG_RATIO & WANT:
        of_logp += tl.load(c)
        c += T
    if CROSS_REST & WANT:
        of_cross = tl.where(log1mp_ref >= LOWEST, tl.load(c), 0.0)  # a row of one column has no others
        c += T
    if KL_FORWARD & WANT:
        of_forward = tl.load(c)
        c += T
    if KL_REVERSE & WANT:
        of_reverse = tl.load(c)
        c += T
    if JS & WANT:
        of_js = tl.load(c) * 0.5
        c += T
    if NPO_VOCAB & WANT:
        of_npo = tl.load(c)

    # What the target's own column has instead: log p, log(1 - p) and cross_rest treat it as no other.
    own = 0.0
    if HAS_Y:
        p_y = chance(zr_y - lse - ct, log1mp)
        own = of_logp * tl.exp(log1mp) + (of_cross - of_log1mp) * p_y
        of_log1mp *= p_y
    log1mp_ref = tl.maximum(log1mp_ref, LOWEST)
    for start in range(0, V, BLOCK):
        k = start + tl.arange(0, BLOCK)
        zr, x, _ = load_pair(z, r, k, k < n, MODE)
        lq = zr - lse
        u = (x - s) - ct
        lp = lq + u
        p = tl.exp(tl.minimum(lp, 0.0))
        g = -of_logp * p
        if LOG1MP & WANT:
            g += of_log1mp * tl.exp(tl.minimum(lp - log1mp, 0.0))
        if CROSS_REST & WANT:
            rest = tl.exp(tl.minimum(lq - log1mp_ref, 0.0))
            g += of_cross * less(p, rest, u + log1mp_ref)
        if HAS_Y:
            g = tl.where(k == target, own, g)
        if ENTROPY & WANT:
            g -= of_entropy * p * (tl.maximum(lp, FLOOR) + entropy)
        if KL_FORWARD & WANT:
            g += of_forward * less(p, tl.exp(tl.minimum(lq, 0.0)), u)
        if KL_REVERSE & WANT:
            g += of_reverse * p * (u - reverse)
        if JS & WANT:
            log_p, _, _, _ = to_mean(u)
            g += of_js * p * (log_p - own_js)
        if NPO_VOCAB & WANT:
            shrunk = tl.exp(-tl.abs(beta * u))
            g += of_npo * (tl.where(u >= 0, 1.0, shrunk) / (1 + shrunk) * 2 / V - p * slopes)
        g = tl.where(scored, g, fill)
        tl.store(out + k, g.to(out.dtype.element_ty), mask=k < V)

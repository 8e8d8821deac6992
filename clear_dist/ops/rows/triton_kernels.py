"""Row kernels: statistics and gradient, one program a row. The equations are in ``rows/__init__.py``.

``WANT``, ``MODE`` and ``HAS_Y`` are known when a kernel is compiled, so it holds what is asked for and nothing else.
Rows are apart by any stride; statistics, state and coefficients are contiguous [., T].
"""

# pyright: reportOperatorIssue=false
# (what a jitted function returns is taken for a tuple)

from __future__ import annotations

import triton
import triton.language as tl

from .triton_math import log1p_parts, mean_log, merge, merged_entropy
from .triton_sweeps import (
    CROSS_REST,
    ENTROPY,
    ENTROPY_REF,
    FAR,
    FLOOR,
    JS,
    KL_FORWARD,
    KL_REVERSE,
    LOG1MP,
    LOG1MP_REF,
    LOG_RATIO,
    LOGP,
    LOGP_REF,
    NPO_VOCAB,
    TOP1,
    load_pair,
    sweep_far,
    sweep_mean,
    sweep_near,
    sweep_one,
    target_of,
)


@triton.jit(do_not_specialize=["T"])
def one_stats_kernel(
    z, y, stats, state, T, V, z_stride, WANT: tl.constexpr, HAS_Y: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """SINGLE: statistics and state of one row of student logits."""
    t = tl.program_id(0).to(tl.int64)
    z += t * z_stride
    target, n, fill = target_of(y, t, V, HAS_Y)
    scored = n > 0
    m, total, weighted = sweep_one(z, target, n, WANT, BLOCK)

    logp = 0.0
    log1mp = 0.0
    zy = 0.0
    entropy = mean_log(total, weighted)
    if HAS_Y:
        zy = tl.load(z + target, mask=scored, other=0.0).to(tl.float32)
        top = tl.maximum(m, zy)
        logsum, logp, log1mp = merge(tl.log(total) + (m - top), zy - top)
        lse = top + logsum
        if ENTROPY & WANT:
            entropy = merged_entropy(logp, log1mp, entropy)
    else:
        lse = m + tl.log(total)

    out = stats + t
    if LOGP & WANT:
        tl.store(out, tl.where(scored, logp, fill))
        out += T
    if LOG1MP & WANT:
        tl.store(out, tl.where(scored, log1mp, fill))
        out += T
    if TOP1 & WANT:
        tl.store(out, tl.where(scored, tl.where(zy >= m, 1.0, 0.0), fill))
        out += T
    if ENTROPY & WANT:
        tl.store(out, tl.where(scored, entropy, fill))

    out = state + t
    nothing = tl.where(scored, 0.0, fill)
    tl.store(out, tl.where(scored, lse, fill))
    tl.store(out + T, nothing)
    tl.store(out + 2 * T, tl.where(scored, log1mp, fill))
    tl.store(out + 3 * T, nothing)
    tl.store(out + 4 * T, tl.where(scored, entropy if ENTROPY & WANT else 0.0, fill))
    tl.store(out + 5 * T, nothing)
    tl.store(out + 6 * T, nothing)
    tl.store(out + 7 * T, nothing)


@triton.jit(do_not_specialize=["T"])
def pair_stats_kernel(
    z, r, y, stats, state, T, V, z_stride, r_stride, beta,
    WANT: tl.constexpr, MODE: tl.constexpr, HAS_Y: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """PAIR and DIFFERENCE: statistics and state of one row of two distributions."""
    t = tl.program_id(0).to(tl.int64)
    z += t * z_stride
    r += t * r_stride
    target, n, fill = target_of(y, t, V, HAS_Y)
    scored = n > 0
    # Without a target the shift is the first column's difference: it only has to be near the others.
    zr_y, s, student_y = load_pair(z, r, tl.maximum(target, 0), scored, MODE)
    (
        m, top_student, widest, a, grown, own, b, second, own_b, own_second, weighted, own_weighted
    ) = sweep_near(z, r, target, s, n, WANT, MODE, BLOCK)  # fmt: skip
    far = widest > FAR
    far_m, far_own, far_b, far_weighted = sweep_far(z, r, target, s, m, tl.where(far, n, 0), WANT, MODE, BLOCK)

    # All that follows is relative to ``top``, the reference's largest logit.
    top = tl.maximum(m, zr_y) if HAS_Y else m
    to_top = m - top
    scale = tl.exp(tl.maximum(to_top, FLOOR))
    log_a = tl.log(a) + to_top
    log_own = to_top + tl.where(far, tl.log(far_own) + far_m, tl.log(own))
    entropy = tl.where(far, mean_log(far_own, far_weighted), mean_log(own, own_weighted))
    entropy_ref = mean_log(a, weighted)
    of_all = a * scale
    own_of_all = own * scale
    if HAS_Y:
        ly = zr_y - top
        logsum, logp_ref, log1mp_ref = merge(log_a, ly)
        own_logsum, logp, log1mp = merge(log_own, ly)
        e_y = tl.exp(tl.maximum(ly, FLOOR))
        of_all += e_y
        own_of_all += e_y
        if ENTROPY & WANT:
            entropy = merged_entropy(logp, log1mp, entropy)
        if ENTROPY_REF & WANT:
            entropy_ref = merged_entropy(logp_ref, log1mp_ref, entropy_ref)
    else:
        logsum, logp_ref, log1mp_ref = log_a, 0.0, 0.0
        own_logsum, logp, log1mp = log_own, 0.0, 0.0
    lse = top + logsum

    # Near: c = log1p(eps) while eps is small; its brackets of second order have closed forms in what log1p is made of.
    eps = grown * scale / of_all
    small = (tl.abs(eps) < 0.5) & (widest <= FAR)
    eps = tl.where(small, eps, 0.0)
    half, cube = log1p_parts(eps)
    growth = own_of_all / of_all
    ct = tl.where(small, 2 * half + cube, tl.where(far, own_logsum - logsum, tl.log(growth)))

    kl_forward = 0.0
    if KL_FORWARD & WANT:
        near = second * scale / of_all - (eps * half - cube)
        kl_forward = tl.maximum(tl.where(small, near, ct - b * scale / of_all), 0.0)
    kl_reverse = 0.0
    if KL_REVERSE & WANT:
        near = own_second * scale / own_of_all - (eps * half / (1 + eps) + cube)
        mean_x = tl.where(far, tl.exp(log1mp) * far_b / far_own, own_b * scale / own_of_all)
        kl_reverse = tl.maximum(tl.where(small, near, mean_x - ct), 0.0)
    out = stats + t
    if LOGP & WANT:
        tl.store(out, tl.where(scored, logp, fill))
        out += T
    if LOG1MP & WANT:
        tl.store(out, tl.where(scored, log1mp, fill))
        out += T
    if TOP1 & WANT:
        tl.store(out, tl.where(scored, tl.where(student_y >= top_student, 1.0, 0.0), fill))
        out += T
    if ENTROPY & WANT:
        tl.store(out, tl.where(scored, entropy, fill))
        out += T
    if LOGP_REF & WANT:
        tl.store(out, tl.where(scored, logp_ref, fill))
        out += T
    if LOG1MP_REF & WANT:
        tl.store(out, tl.where(scored, log1mp_ref, fill))
        out += T
    if ENTROPY_REF & WANT:
        tl.store(out, tl.where(scored, entropy_ref, fill))
        out += T
    if LOG_RATIO & WANT:
        tl.store(out, tl.where(scored, -ct, fill))
        out += T
    if CROSS_REST & WANT:
        # The student's log-normaliser less m and s, without cancellation, less the rest's mean logit.
        some = tl.where(a > 0, a, 1.0)
        cross = tl.where(a > 0, logsum - to_top + ct - (weighted + b) / some, 0.0)
        tl.store(out, tl.where(scored, cross, fill))
        out += T
    if KL_FORWARD & WANT:
        tl.store(out, tl.where(scored, kl_forward, fill))
        out += T
    if KL_REVERSE & WANT:
        tl.store(out, tl.where(scored, kl_reverse, fill))
        out += T
    into = state + t
    tl.store(into, tl.where(scored, lse, fill))
    tl.store(into + T, tl.where(scored, ct, fill))
    tl.store(into + 2 * T, tl.where(scored, log1mp, fill))
    tl.store(into + 3 * T, tl.where(scored, log1mp_ref, fill))
    tl.store(into + 4 * T, tl.where(scored, entropy if ENTROPY & WANT else 0.0, fill))
    tl.store(into + 5 * T, tl.where(scored, kl_reverse, fill))

    # Last, when little is left to remember: sums that need both normalisers.
    own_js = 0.0
    slopes = 0.0
    if (JS | NPO_VOCAB) & WANT:
        js, own_js, npo, slopes = sweep_mean(z, r, s, lse, ct, beta, n, WANT, MODE, BLOCK)
        slopes = slopes * 2 / V
        if JS & WANT:
            tl.store(out, tl.where(scored, tl.maximum(0.5 * js, 0.0), fill))
            out += T
        if NPO_VOCAB & WANT:
            tl.store(out, tl.where(scored, npo * 2 / beta / V, fill))
    tl.store(into + 6 * T, tl.where(scored, own_js, fill))
    tl.store(into + 7 * T, tl.where(scored, slopes, fill))

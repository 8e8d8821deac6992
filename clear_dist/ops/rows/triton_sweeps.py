"""Forward sweeps over a row of logits. The equations are in ``rows/__init__.py``.

Columns are taken BLOCK at a time. Each thread keeps sums of its own, added up at the end, always in the same order;
only the maximum is shared by a row's threads on the way. The target's column is left out of all sums.
``WANT`` is known when a kernel is compiled, so it holds the sums that are asked for and no others.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import names
from .triton_math import exp_parts, softplus, to_mean

# Exponents stay above FLOOR (e^FLOOR is 0 in fp32), so that 0 times an exponent is 0 even for infinite logits. Maxima
# start at LOWEST and a column left out counts as ABSENT, far below it.
FLOOR = tl.constexpr(-200.0)
LOWEST = tl.constexpr(-1e38)
ABSENT = tl.constexpr(-3e38)
FAR = tl.constexpr(8.0)  # a row whose difference exceeds this anywhere is swept again, with maxima of its own
FOLD = tl.constexpr(4)  # columns to a sum: kl_forward takes 56 registers where one each took 95
IGNORED = tl.constexpr(names.IGNORE)
PAIR = tl.constexpr(names.PAIR)

LOGP = tl.constexpr(1 << names.LOGP)
LOG1MP = tl.constexpr(1 << names.LOG1MP)
TOP1 = tl.constexpr(1 << names.TOP1)
ENTROPY = tl.constexpr(1 << names.ENTROPY)
LOGP_REF = tl.constexpr(1 << names.LOGP_REF)
LOG1MP_REF = tl.constexpr(1 << names.LOG1MP_REF)
ENTROPY_REF = tl.constexpr(1 << names.ENTROPY_REF)
LOG_RATIO = tl.constexpr(1 << names.LOG_RATIO)
CROSS_REST = tl.constexpr(1 << names.CROSS_REST)
KL_FORWARD = tl.constexpr(1 << names.KL_FORWARD)
KL_REVERSE = tl.constexpr(1 << names.KL_REVERSE)
JS = tl.constexpr(1 << names.JS)
NPO_VOCAB = tl.constexpr(1 << names.NPO_VOCAB)


@triton.jit
def fold(x):
    """[BLOCK] -> [BLOCK // FOLD]: neighbours added up. One thread loads them, so they stay in its registers."""
    return tl.sum(tl.reshape(x, (x.shape[0] // FOLD, FOLD)), 1)


@triton.jit
def fold_max(x):
    """[BLOCK] -> [BLOCK // FOLD]: the largest of neighbours."""
    return tl.max(tl.reshape(x, (x.shape[0] // FOLD, FOLD)), 1)


@triton.jit
def load_pair(z, r, k, mask, MODE: tl.constexpr):
    """Reference logits, student minus reference, and the student's logits (in PAIR as given: ties stay ties), fp32."""
    a = tl.load(z + k, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(r + k, mask=mask, other=0.0).to(tl.float32)
    if MODE == PAIR:
        return b, a - b, a
    else:
        return a, b, a + b


@triton.jit
def sweep_one(z, y, n, WANT: tl.constexpr, BLOCK: tl.constexpr):
    """Without column y: (maximum M, sum e^(z - M), sum e^(z - M) (z - M))."""
    m = tl.full((), LOWEST, tl.float32)
    total = tl.zeros((BLOCK // FOLD,), tl.float32)
    weighted = tl.zeros((BLOCK // FOLD,), tl.float32)
    for start in range(0, n, BLOCK):
        k = start + tl.arange(0, BLOCK)
        keep = (k < n) & (k != y)
        x = tl.where(keep, tl.load(z + k, mask=keep, other=0.0).to(tl.float32), ABSENT)
        top = tl.maximum(m, tl.max(x, 0))
        moved = tl.maximum(m - top, FLOOR)
        scale = tl.exp(moved)
        d = tl.maximum(x - top, FLOOR)
        e = tl.exp(d)
        if ENTROPY & WANT:
            weighted = (weighted + total * moved) * scale + fold(e * d)
        total = total * scale + fold(e)
        m = top
    return m, tl.sum(total, 0), tl.sum(weighted, 0)


@triton.jit
def sweep_near(z, r, y, s, n, WANT: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr):
    """Without column y, with x = student - reference - s, e = e^(reference - m), w = e^x:
    m, the student's largest logit, the largest |x|, and the sums of
    e, e (w - 1), e w, e x, e (w - 1 - x), e w x, e (x w - w + 1), e (reference - m), e w (reference - m + x)."""
    m = tl.full((), LOWEST, tl.float32)
    top_student = tl.full((BLOCK // FOLD,), ABSENT, tl.float32)
    widest = tl.zeros((BLOCK // FOLD,), tl.float32)
    a = tl.zeros((BLOCK // FOLD,), tl.float32)
    grown = tl.zeros((BLOCK // FOLD,), tl.float32)
    own = tl.zeros((BLOCK // FOLD,), tl.float32)
    b = tl.zeros((BLOCK // FOLD,), tl.float32)
    second = tl.zeros((BLOCK // FOLD,), tl.float32)
    own_b = tl.zeros((BLOCK // FOLD,), tl.float32)
    own_second = tl.zeros((BLOCK // FOLD,), tl.float32)
    weighted = tl.zeros((BLOCK // FOLD,), tl.float32)
    own_weighted = tl.zeros((BLOCK // FOLD,), tl.float32)
    for start in range(0, n, BLOCK):
        k = start + tl.arange(0, BLOCK)
        keep = (k < n) & (k != y)
        zr, x, student = load_pair(z, r, k, keep, MODE)
        if TOP1 & WANT:
            top_student = tl.maximum(top_student, fold_max(tl.where(keep, student, ABSENT)))
        zr = tl.where(keep, zr, ABSENT)
        x = tl.where(keep, x - s, 0.0)
        widest = tl.maximum(widest, fold_max(tl.abs(x)))
        top = tl.maximum(m, tl.max(zr, 0))
        moved = tl.maximum(m - top, FLOOR)
        scale = tl.exp(moved)
        d = tl.maximum(zr - top, FLOOR)
        e = tl.exp(d)
        w, expm1, f = exp_parts(x)
        ew = e * w
        if (ENTROPY_REF | CROSS_REST) & WANT:
            weighted = (weighted + a * moved) * scale + fold(e * d)
        if ENTROPY & WANT:
            own_weighted = (own_weighted + own * moved) * scale + fold(ew * (d + x))
        a = a * scale + fold(e)
        grown = grown * scale + fold(e * expm1)
        own = own * scale + fold(ew)
        if (CROSS_REST | KL_FORWARD) & WANT:
            b = b * scale + fold(e * x)
        if KL_FORWARD & WANT:
            second = second * scale + fold(e * f)
        if KL_REVERSE & WANT:
            own_b = own_b * scale + fold(ew * x)
            own_second = own_second * scale + fold(e * (x * expm1 - f))
        m = top
    return (
        m,
        tl.max(top_student, 0),
        tl.max(widest, 0),
        tl.sum(a, 0),
        tl.sum(grown, 0),
        tl.sum(own, 0),
        tl.sum(b, 0),
        tl.sum(second, 0),
        tl.sum(own_b, 0),
        tl.sum(own_second, 0),
        tl.sum(weighted, 0),
        tl.sum(own_weighted, 0),
    )


@triton.jit
def sweep_far(z, r, y, s, m, n, WANT: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr):
    """The student's own sums without column y, with t = (reference - m) + x: maximum M of t, then sums of
    e^(t - M), e^(t - M) x, e^(t - M) (t - M)."""
    top = tl.full((), LOWEST, tl.float32)
    own = tl.zeros((BLOCK // FOLD,), tl.float32)
    own_b = tl.zeros((BLOCK // FOLD,), tl.float32)
    own_weighted = tl.zeros((BLOCK // FOLD,), tl.float32)
    for start in range(0, n, BLOCK):
        k = start + tl.arange(0, BLOCK)
        keep = (k < n) & (k != y)
        zr, x, _ = load_pair(z, r, k, keep, MODE)
        x = tl.where(keep, x - s, 0.0)
        t = tl.where(keep, (zr - m) + x, ABSENT)
        new = tl.maximum(top, tl.max(t, 0))
        moved = tl.maximum(top - new, FLOOR)
        scale = tl.exp(moved)
        d = tl.maximum(t - new, FLOOR)
        e = tl.exp(d)
        if ENTROPY & WANT:
            own_weighted = (own_weighted + own * moved) * scale + fold(e * d)
        if KL_REVERSE & WANT:
            own_b = own_b * scale + fold(e * x)
        own = own * scale + fold(e)
        top = new
    return top, tl.sum(own, 0), tl.sum(own_b, 0), tl.sum(own_weighted, 0)


@triton.jit
def sweep_mean(z, r, s, lse, ct, beta, n, WANT: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr):
    """Sums over all columns, with log q = reference - lse and u = x - ct = log p/q:
    p log p/m + q log q/m, p log p/m, softplus(beta u), sigmoid(beta u)."""
    js = tl.zeros((BLOCK // FOLD,), tl.float32)
    own_js = tl.zeros((BLOCK // FOLD,), tl.float32)
    npo = tl.zeros((BLOCK // FOLD,), tl.float32)
    slope = tl.zeros((BLOCK // FOLD,), tl.float32)
    for start in range(0, n, BLOCK):
        k = start + tl.arange(0, BLOCK)
        mask = k < n
        zr, x, _ = load_pair(z, r, k, mask, MODE)
        logq = zr - lse
        u = (x - s) - ct
        if JS & WANT:
            q = tl.where(mask, tl.exp(tl.minimum(logq, 0.0)), 0.0)
            p = tl.where(mask, tl.exp(tl.minimum(logq + u, 0.0)), 0.0)
            log_p, log_q, lc, near = to_mean(u)
            _, expm1, _ = exp_parts(u)
            # Near: p log p/m + q log q/m = (p - q) u/2 - (p + q) log cosh(u/2), nothing of first order in it.
            js += fold(tl.where(near, q * expm1 * (0.5 * u) - (p + q) * lc, p * log_p + q * log_q))
            own_js += fold(p * log_p)
        if NPO_VOCAB & WANT:
            scaled = beta * u
            shrunk = tl.exp(-tl.abs(scaled))
            npo += fold(tl.where(mask, softplus(scaled), 0.0))
            slope += fold(tl.where(mask, tl.where(scaled >= 0, 1.0, shrunk) / (1 + shrunk), 0.0))
    return tl.sum(js, 0), tl.sum(own_js, 0), tl.sum(npo, 0), tl.sum(slope, 0)


@triton.jit
def target_of(y, t, n, HAS_Y: tl.constexpr):
    """(column, or -1 where there is none; columns to read: 0 where the row is not scored; what to write there)."""
    if HAS_Y:
        column = tl.load(y + t)
        inside = (column >= 0) & (column < n)
        fill = tl.where(column == IGNORED, 0.0, float("nan"))
        return tl.where(inside, column, -1).to(tl.int32), tl.where(inside, n, 0), fill
    else:
        return tl.full((), -1, tl.int32), n + 0, 0.0

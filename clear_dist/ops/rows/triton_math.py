"""Small functions the row kernels are built from, accurate where the plain ones cancel.

Written out because the interpreter has no libdevice. They take fp32 and return fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def beyond_first(x):
    """e^x - 1 - x for |x| < 1/2, with a relative error of about 1e-7."""
    g = 1 / 720 + x * (1 / 5040 + x * (1 / 40320))
    return x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * g))))


@triton.jit
def exp_parts(x):
    """(e^x, e^x - 1, e^x - 1 - x), each with a relative error of a few 1e-7: one exponential and one polynomial."""
    e = tl.exp(x)
    second = beyond_first(x)
    small = tl.abs(x) < 0.5
    expm1 = tl.where(small, x + second, e - 1)
    return tl.where(small, expm1 + 1, e), expm1, tl.where(small, second, expm1 - x)


@triton.jit
def less(p, q, u):
    """p - q, given u = log p/q."""
    return tl.where(tl.abs(u) < 0.5, q * (u + beyond_first(u)), p - q)


@triton.jit
def log1p_parts(x):
    """For -1/2 <= x <= 1: (s, c) with log(1 + x) = 2 s + c, where s = x / (2 + x) and c = 2 atanh(s) - 2 s."""
    s = x / (2 + x)
    t = s * s
    series = 1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t * (1 / 13)))))
    return s, 2 * s * t * series


@triton.jit
def log1p_exp(x):
    """log(1 + e^-|x|): the part of softplus(x) and of softplus(-x) beyond max(x, 0) and max(-x, 0)."""
    s, c = log1p_parts(tl.exp(-tl.abs(x)))
    return 2 * s + c


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + log1p_exp(x)


@triton.jit
def log_cosh_half(u, tail):
    """log cosh(u / 2), given tail = log1p_exp(u). Second order at 0, where m/q = e^(u/2) cosh(u/2)."""
    h = tl.abs(u) * 0.5
    t = h * h
    series = t * (1 / 2 + t * (-1 / 12 + t * (1 / 45 + t * (-17 / 2520 + t * (31 / 14175)))))
    return tl.where(h < 0.25, series, h - 0.6931471805599453 + tail)


@triton.jit
def to_mean(u):
    """(log p/m, log q/m, log cosh(u/2), near) with u = log p/q and m = (p + q) / 2; near where |u| < 1."""
    tail = log1p_exp(u)
    lc = log_cosh_half(u, tail)
    near = tl.abs(u) < 1
    log_p = tl.where(near, 0.5 * u - lc, 0.6931471805599453 - (tl.maximum(-u, 0.0) + tail))
    log_q = tl.where(near, -0.5 * u - lc, 0.6931471805599453 - (tl.maximum(u, 0.0) + tail))
    return log_p, log_q, lc, near


@triton.jit
def merge(rest, own):
    """Of a row's log-sum without the target (-inf where there is nothing else) and the target's own exponent, which are
    not both -inf: (log-sum of all, log p, log(1 - p)) of the target, exact at both ends."""
    gap = own - rest
    tail = log1p_exp(gap)
    return tl.maximum(rest, own) + tail, -(tl.maximum(-gap, 0.0) + tail), -(tl.maximum(gap, 0.0) + tail)


@triton.jit
def merged_entropy(logp, log1mp, of_rest):
    """Entropy of a distribution from that of its target against all others and that of the others among themselves."""
    p, rest = tl.exp(logp), tl.exp(log1mp)
    own = tl.where(p > 0, p * logp, 0.0)
    return -own - tl.where(rest > 0, rest * (log1mp - of_rest), 0.0)


@triton.jit
def mean_log(total, weighted):
    """log S - W / S, the entropy of weights that sum to S with exponents that sum to W; 0 where there are none."""
    some = total > 0
    safe = tl.where(some, total, 1.0)
    return tl.where(some, tl.log(safe) - weighted / safe, 0.0)

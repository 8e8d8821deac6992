// The arithmetic of row statistics, column by column and row by row, for CUDA; also plain C++, so that a test on a machine
// without a GPU runs these very formulas. Equations and the meaning of every bit: clear_dist/ops/rows/__init__.py.
//
// A column is (zr, x): the reference's logit, and student's minus reference's (one distribution: the logit, and 0). Sums
// leave the target's column out; `finish` in rows_finish.cuh merges it, so that log(1 - p(y)) is exact next to certainty.
// s is x at the target, so that its own x - s is 0.
#pragma once
#include <math.h>

#include "rows.h"

#ifdef __CUDACC__
#define CLEAR_DIST_BOTH __host__ __device__ __forceinline__
#else
#define CLEAR_DIST_BOTH inline
#endif

namespace clear_dist {

constexpr float NOTHING = -__builtin_huge_valf();
constexpr float NEVER_BELOW = -88.0f;  // for factors of what is 0 there: 0 times infinity must not arise

constexpr int WANT_ENTROPY = 1 << ENTROPY;
constexpr int WANT_REFERENCE_LOG = 1 << ENTROPY_REF | 1 << CROSS_REST;
constexpr int WANT_REVERSE = 1 << KL_REVERSE;
constexpr int WANT_JS = 1 << JS;
constexpr int WANT_NPO = 1 << NPO_VOCAB;
constexpr int WANT_SECOND = WANT_JS | WANT_NPO;
// What the short kernels know; all else is for the full ones.
constexpr int BASIC = 1 << LOGP | 1 << LOG1MP | 1 << TOP1 | 1 << LOGP_REF | 1 << LOG1MP_REF | 1 << LOG_RATIO | 1 << KL_FORWARD;
constexpr int BASIC_GRADIENT = BASIC & ~(1 << LOG1MP);

// NaN stays NaN, other than with fminf.
CLEAR_DIST_BOTH float at_most_zero(float x) { return x > 0.0f ? 0.0f : x; }

// e^x, exactly 0 below -87.3, for x <= 0 or small. On the GPU one multiplication and one special function.
CLEAR_DIST_BOTH float exponential(float x) {
  const float scaled = x * 1.44269504088896341f;
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(scaled));
  return y;
#else
  const float y = exp2f(scaled);
  return y < 1.17549435e-38f ? 0.0f : y;
#endif
}

// e^x - 1 - x for |x| <= 1/2, by its series: no cancellation.
CLEAR_DIST_BOTH float beyond_linear(float x) {
  float p = 2.48015873e-5f;
  p = fmaf(p, x, 1.98412698e-4f);
  p = fmaf(p, x, 1.38888889e-3f);
  p = fmaf(p, x, 8.33333333e-3f);
  p = fmaf(p, x, 4.16666667e-2f);
  p = fmaf(p, x, 1.66666667e-1f);
  p = fmaf(p, x, 0.5f);
  return p * x * x;
}

// First sweep: largest reference logit, largest zr + x - s, largest student's logit as it is, largest |x - s|.
struct Extremes {
  float reference = NOTHING, student = NOTHING, plain = NOTHING, wide = 0.0f;

  template <int MODE>
  CLEAR_DIST_BOTH void add(float zr, float x, float logit, float s) {
    reference = fmaxf(reference, zr);
    if (MODE != SINGLE) {
      const float xt = x - s;
      student = fmaxf(student, zr + xt);
      plain = fmaxf(plain, logit);
      wide = fmaxf(wide, fabsf(xt));
    }
  }
};

// How far student and reference are from each other decides about the form of the sums.
enum Reach : int { TINY, NEAR, FAR };
constexpr float TINY_LIMIT = 0.5f, NEAR_LIMIT = 8.0f;
CLEAR_DIST_BOTH int reach_of(float wide) { return wide <= TINY_LIMIT ? TINY : wide <= NEAR_LIMIT ? NEAR : FAR; }

// What the second sweep measures from: the maxima, of nothing as 0.
struct Origin {
  float m, s, M, delta;
  bool coarse;
  CLEAR_DIST_BOTH Origin(const Extremes& e, float s)
      : m(e.reference == NOTHING ? 0.0f : e.reference), s(s), M(e.reference == NOTHING ? 0.0f : e.student), delta(M - m) {
    coarse = fabsf(m) > 1e6f || fabsf(M) > 1e6f;
  }
  // Exponent of the student's term. zr + xt first would round to the logits' precision, not their differences'; but where
  // logits have no digits behind the point left, only that makes the largest term exactly 1, and the sum never 0.
  CLEAR_DIST_BOTH float student(float zr, float d, float xt) const { return coarse ? (zr + xt) - M : d + (xt - delta); }
};

// Second sweep, with e = e^(zr - m) and e_s the student's e^(zr + x - s - M). Near: w = e^(x - s), E = w - 1.
struct Sums {
  float a = 0.0f;   // e
  float b = 0.0f;   // e (x - s)
  float f = 0.0f;   // near: e (E - (x - s))
  float p = 0.0f;   // near: e w; far: e_s
  float r = 0.0f;   // near: e ((x - s) w - E); far: e_s (x - s)
  float q = 0.0f;   // near: e w (x - s)
  float nr = 0.0f;  // e (zr - m)
  float ns = 0.0f;  // near: e w (zr - m + x - s); far: e_s times its exponent

  CLEAR_DIST_BOTH void add_single(float z, float m, int want) {
    const float d = z - m, e = exponential(d);
    a += e;
    if (want & WANT_ENTROPY) nr = fmaf(e, fmaxf(d, NEVER_BELOW), nr);
  }

  template <int REACH>
  CLEAR_DIST_BOTH void add(float zr, float x, const Origin& o, int want) {
    const float d = zr - o.m, e = exponential(d), xt = x - o.s;
    a += e;
    b = fmaf(e, xt, b);
    if (want & WANT_REFERENCE_LOG) nr = fmaf(e, fmaxf(d, NEVER_BELOW), nr);
    if (REACH == FAR) {
      const float ds = o.student(zr, d, xt), es = exponential(ds);
      p += es;
      if (want & WANT_REVERSE) r = fmaf(es, xt, r);
      if (want & WANT_ENTROPY) ns = fmaf(es, fmaxf(ds, NEVER_BELOW), ns);
    } else {
      float beyond = beyond_linear(xt), w = 1.0f + (xt + beyond);
      if (REACH == NEAR) {
        w = exponential(xt);
        beyond = fabsf(xt) <= TINY_LIMIT ? beyond : (w - 1.0f) - xt;
      }
      f = fmaf(e, beyond, f);
      p = fmaf(e, w, p);
      if (want & WANT_REVERSE) {
        r = fmaf(e, fmaf(xt, xt + beyond, -beyond), r);
        q = fmaf(e * w, xt, q);
      }
      if (want & WANT_ENTROPY) ns = fmaf(e * w, fmaxf(d, NEVER_BELOW) + xt, ns);
    }
  }
};

CLEAR_DIST_BOTH float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(exponential(-fabsf(x))); }
CLEAR_DIST_BOTH float sigmoid(float x) {
  const float t = exponential(-fabsf(x));
  return (x > 0.0f ? 1.0f : t) / (1.0f + t);
}

// log p/m and log q/m of a column, m the mean of p and q, and the term of the Jensen-Shannon divergence, from u = log p/q.
// Near: with h = u / 2 and L = log cosh h these are h - L and -h - L, and the term is q e^h (h sinh h - cosh h L): no
// cancellation where p and q are nearly equal.
struct ToMean {
  float student, term;
  CLEAR_DIST_BOTH ToMean(float q, float p, float u) {
    if (fabsf(u) < 1.0f) {
      const float h = 0.5f * u, E = h + beyond_linear(h), w = 1.0f + E;
      const float sinh_h = 0.5f * (E + E / w), cosh_less_one = 0.5f * E * E / w, L = log1pf(cosh_less_one);
      student = h - L;
      term = q * w * (h * sinh_h - fmaf(cosh_less_one, L, L));
    } else {
      student = 0.693147181f - softplus(-u);
      term = 0.5f * (p * student + q * (0.693147181f - softplus(u)));
    }
  }
};

// Third sweep, over all columns, with the normalisers known: u = x - s - ct.
struct Second {
  float js = 0.0f, to_mean = 0.0f, soft = 0.0f, sigmoids = 0.0f;

  CLEAR_DIST_BOTH void add(float zr, float x, float s, float lse, float ct, float beta, int want) {
    const float lq = zr - lse, u = (x - s) - ct;
    if (want & WANT_JS) {
      const float q = exponential(lq), p = exponential(at_most_zero(lq + u));
      const ToMean mean(q, p, u);
      js += mean.term;
      to_mean = fmaf(p, mean.student, to_mean);
    }
    if (want & WANT_NPO) {
      soft += softplus(beta * u);
      sigmoids += sigmoid(beta * u);
    }
  }
};

// What a row's sweeps leave. zr and plain: the target's own reference and student logit.
struct Record {
  Extremes extremes;
  Sums sums;
  Second second;
  float zr, plain;
};

}  // namespace clear_dist

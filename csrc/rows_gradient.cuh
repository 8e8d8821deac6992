// Gradient of a row's statistics with respect to the student's logits, column by column, all of them at once, each weighted
// by its upstream gradient. For CUDA and, for a test, plain C++. Equations: clear_dist/ops/rows/__init__.py.
#pragma once
#include "rows_math.cuh"

namespace clear_dist {

// What a row's gradient needs: built once a row, then the same for all columns.
struct Gradient {
  float s, lse, ct;
  // Upstream gradients; `away` is log1mp's times p(y), `sigmoids` npo's times 2 / V.
  float logp, log1mp, away, entropy, cross, forward, reverse, js, npo, sigmoids;
  float rest, rest_ref, own_entropy, kl_reverse, to_mean, npo_sum, beta;
  float at_y;  // the gradient in the target's column

  // state[k * T], coef[k * T]; zr, x: of the target, or of column 0 where there is none (has_y false).
  CLEAR_DIST_BOTH void prepare(const float* state, const float* coef, int64_t T, int want, float weight, int64_t V, float zr,
                               float x, bool has_y, bool single) {
    float c[NPO_VOCAB + 1];
    for (int bit = 0, next = 0; bit <= NPO_VOCAB; ++bit) c[bit] = want >> bit & 1 ? coef[next++ * T] : 0.0f;
    s = single ? 0.0f : x;
    lse = state[LSE * T], ct = single ? 0.0f : state[SHIFTED * T];
    rest = state[REST * T], rest_ref = state[REST_REF * T], own_entropy = state[OWN_ENTROPY * T];
    kl_reverse = state[REVERSE * T], to_mean = state[TO_MEAN * T], npo_sum = state[NPO_SUM * T];
    logp = c[LOGP] + c[LOG_RATIO], log1mp = c[LOG1MP], entropy = c[ENTROPY], cross = c[CROSS_REST];
    forward = c[KL_FORWARD], reverse = c[KL_REVERSE], js = c[JS], npo = c[NPO_VOCAB], beta = weight;
    sigmoids = 2.0f / (float)V * npo;
    away = at_y = 0.0f;
    if (!has_y) return;
    const float lq = zr - lse, plain = lq - ct, others = expf(rest);
    // log p(y) from log(1 - p(y)) next to certainty, where the logit less its normaliser has no digits left.
    const float lp = others < 0.5f ? log1pf(-others) : at_most_zero(plain), p = expf(lp);
    away = log1mp * p;
    at_y = logp * others + (cross - log1mp) * p;
    if (entropy != 0.0f) at_y -= entropy * p * (lp + own_entropy);
    if (!single) at_y += both<true>(-ct, exponential(lq), exponential(at_most_zero(plain)));
  }

  // One distribution.
  template <bool FULL>
  CLEAR_DIST_BOTH float of_one(float z) const {
    const float lp = z - lse, p = exponential(lp);
    float g = -logp * p;
    if (FULL) {
      if (away != 0.0f) g = fmaf(away, exponential(at_most_zero(lp - rest)), g);
      if (entropy != 0.0f) g -= entropy * p * (fmaxf(lp, NEVER_BELOW) + own_entropy);
    }
    return g;
  }

  // Two distributions.
  template <bool FULL>
  CLEAR_DIST_BOTH float of_two(float zr, float x) const {
    const float lq = zr - lse, u = (x - s) - ct, lp = at_most_zero(lq + u), q = exponential(lq), p = exponential(lp);
    float g = fmaf(-logp, p, both<FULL>(u, q, p));
    if (FULL) {
      if (away != 0.0f) g = fmaf(away, exponential(at_most_zero(lp - rest)), g);
      if (entropy != 0.0f) g -= entropy * p * (fmaxf(lp, NEVER_BELOW) + own_entropy);
      if (cross != 0.0f) g = fmaf(cross, p - exponential(at_most_zero(lq - rest_ref)), g);
    }
    return g;
  }

  // What treats the target like any other column: the divergences.
  template <bool FULL>
  CLEAR_DIST_BOTH float both(float u, float q, float p) const {
    float g = forward * (fabsf(u) <= 0.5f ? q * (u + beyond_linear(u)) : p - q);
    if (FULL) {
      if (reverse != 0.0f) g = fmaf(reverse * p, fmaxf(u, -1e30f) - kl_reverse, g);
      if (js != 0.0f) g = fmaf(0.5f * js * p, ToMean(q, p, u).student - to_mean, g);
      if (npo != 0.0f) g += sigmoids * sigmoid(beta * u) - npo * p * npo_sum;
    }
    return g;
  }
};

}  // namespace clear_dist

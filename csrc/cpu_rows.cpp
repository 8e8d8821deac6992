// Statistics of rows of logits on the CPU, forward. Equations: clear_dist/ops/rows/__init__.py.
//
// A row is read twice: for its maxima, then for its sums (it lies in the cache by then). The target's column is left out
// of the sums and merged afterwards, so that log(1 - p(y)) is exact where p(y) is next to 1. Sums of two distributions
// come in two forms: about one maximum where the two are near each other (every |x - s| <= NEAR), which loses nothing to
// cancellation, and about a maximum of each where they are far.
#include <math.h>

#include "cpu_common.h"

namespace clear_dist {
namespace {

constexpr double NONE = -__builtin_huge_val();
constexpr float NEAR = 8.0f;
constexpr double LOG_2 = 0.69314718055994531;

struct Merged {
  double sum, y, rest;  // log of the whole, and of the target's and the others' share of it
};
Merged merge(double rest, double y) {  // each share to full relative precision, at both ends
  const bool more = rest > y;
  const double high = more ? rest : y, low = more ? y : rest;
  const double extra = low == NONE ? 0.0 : log1p(exp(low - high));
  const double large = -extra, small = low - high - extra;
  return {high + extra, more ? small : large, more ? large : small};
}
double plogp(double logp) { return logp == NONE ? 0.0 : exp(logp) * logp; }
// Entropy of the whole from the target's share and the entropy among the others.
double entropy_of(const Merged& m, double among_others) {
  double rest = exp(m.rest);
  return -(plogp(m.y) + plogp(m.rest)) + (rest > 0 ? rest * among_others : 0.0);
}
// e - log(1 + e) without cancellation.
double gap(double e) {
  return fabs(e) < 1e-3 ? e * e * (1.0 / 2 - e * (1.0 / 3 - e * (1.0 / 4 - e / 5))) : e - log1p(e);
}

struct Out {
  float* stats;
  float* state;
  int64_t T, t;
  int want, next = 0;
  void write(Bit bit, double value) {
    if (has(want, bit)) stats[(next++) * T + t] = (float)value;  // callers go through the bits in order
  }
  void keep(State place, double value) { state[place * T + t] = (float)value; }
};

template <class T>
void one_distribution(const Rows& a, const T* z, int64_t y, Out out) {
  const bool entropy = has(a.want, ENTROPY);
  const float low = -__builtin_huge_valf();
  F high = splat(low);
  across(a, y, z, (const T*)nullptr, low, 0, [&](F v, F, F) INLINED { high = larger(high, v); });
  const float M = largest(high);
  Sums<2> sums;
  sums.across(sums, a, y, z, (const T*)nullptr, [&](F v, F, F keep, F* s) INLINED {
    F d = keep > 0.0f ? v - M : F{}, e = vexp(d) * keep;
    s[0] += e;
    if (entropy) s[1] += e * larger(d, splat(-88.0f));  // where e is 0, d may be infinite
  });
  const double S = sums.value[0], rest = S > 0 || S != S ? log(S) : NONE, among = S > 0 ? rest - sums.value[1] / S : 0;
  const double zy = y < 0 ? NONE : (double)one(z + y), top = zy > M ? zy : (double)M;
  const Merged m = merge(rest == NONE ? NONE : rest + (M - top), zy - top);
  const double H = entropy ? (y < 0 ? among : entropy_of(m, among)) : 0;
  out.write(LOGP, m.y);
  out.write(LOG1MP, m.rest);
  out.write(TOP1, zy >= M);
  out.write(ENTROPY, H);
  out.keep(LSE, top + m.sum);
  out.keep(REST, y < 0 ? 0 : m.rest);
  out.keep(OWN_ENTROPY, H);
}

// Reference logits and x - s of some columns, whatever the two matrices are.
template <int MODE>
INLINE void two(F z, F r, F keep, float s, F& ref, F& xt) {
  ref = MODE == PAIR ? r : z;
  xt = MODE == PAIR ? z - r : r;
  xt = keep > 0.0f ? xt - s : F{};
}

// Sums over all columns that need the normalisers: Jensen-Shannon, and npo over the vocabulary.
template <class T, int MODE>
void second_sweep(const Rows& a, const T* z, const T* r, float s, float top, double sum, double ct, double* out) {
  // The reference's log-normaliser in its two parts: their sum would lose the smaller beside large logits.
  const float normal = (float)sum, c = (float)ct, beta = a.beta;
  const bool js = has(a.want, JS), npo = has(a.want, NPO_VOCAB);
  Sums<4> sums;
  sums.add(sums, z, r, 0, a.V, 0, 0, [&](F zv, F rv, F keep, F* acc) INLINED {
    F ref, xt;
    two<MODE>(zv, rv, keep, s, ref, xt);
    F u = xt - c;
    if (js) {
      F lq = (ref - top) - normal, q = vexp(lq) * keep, p = vexp(lq + u) * keep, lp = to_mean(u);
      // p log p/m + q log q/m: near each other (p - q) u/2 - (p + q) log cosh(u/2), nothing of first order in it.
      F apart = p * lp + q * to_mean(-u), close = 0.5f * u * less(p, q, u) - (p + q) * log_cosh_half(u);
      acc[0] += 0.5f * (magnitude(u) < 0.5f ? close : apart);
      acc[1] += p * lp;
    }
    if (npo) {
      F b = beta * u, t = vexp(-magnitude(b));
      acc[2] += softplus(b) * keep;
      acc[3] += (b > 0.0f ? 1.0f / (1.0f + t) : t / (1.0f + t)) * keep;
    }
  });
  for (int k = 0; k < 4; ++k) out[k] = sums.value[k];
}

// Sums about one maximum m, x = student - reference - s, w = e^x: those that are looked at.
template <class T, int MODE, bool REVERSE, bool LOGS>
void near_sums(const Rows& a, const T* z, const T* r, int64_t y, float s, float m, Sums<8>& sums) {
  sums.across(sums, a, y, z, r, [&](F zv, F rv, F keep, F* acc) INLINED {
    F ref, xt, E, w, second;
    two<MODE>(zv, rv, keep, s, ref, xt);
    F d = keep > 0.0f ? ref - m : F{}, e = vexp(d) * keep;
    vexpm1(xt, E, w, second);
    acc[0] += e;
    acc[1] += e * xt;
    acc[2] += e * second;
    acc[3] += e * w;
    if constexpr (REVERSE) {
      acc[4] += e * (xt * E - second);  // x w - (w - 1)
      acc[7] += e * w * xt;
    }
    if constexpr (LOGS) {
      d = larger(d, splat(-88.0f));
      acc[5] += e * d;
      acc[6] += e * w * (d + xt);
    }
  });
}

// The student's largest logit but the target's, as the logits are, without a shift: ties must stay ties.
template <class T, int MODE>
float best_of_others(const Rows& a, const T* z, const T* r, int64_t y) {
  const float low = -__builtin_huge_valf();
  F best = splat(low);
  across(a, y, z, r, 0, 0, [&](F zv, F rv, F keep) INLINED {
    best = larger(best, keep > 0.0f ? (MODE == PAIR ? zv : zv + rv) : splat(low));
  });
  return largest(best);
}

template <class T, int MODE>
void two_distributions(const Rows& a, const T* z, const T* r, int64_t y, Out out) {
  const T* reference = MODE == PAIR ? r : z;
  const int64_t at = y < 0 ? 0 : y;
  const float s = MODE == PAIR ? one(z + at) - one(r + at) : one(r + at), low = -__builtin_huge_valf();
  F high = splat(low), wide = F{};
  across(a, y, z, r, 0, 0, [&](F zv, F rv, F keep) INLINED {
    F ref, xt;
    two<MODE>(zv, rv, keep, s, ref, xt);
    high = larger(high, keep > 0.0f ? ref : splat(low));
    wide = larger(magnitude(xt), wide);
  });
  const float m = largest(high);
  const bool near = largest(wide) <= NEAR;
  // Sums of e, e xt, then near: e (w - 1 - xt), e w, e (xt w - (w - 1)); far: nothing, e_s, e_s xt. Last, for entropies:
  // e log e, the student's e log e; near: e w xt.
  Sums<8> sums;
  float delta = 0;
  const bool reverse_too = has(a.want, KL_REVERSE), logs_too = a.want & (1 << ENTROPY | 1 << ENTROPY_REF | 1 << CROSS_REST);
  if (near) {
    (reverse_too ? logs_too ? near_sums<T, MODE, true, true> : near_sums<T, MODE, true, false>
                 : logs_too ? near_sums<T, MODE, false, true> : near_sums<T, MODE, false, false>)(a, z, r, y, s, m, sums);
  } else {
    F high_student = splat(low);
    across(a, y, z, r, 0, 0, [&](F zv, F rv, F keep) INLINED {
      F ref, xt;
      two<MODE>(zv, rv, keep, s, ref, xt);
      high_student = larger(high_student, keep > 0.0f ? ref + xt : splat(low));
    });
    delta = largest(high_student) - m;
    sums.across(sums, a, y, z, r, [&](F zv, F rv, F keep, F* acc) INLINED {
      F ref, xt;
      two<MODE>(zv, rv, keep, s, ref, xt);
      F d = keep > 0.0f ? ref - m : F{}, e = vexp(d) * keep;
      F ds = keep > 0.0f ? smaller(F{}, d + (xt - delta)) : F{}, es = vexp(ds) * keep;
      acc[0] += e;
      acc[1] += e * xt;
      acc[3] += es;
      acc[4] += es * xt;
      acc[5] += e * larger(d, splat(-88.0f));
      acc[6] += es * larger(ds, splat(-88.0f));
    });
  }
  double* v = sums.value;
  if (!near && v[3] < 0.5) v[3] = 1;  // its largest term is 1, but for logits so large that their differences round it away
  const bool empty = !(v[0] > 0) && v[0] == v[0];  // a vocabulary of one
  const double zy = y < 0 ? NONE : (double)one(reference + y), top = zy > m ? zy : (double)m;
  const double rest = empty ? NONE : log(v[0]) + (m - top), scale = empty ? 0 : exp(m - top);
  const double rest_student = empty ? NONE : log(v[3]) + (m - top) + (near ? 0.0 : (double)delta);
  const Merged q = merge(rest, zy - top), p = merge(rest_student, zy - top);
  const double mass = exp(q.sum);  // of the reference, about `top`
  // Logarithm of the student's sum over the reference's, about the shift s.
  const double mean = v[1] * scale / mass, eps = (v[2] + v[1]) * scale / mass;
  const double target = y < 0 ? 0 : exp(zy - top), own_mass = v[3] * scale + target;
  // Where only the target moved, eps is not small, and what is of second order for small eps cancels instead.
  const bool small = near && fabs(eps) < 0.5;
  const double ct = small ? log1p(eps) : near ? log(own_mass / mass) : p.sum - q.sum;
  double forward, reverse;
  if (small) {
    forward = v[2] * scale / mass - gap(eps);
    // eps / (1 + eps) - log(1 + eps) = gap(eps) - eps^2 / (1 + eps)
    reverse = v[4] * scale / mass / (1 + eps) + gap(eps) - eps * eps / (1 + eps);
  } else if (near) {
    forward = ct - mean;
    reverse = v[7] * scale / own_mass - ct;
  } else {
    forward = ct - mean;
    reverse = (empty ? 0 : v[4] / v[3] * exp(p.rest)) - ct;
  }
  forward = forward < 0 ? 0 : forward;
  reverse = reverse < 0 ? 0 : reverse;
  const double among_q = empty ? 0 : log(v[0]) - v[5] / v[0], among_p = empty ? 0 : log(v[3]) - v[6] / v[3];
  const double H = y < 0 ? among_p : entropy_of(p, among_p);
  double swept[4] = {};
  if (has(a.want, JS) || has(a.want, NPO_VOCAB)) second_sweep<T, MODE>(a, z, r, s, (float)top, q.sum, ct, swept);
  out.write(LOGP, p.y);
  out.write(LOG1MP, p.rest);
  if (has(a.want, TOP1))
    out.write(TOP1, y >= 0 && (MODE == PAIR ? one(z + y) : one(z + y) + one(r + y)) >= best_of_others<T, MODE>(a, z, r, y));
  out.write(ENTROPY, H);
  out.write(LOGP_REF, q.y);
  out.write(LOG1MP_REF, q.rest);
  out.write(ENTROPY_REF, y < 0 ? among_q : entropy_of(q, among_q));
  out.write(LOG_RATIO, -ct);
  out.write(CROSS_REST, empty ? 0 : (top - m) + q.sum + ct - (v[5] + v[1]) / v[0]);
  out.write(KL_FORWARD, forward);
  out.write(KL_REVERSE, reverse);
  out.write(JS, swept[0] > LOG_2 ? LOG_2 : swept[0]);
  out.write(NPO_VOCAB, 2.0 * swept[2] / ((double)a.beta * (double)a.V));
  out.keep(LSE, top + q.sum);
  out.keep(SHIFTED, ct);
  out.keep(REST, y < 0 ? 0 : p.rest);
  out.keep(REST_REF, y < 0 ? 0 : q.rest);
  out.keep(OWN_ENTROPY, H);
  out.keep(REVERSE, reverse);
  out.keep(TO_MEAN, swept[1]);
  out.keep(NPO_SUM, 2.0 * swept[3] / (double)a.V);
}

template <class T>
void rows_of(const Rows& a, float* stats, float* state, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    Out out{stats, state, a.T, t, a.want};
    for (int k = 0; k < STATE; ++k) out.keep((State)k, 0);
    const int64_t y = a.y ? a.y[t] : -1;
    if (a.y && y == IGNORE) {
      for (int bit = 0; bit <= NPO_VOCAB; ++bit) out.write((Bit)bit, 0);
      continue;
    }
    const T* z = (const T*)a.z + t * a.z_stride;
    const T* r = a.r ? (const T*)a.r + t * a.r_stride : nullptr;
    if (a.mode == SINGLE) one_distribution<T>(a, z, y, out);
    if (a.mode == PAIR) two_distributions<T, PAIR>(a, z, r, y, out);
    if (a.mode == DIFFERENCE) two_distributions<T, DIFFERENCE>(a, z, r, y, out);
  }
}

}  // namespace

void CLEAR_DIST_NAME(row_stats_)(const Rows& a, float* stats, float* state, int64_t begin, int64_t end) {
  a.dtype == F32 ? rows_of<float>(a, stats, state, begin, end) : rows_of<bf16>(a, stats, state, begin, end);
}

}  // namespace clear_dist

// From a row's sums to its statistics: the target's column merged in closed form, in double precision, once a row.
#pragma once
#include "rows_math.cuh"

namespace clear_dist {

struct Merged {
  double sum, y, rest;  // log of the whole, and of the target's and the others' share of it, each to full precision
};

CLEAR_DIST_BOTH Merged merged(double rest, double y) {
  const bool more = rest > y;
  const double high = more ? rest : y, low = more ? y : rest;
  const double extra = low == (double)NOTHING ? 0.0 : log1p(exp(low - high)), small = low - high - extra;
  return {high + extra, more ? small : -extra, more ? -extra : small};
}

CLEAR_DIST_BOTH double plogp(double logp) { return logp == (double)NOTHING ? 0.0 : exp(logp) * logp; }

// Entropy of the whole from the target's share and the entropy among the others.
CLEAR_DIST_BOTH double entropy_of(const Merged& m, double among_others) {
  const double rest = exp(m.rest);
  return -(plogp(m.y) + plogp(m.rest)) + (rest != 0.0 ? rest * among_others : 0.0);
}

// e - log(1 + e) without cancellation.
CLEAR_DIST_BOTH double gap(double e) {
  return fabs(e) < 1e-3 ? e * e * (1.0 / 2 - e * (1.0 / 3 - e * (1.0 / 4 - e / 5))) : e - log1p(e);
}

// Normalisers of both distributions, and what the divergences take from them.
struct Normal {
  bool empty, near;         // no column but the target's; whether divergences are taken from f and r
  double top, scale, mass;  // the larger of m and the target's logit; e^(m - top); the reference's sum about top
  Merged q, p;              // about top, the student's also about s
  double eps, ct, lse;      // (student's / reference's sum) - 1, its log1p, and the reference's normaliser

  // One distribution: ct = 0, q = p.
  CLEAR_DIST_BOTH Normal(const Record& row, bool single, bool has_y) {
    const Sums& v = row.sums;
    const double m = row.extremes.reference, zy = has_y ? (double)row.zr : (double)NOTHING;
    empty = v.a == 0.0f;
    const bool about_one = reach_of(row.extremes.wide) != FAR;
    near = about_one;
    top = zy > m ? zy : m;
    const double rest = empty ? (double)NOTHING : log((double)v.a) + (m - top);
    scale = empty ? 0.0 : exp(m - top);
    q = p = merged(rest, zy - top);
    mass = exp(q.sum);
    lse = top + q.sum;
    eps = ct = 0.0;
    if (single) return;
    const double delta = about_one || empty ? 0.0 : (double)(row.extremes.student - row.extremes.reference);
    p = merged(empty ? (double)NOTHING : log((double)v.p) + (m - top) + delta, zy - top);
    eps = ((double)v.f + v.b) * scale / mass;
    // Where nearly all of a distribution moved the same way, eps is next to -1 or large, and forms in eps lose digits.
    near = near && eps > -0.5 && eps < 1.0;
    ct = near ? log1p(eps) : p.sum - q.sum;
  }
};

// lse and ct alone, in single precision, for the third sweep.
CLEAR_DIST_BOTH void normalisers(const Record& row, bool has_y, float& lse, float& ct) {
  const Sums& v = row.sums;
  const float m = row.extremes.reference, zy = has_y ? row.zr : NOTHING, top = fmaxf(m, zy);
  const float scale = m == NOTHING ? 0.0f : expf(m - top), own = has_y ? expf(zy - top) : 0.0f, mass = fmaf(v.a, scale, own);
  const float log_mass = logf(mass), eps = (v.f + v.b) * scale / mass;
  const bool about_one = reach_of(row.extremes.wide) != FAR;
  lse = top + log_mass;
  if (about_one && eps > -0.5f && eps < 1.0f) {
    ct = log1pf(eps);
    return;
  }
  const float delta = about_one ? 0.0f : row.extremes.student - m, others = logf(v.p) + delta + (m - top), target = zy - top;
  const float high = fmaxf(others, target), low = fminf(others, target);
  ct = high + (low == NOTHING ? 0.0f : log1pf(expf(low - high))) - log_mass;
}

// Where a row's numbers go: stats[k * T], state[k * T].
struct Destination {
  float* stats;
  float* state;
  int64_t T;
  int want, next;

  CLEAR_DIST_BOTH Destination(float* stats, float* state, int64_t T, int want)
      : stats(stats), state(state), T(T), want(want), next(0) {}
  CLEAR_DIST_BOTH void write(int bit, double value) {  // in the order of the bits
    if (want >> bit & 1) stats[next++ * T] = (float)value;
  }
  CLEAR_DIST_BOTH void keep(int place, double value) { state[place * T] = (float)value; }
  CLEAR_DIST_BOTH void all(float value) {
    for (int bit = 0; bit <= NPO_VOCAB; ++bit) write(bit, value);
    for (int place = 0; place < STATE; ++place) keep(place, value);
  }
};

CLEAR_DIST_BOTH double not_negative(double x) { return x < 0.0 ? 0.0 : x; }

CLEAR_DIST_BOTH void finish(const Record& row, int mode, bool has_y, float beta, int64_t V, Destination out) {
  const bool single = mode == SINGLE;
  const Normal n(row, single, has_y);
  const Sums& v = row.sums;
  const double log_a = n.empty ? 0.0 : log((double)v.a), log_p = n.empty ? 0.0 : single ? log_a : log((double)v.p);
  const double among_q = n.empty ? 0.0 : log_a - v.nr / (double)v.a;
  const double among_p = single ? among_q : n.empty ? 0.0 : log_p - v.ns / (double)v.p;
  const bool entropy = out.want & WANT_ENTROPY;
  const double H = !entropy ? 0.0 : has_y ? entropy_of(n.p, among_p) : among_p;
  out.write(LOGP, n.p.y);
  out.write(LOG1MP, n.p.rest);
  out.write(TOP1, row.plain >= (single ? row.extremes.reference : row.extremes.plain) ? 1.0 : 0.0);
  out.write(ENTROPY, H);
  out.keep(LSE, n.lse);
  out.keep(SHIFTED, n.ct);
  out.keep(REST, has_y ? n.p.rest : 0.0);
  out.keep(REST_REF, has_y && !single ? n.q.rest : 0.0);
  out.keep(OWN_ENTROPY, H);
  if (single) {
    for (int place = REVERSE; place < STATE; ++place) out.keep(place, 0.0);
    return;
  }
  double forward, reverse;
  if (n.near) {
    const double share = n.scale / n.mass;
    forward = v.f * share - gap(n.eps);
    reverse = v.r * share / (1.0 + n.eps) + gap(n.eps) - n.eps * n.eps / (1.0 + n.eps);
  } else {
    forward = n.ct - v.b * n.scale / n.mass;
    // The mean of x - s over the others, times their share.
    const bool about_one = reach_of(row.extremes.wide) != FAR;
    reverse = (n.empty ? 0.0 : (about_one ? v.q : v.r) / (double)v.p * exp(n.p.rest)) - n.ct;
  }
  reverse = out.want & WANT_REVERSE ? not_negative(reverse) : 0.0;
  out.write(LOGP_REF, n.q.y);
  out.write(LOG1MP_REF, n.q.rest);
  out.write(ENTROPY_REF, has_y ? entropy_of(n.q, among_q) : among_q);
  out.write(LOG_RATIO, -n.ct);
  out.write(CROSS_REST, n.empty ? 0.0 : (n.top - row.extremes.reference) + n.q.sum + n.ct - ((double)v.nr + v.b) / v.a);
  out.write(KL_FORWARD, not_negative(forward));
  out.write(KL_REVERSE, reverse);
  out.write(JS, row.second.js);
  out.write(NPO_VOCAB, 2.0 * row.second.soft / ((double)beta * (double)V));
  out.keep(REVERSE, reverse);
  out.keep(TO_MEAN, out.want & WANT_JS ? row.second.to_mean : 0.0);
  out.keep(NPO_SUM, out.want & WANT_NPO ? 2.0 * row.second.sigmoids / (double)V : 0.0);
}

}  // namespace clear_dist

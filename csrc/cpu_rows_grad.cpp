// Gradients of row statistics with respect to the student's logits, on the CPU: one sweep, all statistics weighted by
// their upstream gradients at once. Equations: clear_dist/ops/rows/__init__.py. The result may be written over the logits:
// what a row needs of its target's column is read first, and that column is written last.
#include <math.h>

#include "cpu_common.h"

namespace clear_dist {
namespace {

constexpr float WIDE = 20.0f;  // beyond, e^u times q loses what e^(log q + u) keeps

struct Coefficients {
  float logp = 0, log1mp = 0, entropy = 0, cross = 0, forward = 0, reverse = 0, js = 0, npo = 0;
  Coefficients(const Rows& a, const float* coef, int64_t t) {
    int next = 0;
    for (int bit = 0; bit <= NPO_VOCAB; ++bit) {
      if (!has(a.want, (Bit)bit)) continue;
      const float c = coef[(next++) * a.T + t];
      switch (bit) {
        case LOGP:
        case LOG_RATIO: logp += c; break;
        case LOG1MP: log1mp = c; break;
        case ENTROPY: entropy = c; break;
        case CROSS_REST: cross = c; break;
        case KL_FORWARD: forward = c; break;
        case KL_REVERSE: reverse = c; break;
        case JS: js = c; break;
        case NPO_VOCAB: npo = c; break;
        default: break;  // constants
      }
    }
  }
};

struct RowState {
  float value[STATE];
  RowState(const float* state, int64_t T, int64_t t) {
    for (int k = 0; k < STATE; ++k) value[k] = state[k * T + t];
  }
  float operator[](State place) const { return value[place]; }
};

// log p(y), from log(1 - p(y)) next to certainty: there the logit less its normaliser has no digits left.
double log_of_target(double plain, double rest) {
  const double others = exp(rest);
  return others < 0.5 ? log1p(-others) : plain < 0 ? plain : 0;
}

INLINE F at_most_zero(F x) { return smaller(F{}, x); }

// `count` columns from v on: f(z, r) -> gradient.
template <class T, class G>
INLINE void fill(const T* z, const T* r, T* out, int64_t begin, int64_t end, const G& f) {
  int64_t v = begin;
  for (; v + N <= end; v += N) store(out + v, f(load(z + v), r ? load(r + v) : F{}));
  if (v < end) store_some(out + v, f(load_some(z + v, end - v, 0), r ? load_some(r + v, end - v, 0) : F{}), end - v);
}

template <class T>
void one_distribution(const Rows& a, const T* z, int64_t y, const RowState& s, const Coefficients& c, T* out) {
  const float lse = s[LSE], rest = s[REST], H = s[OWN_ENTROPY];
  float at_y = 0;
  if (y >= 0) {
    const double lp = log_of_target((double)one(z + y) - lse, rest), p = exp(lp);
    at_y = (float)(c.logp * exp((double)rest) - c.log1mp * p - (c.entropy != 0 ? c.entropy * p * (lp + H) : 0));
  }
  if (c.log1mp == 0 && c.entropy == 0) {
    const float minus = -c.logp;
    fill(z, (const T*)nullptr, out, 0, a.V, [&](F v, F) INLINED { return minus * vexp(v - lse); });
  } else {
    const float away = y < 0 ? 0 : c.log1mp * (float)exp((double)one(z + y) - lse);
    fill(z, (const T*)nullptr, out, 0, a.V, [&](F v, F) INLINED {
      F lp = v - lse, p = vexp(lp);
      F g = away * vexp(at_most_zero(lp - rest)) - c.logp * p;
      return g - c.entropy * p * (larger(lp, splat(-88.0f)) + H);
    });
  }
  if (y >= 0) put(out + y, at_y);
}

// Gradient of everything at once, from log q and u = log p - log q; `away` is the weight of log(1 - p) times p(y).
struct Everything {
  const Rows& a;
  const RowState& s;
  const Coefficients& c;
  float away;
  INLINE F of(const Everything& e, F lq, F u) {
    F q = vexp(lq), lp = lq + u, p = vexp(lp);
    F lp_bounded = larger(splat(-88.0f), lp);
    F g = e.c.forward * less(p, q, u) - e.c.logp * p;
    if (e.c.reverse != 0) g += e.c.reverse * p * (larger(splat(-1e30f), u) - e.s[REVERSE]);
    if (e.c.js != 0) g += 0.5f * e.c.js * p * (to_mean(u) - e.s[TO_MEAN]);
    if (e.c.entropy != 0) g -= e.c.entropy * p * (lp_bounded + e.s[OWN_ENTROPY]);
    if (e.c.cross != 0) g += e.c.cross * less(p, vexp(at_most_zero(lq - e.s[REST_REF])), u + e.s[REST_REF]);
    if (e.away != 0) g += e.away * vexp(at_most_zero(lp - e.s[REST]));
    if (e.c.npo != 0) {
      F b = e.a.beta * u, t = vexp(-magnitude(b)), sigmoid = b > 0.0f ? 1.0f / (1.0f + t) : t / (1.0f + t);
      g += e.c.npo * ((float)(2.0 / (double)e.a.V) * sigmoid - p * e.s[NPO_SUM]);
    }
    return g;
  }
};

template <class T, int MODE>
void two_distributions(const Rows& a, const T* z, const T* r, int64_t y, const RowState& s, const Coefficients& c, T* out) {
  const int64_t at = y < 0 ? 0 : y;
  const float shift = MODE == PAIR ? one(z + at) - one(r + at) : one(r + at), lse = s[LSE], ct = s[SHIFTED];
  const double lq_y = (double)one((MODE == PAIR ? r : z) + at) - lse;
  Everything all{a, s, c, y < 0 ? 0 : c.log1mp * (float)exp(lq_y - (double)ct)};
  float at_y = 0;
  if (y >= 0) {
    const double lp = log_of_target(lq_y - (double)ct, s[REST]), p = exp(lp);
    Coefficients same = c;  // what is the same there as at any column
    same.logp = same.log1mp = same.entropy = same.cross = 0;
    at_y = Everything::of({a, s, same, 0}, splat((float)lq_y), splat(-ct))[0];
    at_y += (float)(c.logp * exp((double)s[REST]) + (c.cross - c.log1mp) * p);
    if (c.entropy != 0) at_y -= (float)(c.entropy * p * (lp + s[OWN_ENTROPY]));
  }
  auto split = [&](F zv, F rv, F& lq, F& u) INLINED {
    lq = (MODE == PAIR ? rv : zv) - lse;
    u = ((MODE == PAIR ? zv - rv : rv) - shift) - ct;
  };
  const bool few = c.js == 0 && c.entropy == 0 && c.cross == 0 && c.log1mp == 0 && c.npo == 0;
  for (int64_t block = 0; block < a.V; block += BLOCK) {
    const int64_t end = block + BLOCK < a.V ? block + BLOCK : a.V;
    F wide = F{};
    if (few) {
      columns(z, r, block, end, 0, 0, [&](F zv, F rv, F keep) INLINED {
        F lq, u;
        split(zv, rv, lq, u);
        wide = larger(magnitude(u) * keep, wide);
      });
    }
    if (few && largest(wide) <= WIDE) {
      fill(z, r, out, block, end, [&](F zv, F rv) INLINED {
        F lq, u, E, w;
        split(zv, rv, lq, u);
        vexpm1(larger(splat(-WIDE), smaller(splat(WIDE), u)), E, w);  // lanes beyond the end may hold anything
        F q = vexp(lq);
        return c.forward * q * E + q * w * (c.reverse * (u - s[REVERSE]) - c.logp);
      });
    } else {
      fill(z, r, out, block, end, [&](F zv, F rv) INLINED {
        F lq, u;
        split(zv, rv, lq, u);
        return Everything::of(all, lq, u);
      });
    }
  }
  if (y >= 0) put(out + y, at_y);
}

template <class T>
void rows_of(const Rows& a, const float* state, const float* coef, void* out, int64_t stride, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    T* row = (T*)out + t * stride;
    const int64_t y = a.y ? a.y[t] : -1;
    if (a.y && y == IGNORE) {
      for (int64_t v = 0; v < a.V; ++v) put(row + v, 0);
      continue;
    }
    const T* z = (const T*)a.z + t * a.z_stride;
    const T* r = a.r ? (const T*)a.r + t * a.r_stride : nullptr;
    const Coefficients c(a, coef, t);
    const RowState s(state, a.T, t);
    if (a.mode == SINGLE) one_distribution<T>(a, z, y, s, c, row);
    if (a.mode == PAIR) two_distributions<T, PAIR>(a, z, r, y, s, c, row);
    if (a.mode == DIFFERENCE) two_distributions<T, DIFFERENCE>(a, z, r, y, s, c, row);
  }
}

}  // namespace

void CLEAR_DIST_NAME(row_grad_)(const Rows& a, const float* state, const float* coef, void* out, int64_t stride,
                                int64_t begin, int64_t end) {
  a.dtype == F32 ? rows_of<float>(a, state, coef, out, stride, begin, end)
                 : rows_of<bf16>(a, state, coef, out, stride, begin, end);
}

}  // namespace clear_dist

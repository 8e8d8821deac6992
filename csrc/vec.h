// Vectors of floats in plain C++ (GCC and Clang vector extensions), as wide as the capability this file is compiled for:
// the same source gives SSE2 or NEON, AVX2 and AVX-512 code. Everything has internal linkage: the three builds end up in
// one library, and none may be given another's code by the linker.
#pragma once
#include <cstdint>
#include <cstring>

#ifndef CLEAR_DIST_CAPABILITY
#define CLEAR_DIST_CAPABILITY baseline
#endif
// Floats of a vector. Wider than the machine's registers is allowed, and works: a test runs the widest everywhere.
#ifndef CLEAR_DIST_LANES
#if defined(__AVX512F__)
#define CLEAR_DIST_LANES 16
#elif defined(__AVX2__)
#define CLEAR_DIST_LANES 8
#else
#define CLEAR_DIST_LANES 4
#endif
#endif

namespace clear_dist {
namespace {

constexpr int N = CLEAR_DIST_LANES;
typedef float F __attribute__((vector_size(N * 4)));
typedef int32_t I __attribute__((vector_size(N * 4)));
typedef uint32_t U __attribute__((vector_size(N * 4)));
typedef uint16_t H __attribute__((vector_size(N * 2)));
// The same in memory, where nothing is aligned. A memcpy instead becomes two half loads and a stall.
typedef float F_in_memory __attribute__((vector_size(N * 4), aligned(4), may_alias));
typedef uint16_t H_in_memory __attribute__((vector_size(N * 2), aligned(2), may_alias));
struct bf16 {
  uint16_t bits;
};

#define INLINE static inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // the same for a lambda

INLINE F splat(float x) { return F{} + x; }
INLINE F bits_to_float(U u) { return (F)u; }

INLINE F load(const float* p) { return *(const F_in_memory*)p; }
INLINE F load(const bf16* p) { return bits_to_float(__builtin_convertvector((H) * (const H_in_memory*)p, U) << 16); }
INLINE void store(float* p, F v) { *(F_in_memory*)p = v; }
INLINE void store(bf16* p, F v) {  // round to nearest, ties to even; NaN stays NaN
  U u = (U)v;
  u = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  u = v == v ? u : U{} + 0x7fc0u;
  *(H_in_memory*)p = __builtin_convertvector(u, H);
}
INLINE float one(const float* p) { return *p; }
INLINE float one(const bf16* p) {
  uint32_t u = (uint32_t)p->bits << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
INLINE void put(float* p, float x) { *p = x; }
INLINE void put(bf16* p, float x) {
  bf16 lanes[N];
  store(lanes, splat(x));
  *p = lanes[0];
}

// Fewer than N elements: the rest of the vector is `fill`.
template <class T>
INLINE F load_some(const T* p, int64_t count, float fill) {
  float lanes[N];
  for (int i = 0; i < N; ++i) lanes[i] = i < count ? one(p + i) : fill;
  return load(lanes);
}
template <class T>
INLINE void store_some(T* p, F v, int64_t count) {
  float lanes[N];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) put(p + i, lanes[i]);
}
INLINE F first(int64_t count) {  // 1 in the first lanes, 0 in the others
  float lanes[N];
  for (int i = 0; i < N; ++i) lanes[i] = i < count ? 1.0f : 0.0f;
  return load(lanes);
}

INLINE F larger(F a, F b) { return a > b ? a : b; }
INLINE F smaller(F a, F b) { return a < b ? a : b; }
INLINE F magnitude(F a) { return (F)((U)a & 0x7fffffffu); }
INLINE float largest(F v) {
  float lanes[N], out;
  store(lanes, v);
  out = lanes[0];
  for (int i = 1; i < N; ++i) out = lanes[i] > out ? lanes[i] : out;
  return out;
}
INLINE double total(F v) {
  float lanes[N];
  store(lanes, v);
  for (int width = N / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite: ln 2 in two parts); n as a float.
INLINE void reduce(F x, F& n, F& r) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  n = x * 1.44269504088896341f + magic;
  n = n - magic;
  r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
}
INLINE F power_of_two(F n) { return (F)((__builtin_convertvector(n, I) + 127) << 23); }
// e^r - 1 - r for |r| <= ln 2 / 2: Taylor to r^9, below 1 unit in the last place.
INLINE F beyond_first(F r) {
  F p = splat(2.4801587e-5f);
  p = p * r + 1.9841270e-4f;
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  return p * r * r;
}
INLINE F short_expm1(F r) { return beyond_first(r) + r; }

// e^x, exactly 0 below -87 (where single precision would leave its normal range), capped at e^88.
INLINE F vexp(F x) {
  F inside = larger(splat(-87.0f), smaller(splat(88.0f), x)), n, r;  // in this order NaN stays NaN
  reduce(inside, n, r);
  F out = (short_expm1(r) + 1.0f) * power_of_two(n);
  return x < -87.0f ? F{} : out;
}
// e^x - 1, e^x and e^x - 1 - x for |x| <= 87, each to full relative precision.
INLINE void vexpm1(F x, F& less_one, F& power, F& second) {
  F n, r;
  reduce(x, n, r);
  F scale = power_of_two(n), beyond = beyond_first(r), p = beyond + r;
  less_one = scale * p + (scale - 1.0f);
  power = scale * p + scale;
  second = n == 0.0f ? beyond : less_one - x;
}
INLINE void vexpm1(F x, F& less_one, F& power) {
  F second;
  vexpm1(x, less_one, power, second);
}
// log cosh(u / 2) for |u| <= 1/2: of second order, by its series.
INLINE F log_cosh_half(F u) {
  F t = 0.25f * u * u, p = splat(2.1869488e-3f);
  p = p * t - 6.7460317e-3f;
  p = p * t + 2.2222222e-2f;
  p = p * t - 8.3333333e-2f;
  p = p * t + 0.5f;
  return t * p;
}
// log(1 + t) for -1/2 < t <= 1.
INLINE F vlog1p(F t) {
  auto upper = t > 0.41421356f;
  F x = upper ? 0.5f * t - 0.5f : t;  // 1 + t = 2 (1 + x) in the upper half
  F p = splat(7.0376836292e-2f);
  p = p * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  F out = x * x * x * p - 0.5f * x * x + x;
  return upper ? out + 0.69314718056f : out;
}
// p - q = q (e^u - 1) from q, p and u = log p/q.
INLINE F less(F p, F q, F u) {
  F E, w;
  vexpm1(larger(splat(-1.0f), smaller(splat(1.0f), u)), E, w);
  return magnitude(u) < 1.0f ? q * E : p - q;
}
INLINE F softplus(F x) { return larger(x, F{}) + vlog1p(vexp(-magnitude(x))); }
// log p/m with m = (p + q) / 2, from u = log p/q.
INLINE F to_mean(F u) {
  return magnitude(u) < 0.5f ? 0.5f * u - log_cosh_half(u) : 0.69314718056f - softplus(-u);
}

}  // namespace
}  // namespace clear_dist

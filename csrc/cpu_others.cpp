// Squared distance of hidden states to a target (RMU), and the L1 norm, on the CPU; and the table of this capability.
#include "cpu_common.h"

namespace clear_dist {
namespace {

template <class A, class B>
void distances(const Distance& a, float* out, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    Sums<1> sums;
    const A* h = (const A*)a.h + row * a.h_stride;
    const B* target = (const B*)a.target + row * a.target_stride;
    for (int64_t block = 0; block < a.D; block += BLOCK) {
      const int64_t stop = block + BLOCK < a.D ? block + BLOCK : a.D;
      F acc = F{};
      int64_t d = block;
      for (; d + N <= stop; d += N) {
        F x = load(h + d) - load(target + d);
        acc += x * x;
      }
      if (d < stop) {
        F x = load_some(h + d, stop - d, 0) - load_some(target + d, stop - d, 0);
        acc += x * x;
      }
      sums.value[0] += total(acc);
    }
    out[row] = (float)sums.value[0];
  }
}

template <class A, class B>
void distance_grads(const Distance& a, const float* c, void* out, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const A* h = (const A*)a.h + row * a.h_stride;
    const B* target = (const B*)a.target + row * a.target_stride;
    A* g = (A*)out + row * a.D;
    const float twice = 2.0f * c[row];
    int64_t d = 0;
    for (; d + N <= a.D; d += N) store(g + d, twice * (load(h + d) - load(target + d)));
    const int64_t left = a.D - d;
    if (left) store_some(g + d, twice * (load_some(h + d, left, 0) - load_some(target + d, left, 0)), left);
  }
}

template <class A>
double norm(const A* w, int64_t count) {
  Sums<1> sums;
  sums.add(sums, w, (const A*)nullptr, 0, count, 0, 0, [](F v, F, F, F* acc) INLINED { acc[0] += magnitude(v); });
  return sums.value[0];
}

template <class A, class B>
void add_sign(const A* w, B* grad, float scale, int64_t begin, int64_t end) {
  auto moved = [&](F v, F g) INLINED {
    F signed_scale = v > 0.0f ? splat(scale) : v < 0.0f ? splat(-scale) : F{};  // as torch.sign: 0 at NaN
    return g + signed_scale;
  };
  int64_t i = begin;
  for (; i + N <= end; i += N) store(grad + i, moved(load(w + i), load(grad + i)));
  if (i < end) store_some(grad + i, moved(load_some(w + i, end - i, 0), load_some(grad + i, end - i, 0)), end - i);
}

}  // namespace

// f<A, B> for the two dtypes.
#define CLEAR_DIST_BOTH(first, second, f, ...)                                    \
  ((first) == F32 ? ((second) == F32 ? f<float, float> : f<float, bf16>)          \
                  : ((second) == F32 ? f<bf16, float> : f<bf16, bf16>))(__VA_ARGS__)

void CLEAR_DIST_NAME(distance_)(const Distance& a, float* out, int64_t begin, int64_t end) {
  CLEAR_DIST_BOTH(a.h_dtype, a.target_dtype, distances, a, out, begin, end);
}
void CLEAR_DIST_NAME(distance_grad_)(const Distance& a, const float* c, void* out, int64_t begin, int64_t end) {
  CLEAR_DIST_BOTH(a.h_dtype, a.target_dtype, distance_grads, a, c, out, begin, end);
}
double CLEAR_DIST_NAME(l1_)(const void* w, DType dtype, int64_t count) {
  return dtype == F32 ? norm((const float*)w, count) : norm((const bf16*)w, count);
}
void CLEAR_DIST_NAME(l1_add_sign_)(const void* w, DType dtype, void* grad, DType grad_dtype, float scale, int64_t begin,
                                   int64_t end) {
  if (dtype == F32) {
    grad_dtype == F32 ? add_sign((const float*)w, (float*)grad, scale, begin, end)
                      : add_sign((const float*)w, (bf16*)grad, scale, begin, end);
  } else {
    grad_dtype == F32 ? add_sign((const bf16*)w, (float*)grad, scale, begin, end)
                      : add_sign((const bf16*)w, (bf16*)grad, scale, begin, end);
  }
}

#define CLEAR_DIST_TEXT_(x) #x
#define CLEAR_DIST_TEXT(x) CLEAR_DIST_TEXT_(x)

extern const CpuKernels CLEAR_DIST_NAME(cpu_);
const CpuKernels CLEAR_DIST_NAME(cpu_) = {
    CLEAR_DIST_TEXT(CLEAR_DIST_CAPABILITY), CLEAR_DIST_NAME(row_stats_),      CLEAR_DIST_NAME(row_grad_),
    CLEAR_DIST_NAME(distance_),             CLEAR_DIST_NAME(distance_grad_),  CLEAR_DIST_NAME(l1_),
    CLEAR_DIST_NAME(l1_add_sign_)};

}  // namespace clear_dist

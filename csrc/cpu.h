// What the CPU kernels offer to the bindings: one table of functions for each capability they were compiled for.
#pragma once
#include "rows.h"

namespace clear_dist {

// Squared distances of M rows of D columns. target_stride is 0 where one target serves all rows.
struct Distance {
  const void* h;
  const void* target;
  int64_t h_stride, target_stride, D;
  DType h_dtype, target_dtype;
};

// Everything runs over [begin, end): rows of a call, or elements of a tensor.
struct CpuKernels {
  const char* name;
  // stats: [K, T]; state: [STATE, T]; both fp32.
  void (*row_stats)(const Rows&, float* stats, float* state, int64_t begin, int64_t end);
  // coef: [K, T] fp32; out: [T, V] of the logits' dtype, which may be z or r themselves.
  void (*row_grad)(const Rows&, const float* state, const float* coef, void* out, int64_t out_stride, int64_t begin,
                   int64_t end);
  void (*distance)(const Distance&, float* out, int64_t begin, int64_t end);
  // out = 2 c (h - target): [M, D] contiguous, in h's dtype.
  void (*distance_grad)(const Distance&, const float* c, void* out, int64_t begin, int64_t end);
  double (*l1)(const void* w, DType dtype, int64_t count);
  // grad += scale * sign(w)
  void (*l1_add_sign)(const void* w, DType dtype, void* grad, DType grad_dtype, float scale, int64_t begin, int64_t end);
};

extern const CpuKernels cpu_baseline;
#if defined(__x86_64__)
extern const CpuKernels cpu_avx2;
extern const CpuKernels cpu_avx512;
#endif

}  // namespace clear_dist

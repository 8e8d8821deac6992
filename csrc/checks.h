// Checks of arguments that are the same on every device: anybody may call torch.ops.clear_dist.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "rows.h"

namespace clear_dist {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool is_float(const Tensor& x) { return x.scalar_type() == ScalarType::Float; }

// Columns lie side by side; a single one may lie anywhere.
inline bool columns(const Tensor& x) { return x.size(1) < 2 || x.stride(1) == 1; }

inline int statistics(int64_t want) { return __builtin_popcountll((unsigned long long)want); }

// Of row_stats and row_grad: shapes, and that what is asked for can be had. dtypes and devices are the caller's.
inline void check_rows(const Tensor& z, const std::optional<Tensor>& r, const std::optional<Tensor>& y, int64_t want,
                       int64_t mode) {
  STD_TORCH_CHECK(z.dim() == 2 && z.size(1) > 0 && columns(z), "z: expected [T, V], V > 0, columns contiguous");
  STD_TORCH_CHECK(mode >= SINGLE && mode <= DIFFERENCE && (mode != SINGLE) == r.has_value(), "mode and r do not fit");
  STD_TORCH_CHECK(want >= 0 && want < (int64_t{2} << NPO_VOCAB), "want: unknown statistics");
  STD_TORCH_CHECK(r || !(want & OF_TWO), "want: statistics of two distributions need r");
  STD_TORCH_CHECK(y || !(want & OF_TARGET), "want: statistics of a target need y");
  const int64_t T = z.size(0), V = z.size(1);
  STD_TORCH_CHECK(!r || (r->dim() == 2 && r->size(0) == T && r->size(1) == V && columns(*r)), "r: shape differs from z");
  STD_TORCH_CHECK(!y || (y->dim() == 1 && y->size(0) == T && y->scalar_type() == ScalarType::Long && (T < 2 || y->stride(0) == 1)),
                  "y: expected [T] int64, contiguous");
}

// Of row_grad, beside those: what was kept, what comes from above, and where the gradient goes.
inline void check_row_grad(const Tensor& z, const Tensor& state, const Tensor& coef, int64_t want, const Tensor& out) {
  const int64_t T = z.size(0), V = z.size(1);
  auto fits = [&](const Tensor& x, int64_t rows) {
    return x.dim() == 2 && x.size(0) == rows && x.size(1) == T && is_float(x) && x.is_contiguous();
  };
  STD_TORCH_CHECK(fits(state, STATE), "state: expected [8, T] float32, contiguous");
  STD_TORCH_CHECK(fits(coef, statistics(want)), "coef: expected [K, T] float32, contiguous");
  STD_TORCH_CHECK(out.dim() == 2 && out.size(0) == T && out.size(1) == V && columns(out) && (T < 2 || out.stride(0) >= V),
                  "out: expected the shape of z, its rows apart");
}

}  // namespace clear_dist

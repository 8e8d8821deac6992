// Schemas of the native ops, for every device, and their CPU implementations on PyTorch's stable ABI: one binary for
// several releases of torch. Shapes and dtypes are checked here too, since anybody may call torch.ops.clear_dist.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cpu.h"

namespace clear_dist {
namespace {

// The best of what was compiled and the machine has; CLEAR_DIST_CPU=baseline|avx2|avx512 asks for less.
const CpuKernels& kernels() {
  static const CpuKernels* chosen = [] {
    const CpuKernels* best = &cpu_baseline;
#if defined(__x86_64__)
    const char* asked = std::getenv("CLEAR_DIST_CPU");
    auto allowed = [&](const char* name) { return !asked || !*asked || !std::strcmp(asked, name); };
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && allowed("avx2")) best = &cpu_avx2;
    if (avx512 && allowed("avx512")) best = &cpu_avx512;
#endif
    return best;
  }();
  return *chosen;
}

DType dtype_of(const Tensor& x, const char* name) {
  const bool single = x.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(single || x.scalar_type() == ScalarType::BFloat16, name, ": expected float32 or bfloat16");
  return single ? F32 : BF16;
}

Rows rows_of(const Tensor& z, const std::optional<Tensor>& r, const std::optional<Tensor>& y, int64_t want, int64_t mode,
             double beta) {
  check_rows(z, r, y, want, mode);
  Rows a{};
  a.z = z.const_data_ptr();
  a.z_stride = z.stride(0);
  a.T = z.size(0);
  a.V = z.size(1);
  a.dtype = dtype_of(z, "z");
  a.want = (int)want;
  a.mode = (int)mode;
  a.beta = (float)beta;
  if (r) {
    STD_TORCH_CHECK(dtype_of(*r, "r") == a.dtype, "r: dtype differs from z");
    a.r = r->const_data_ptr();
    a.r_stride = r->stride(0);
  }
  if (y) {
    a.y = (const int64_t*)y->const_data_ptr();
    for (int64_t t = 0; t < a.T; ++t)
      STD_TORCH_CHECK(a.y[t] == IGNORE || (a.y[t] >= 0 && a.y[t] < a.V), "y: a target is outside the vocabulary");
  }
  return a;
}

// Fresh memory of tens of megabytes costs more in page faults than in arithmetic; large pages take most of them away.
void prefer_large_pages(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr int64_t page = 4096;
  const int64_t skip = (page - (int64_t)((uintptr_t)data % page)) % page;
  if (bytes - skip >= (8 << 20)) madvise((char*)data + skip, (size_t)((bytes - skip) / page * page), MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

int64_t grain(int64_t columns) { return columns >= 32768 ? 1 : 32768 / (columns + 1) + 1; }

std::tuple<Tensor, Tensor> row_stats(const Tensor& z, const std::optional<Tensor>& r, const std::optional<Tensor>& y,
                                     int64_t want, int64_t mode, double beta) {
  const Rows a = rows_of(z, r, y, want, mode, beta);
  Tensor stats = torch::stable::new_empty(z, {(int64_t)statistics(want), a.T}, ScalarType::Float);
  Tensor state = torch::stable::new_empty(z, {(int64_t)STATE, a.T}, ScalarType::Float);
  float* out = (float*)stats.mutable_data_ptr();
  float* kept = (float*)state.mutable_data_ptr();
  const CpuKernels& k = kernels();
  torch::stable::parallel_for(0, a.T, grain(a.V), [&](int64_t i, int64_t j) { k.row_stats(a, out, kept, i, j); });
  return {stats, state};
}

void row_grad(const Tensor& z, const std::optional<Tensor>& r, const std::optional<Tensor>& y, const Tensor& state,
              const Tensor& coef, int64_t want, int64_t mode, double beta, Tensor out) {
  const Rows a = rows_of(z, r, y, want, mode, beta);
  check_row_grad(z, state, coef, want, out);
  STD_TORCH_CHECK(dtype_of(out, "out") == a.dtype, "out: dtype differs from z");
  const float* kept = (const float*)state.const_data_ptr();
  const float* c = (const float*)coef.const_data_ptr();
  void* g = out.mutable_data_ptr();
  const int64_t stride = out.stride(0);
  if (g != a.z && g != a.r) prefer_large_pages(g, a.T * stride * (a.dtype == F32 ? 4 : 2));
  const CpuKernels& k = kernels();
  torch::stable::parallel_for(0, a.T, grain(a.V), [&](int64_t i, int64_t j) { k.row_grad(a, kept, c, g, stride, i, j); });
}

Distance distance_of(const Tensor& h, const Tensor& target) {
  STD_TORCH_CHECK(h.dim() == 2 && (h.size(1) < 2 || h.stride(1) == 1), "h: expected [M, D], columns contiguous");
  const int64_t M = h.size(0), D = h.size(1);
  const bool one = target.dim() == 1;
  STD_TORCH_CHECK(one ? target.size(0) == D : target.dim() == 2 && target.size(0) == M && target.size(1) == D,
                  "target: expected [M, D] or [D]");
  STD_TORCH_CHECK(D < 2 || target.stride(one ? 0 : 1) == 1, "target: columns must be contiguous");
  return {h.const_data_ptr(), target.const_data_ptr(), h.stride(0), one ? 0 : target.stride(0), D,
          dtype_of(h, "h"),   dtype_of(target, "target")};
}

Tensor hidden_distance(const Tensor& h, const Tensor& target) {
  const Distance a = distance_of(h, target);
  Tensor out = torch::stable::new_empty(h, {h.size(0)}, ScalarType::Float);
  float* p = (float*)out.mutable_data_ptr();
  const CpuKernels& k = kernels();
  torch::stable::parallel_for(0, h.size(0), grain(a.D), [&](int64_t i, int64_t j) { k.distance(a, p, i, j); });
  return out;
}

Tensor hidden_distance_grad(const Tensor& h, const Tensor& target, const Tensor& c) {
  const Distance a = distance_of(h, target);
  STD_TORCH_CHECK(c.dim() == 1 && c.size(0) == h.size(0) && c.scalar_type() == ScalarType::Float && c.is_contiguous(),
                  "c: expected [M] float32, contiguous");
  Tensor out = torch::stable::new_empty(h, {h.size(0), h.size(1)});
  void* p = out.mutable_data_ptr();
  const float* upstream = (const float*)c.const_data_ptr();
  const CpuKernels& k = kernels();
  torch::stable::parallel_for(0, h.size(0), grain(a.D), [&](int64_t i, int64_t j) { k.distance_grad(a, upstream, p, i, j); });
  return out;
}

constexpr int64_t PIECE = 1 << 16;  // elements: sums do not depend on how many threads share them

Tensor l1_norm(const std::vector<Tensor>& tensors) {
  STD_TORCH_CHECK(!tensors.empty(), "tensors: at least one is needed");
  double sum = 0;
  for (const Tensor& w : tensors) {
    STD_TORCH_CHECK(w.is_contiguous(), "tensors: expected contiguous ones");
    const DType dtype = dtype_of(w, "tensors");
    const char* data = (const char*)w.const_data_ptr();
    const int64_t count = w.numel(), pieces = (count + PIECE - 1) / PIECE, size = dtype == F32 ? 4 : 2;
    std::vector<double> part(pieces);
    const CpuKernels& k = kernels();
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t i, int64_t j) {
      for (; i < j; ++i) {
        const int64_t left = count - i * PIECE;
        part[i] = k.l1(data + i * PIECE * size, dtype, left < PIECE ? left : PIECE);
      }
    });
    for (double p : part) sum += p;
  }
  Tensor out = torch::stable::new_empty(tensors[0], {}, ScalarType::Float);
  *(float*)out.mutable_data_ptr() = (float)sum;
  return out;
}

void l1_add_sign(const std::vector<Tensor>& tensors, const std::vector<Tensor>& grads, const Tensor& scale) {
  STD_TORCH_CHECK(tensors.size() == grads.size(), "tensors and grads: as many of each");
  STD_TORCH_CHECK(scale.numel() == 1 && scale.scalar_type() == ScalarType::Float, "scale: expected one float32");
  const float factor = *(const float*)scale.const_data_ptr();
  const CpuKernels& k = kernels();
  for (size_t i = 0; i < tensors.size(); ++i) {
    Tensor g = grads[i];
    STD_TORCH_CHECK(tensors[i].is_contiguous() && g.is_contiguous() && tensors[i].numel() == g.numel(),
                    "grads: expected contiguous ones of the tensors' sizes");
    const DType dtype = dtype_of(tensors[i], "tensors"), grad_dtype = dtype_of(g, "grads");
    const void* w = tensors[i].const_data_ptr();
    void* p = g.mutable_data_ptr();
    torch::stable::parallel_for(0, g.numel(), PIECE, [&](int64_t a, int64_t b) { k.l1_add_sign(w, dtype, p, grad_dtype, factor, a, b); });
  }
}

}  // namespace
}  // namespace clear_dist

// Which CPU kernels run: for Python, through ctypes.
extern "C" __attribute__((visibility("default"))) const char* clear_dist_cpu_capability() {
  return clear_dist::kernels().name;
}

STABLE_TORCH_LIBRARY(clear_dist, m) {
  m.def("row_stats(Tensor z, Tensor? r, Tensor? y, int want, int form, float beta) -> (Tensor, Tensor)");
  m.def("row_grad(Tensor z, Tensor? r, Tensor? y, Tensor state, Tensor coef, int want, int form, float beta, Tensor(a!) out) -> ()");
  m.def("hidden_distance(Tensor h, Tensor target) -> Tensor");
  m.def("hidden_distance_grad(Tensor h, Tensor target, Tensor c) -> Tensor");
  m.def("l1_norm(Tensor[] tensors) -> Tensor");
  m.def("l1_add_sign(Tensor[] tensors, Tensor(a!)[] grads, Tensor scale) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(clear_dist, CPU, m) {
  m.impl("row_stats", TORCH_BOX(&clear_dist::row_stats));
  m.impl("row_grad", TORCH_BOX(&clear_dist::row_grad));
  m.impl("hidden_distance", TORCH_BOX(&clear_dist::hidden_distance));
  m.impl("hidden_distance_grad", TORCH_BOX(&clear_dist::hidden_distance_grad));
  m.impl("l1_norm", TORCH_BOX(&clear_dist::l1_norm));
  m.impl("l1_add_sign", TORCH_BOX(&clear_dist::l1_add_sign));
}

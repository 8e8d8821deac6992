// CUDA implementations of the ops of bindings.cpp: shapes and dtypes checked, then the launchers of cuda.h on torch's current
// stream. No CUDA headers here, and none of torch's CUDA libraries: the same file compiles beside a torch without CUDA.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cuda.h"

// Of libtorch_cuda: there whenever a CUDA tensor is.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

using torch::stable::accelerator::DeviceGuard;

namespace clear_dist {
namespace {

void* stream_of(int32_t device) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch has no CUDA");
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}

void launched(int error, const char* op) {
  STD_TORCH_CHECK(error == 0, "clear_dist::", op, " cannot be launched: ", clear_dist_cuda_error(error), " (cudaError ", error,
                  "); was the extension built for this GPU, by a CUDA that the driver knows?");
}

int dtype_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return F32;
    case ScalarType::BFloat16: return BF16;
    case ScalarType::Half: return F16;
    default: STD_TORCH_CHECK(false, name, ": expected float32, bfloat16 or float16");
  }
  return F32;
}

void same_device(const Tensor& x, const Tensor& as, const char* name) {
  STD_TORCH_CHECK(x.is_cuda() && x.get_device_index() == as.get_device_index(), name, ": expected on the same GPU");
}

CudaRows rows_of(const Tensor& z, const std::optional<Tensor>& r, const std::optional<Tensor>& y, int64_t want, int64_t mode,
                 double beta) {
  check_rows(z, r, y, want, mode);
  STD_TORCH_CHECK(z.size(1) < 0x7fff0000, "z: too many columns");
  CudaRows a{};
  a.z = z.const_data_ptr();
  a.z_stride = z.stride(0);
  a.T = z.size(0);
  a.V = z.size(1);
  a.z_dtype = a.r_dtype = dtype_of(z, "z");
  a.want = (int)want;
  a.mode = (int)mode;
  a.beta = (float)beta;
  a.device = z.get_device_index();
  if (r) {
    same_device(*r, z, "r");
    a.r_dtype = dtype_of(*r, "r");
    STD_TORCH_CHECK(a.r_dtype == a.z_dtype || (a.z_dtype == F32 && a.r_dtype == BF16),
                    "r: expected the dtype of z, or bfloat16 beside float32");
    a.r = r->const_data_ptr();
    a.r_stride = r->stride(0);
  }
  if (y) {
    same_device(*y, z, "y");
    a.y = (const int64_t*)y->const_data_ptr();
  }
  return a;
}

std::tuple<Tensor, Tensor> row_stats(const Tensor& z, const std::optional<Tensor>& r, const std::optional<Tensor>& y,
                                     int64_t want, int64_t mode, double beta) {
  const CudaRows a = rows_of(z, r, y, want, mode, beta);
  const DeviceGuard guard(a.device);
  Tensor stats = torch::stable::new_empty(z, {(int64_t)statistics(want), a.T}, ScalarType::Float);
  Tensor state = torch::stable::new_empty(z, {(int64_t)STATE, a.T}, ScalarType::Float);
  Tensor record = torch::stable::new_empty(z, {a.T, (int64_t)RECORD}, ScalarType::Float);
  launched(clear_dist_cuda_row_stats(&a, (float*)record.mutable_data_ptr(), (float*)stats.mutable_data_ptr(),
                                     (float*)state.mutable_data_ptr(), stream_of(a.device)),
           "row_stats");
  return {stats, state};
}

void row_grad(const Tensor& z, const std::optional<Tensor>& r, const std::optional<Tensor>& y, const Tensor& state,
              const Tensor& coef, int64_t want, int64_t mode, double beta, Tensor out) {
  const CudaRows a = rows_of(z, r, y, want, mode, beta);
  check_row_grad(z, state, coef, want, out);
  same_device(state, z, "state");
  same_device(coef, z, "coef");
  same_device(out, z, "out");
  const int dtype = dtype_of(out, "out");
  void* p = out.mutable_data_ptr();
  // In place: every element over itself.
  STD_TORCH_CHECK(p != a.z || (dtype == a.z_dtype && out.stride(0) == a.z_stride), "out over z: expected its dtype and strides");
  STD_TORCH_CHECK(p != a.r || (dtype == a.r_dtype && out.stride(0) == a.r_stride), "out over r: expected its dtype and strides");
  const DeviceGuard guard(a.device);
  launched(clear_dist_cuda_row_grad(&a, (const float*)state.const_data_ptr(), (const float*)coef.const_data_ptr(), p,
                                    out.stride(0), dtype, stream_of(a.device)),
           "row_grad");
}

CudaDistance distance_of(const Tensor& h, const Tensor& target) {
  STD_TORCH_CHECK(h.dim() == 2 && (h.size(1) < 2 || h.stride(1) == 1), "h: expected [M, D], columns contiguous");
  const int64_t M = h.size(0), D = h.size(1);
  const bool one = target.dim() == 1;
  STD_TORCH_CHECK(one ? target.size(0) == D : target.dim() == 2 && target.size(0) == M && target.size(1) == D,
                  "target: expected [M, D] or [D]");
  STD_TORCH_CHECK(D < 2 || target.stride(one ? 0 : 1) == 1, "target: columns must be contiguous");
  same_device(target, h, "target");
  return {h.const_data_ptr(), target.const_data_ptr(), h.stride(0), one ? 0 : target.stride(0), M, D,
          dtype_of(h, "h"),   dtype_of(target, "target"), h.get_device_index()};
}

Tensor hidden_distance(const Tensor& h, const Tensor& target) {
  const CudaDistance a = distance_of(h, target);
  const DeviceGuard guard(a.device);
  Tensor out = torch::stable::new_empty(h, {a.M}, ScalarType::Float);
  launched(clear_dist_cuda_distance(&a, (float*)out.mutable_data_ptr(), stream_of(a.device)), "hidden_distance");
  return out;
}

Tensor hidden_distance_grad(const Tensor& h, const Tensor& target, const Tensor& c) {
  const CudaDistance a = distance_of(h, target);
  STD_TORCH_CHECK(c.dim() == 1 && c.size(0) == a.M && is_float(c) && c.is_contiguous(), "c: expected [M] float32, contiguous");
  same_device(c, h, "c");
  const DeviceGuard guard(a.device);
  Tensor out = torch::stable::new_empty(h, {a.M, a.D});
  launched(clear_dist_cuda_distance_grad(&a, (const float*)c.const_data_ptr(), out.mutable_data_ptr(), stream_of(a.device)),
           "hidden_distance_grad");
  return out;
}

struct Table {
  std::vector<L1Tensor> rows;
  int64_t pieces = 0;
};

Table table_of(const std::vector<Tensor>& tensors, const std::vector<Tensor>* grads) {
  STD_TORCH_CHECK(!tensors.empty(), "tensors: at least one is needed");
  Table table;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& w = tensors[i];
    same_device(w, tensors[0], "tensors");
    STD_TORCH_CHECK(w.is_contiguous(), "tensors: expected contiguous ones");
    L1Tensor row{w.const_data_ptr(), nullptr, w.numel(), table.pieces, dtype_of(w, "tensors"), F32};
    if (grads) {
      Tensor g = (*grads)[i];
      same_device(g, w, "grads");
      STD_TORCH_CHECK(g.is_contiguous() && g.numel() == row.count, "grads: expected contiguous ones of the tensors' sizes");
      row.grad = g.mutable_data_ptr();
      row.grad_dtype = dtype_of(g, "grads");
    }
    table.rows.push_back(row);
    table.pieces += (row.count + L1_PIECE - 1) / L1_PIECE;
  }
  return table;
}

Tensor room_for(const Table& table, const Tensor& as) {
  return torch::stable::new_empty(as, {(int64_t)(table.rows.size() * sizeof(L1Tensor))}, ScalarType::Byte);
}

Tensor l1_norm(const std::vector<Tensor>& tensors) {
  const Table table = table_of(tensors, nullptr);
  const int32_t device = tensors[0].get_device_index();
  const DeviceGuard guard(device);
  Tensor room = room_for(table, tensors[0]);
  Tensor partial = torch::stable::new_empty(tensors[0], {table.pieces + 1}, ScalarType::Float);
  Tensor out = torch::stable::new_empty(tensors[0], {}, ScalarType::Float);
  launched(clear_dist_cuda_l1_norm(table.rows.data(), (int64_t)table.rows.size(), table.pieces, room.mutable_data_ptr(),
                                   (float*)partial.mutable_data_ptr(), (float*)out.mutable_data_ptr(), device, stream_of(device)),
           "l1_norm");
  return out;
}

void l1_add_sign(const std::vector<Tensor>& tensors, const std::vector<Tensor>& grads, const Tensor& scale) {
  STD_TORCH_CHECK(tensors.size() == grads.size(), "tensors and grads: as many of each");
  if (tensors.empty()) return;
  const Table table = table_of(tensors, &grads);
  same_device(scale, tensors[0], "scale");
  STD_TORCH_CHECK(scale.numel() == 1 && is_float(scale), "scale: expected one float32");
  const int32_t device = tensors[0].get_device_index();
  const DeviceGuard guard(device);
  Tensor room = room_for(table, tensors[0]);
  launched(clear_dist_cuda_l1_add_sign(table.rows.data(), (int64_t)table.rows.size(), table.pieces, room.mutable_data_ptr(),
                                       (const float*)scale.const_data_ptr(), device, stream_of(device)),
           "l1_add_sign");
}

}  // namespace
}  // namespace clear_dist

STABLE_TORCH_LIBRARY_IMPL(clear_dist, CUDA, m) {
  m.impl("row_stats", TORCH_BOX(&clear_dist::row_stats));
  m.impl("row_grad", TORCH_BOX(&clear_dist::row_grad));
  m.impl("hidden_distance", TORCH_BOX(&clear_dist::hidden_distance));
  m.impl("hidden_distance_grad", TORCH_BOX(&clear_dist::hidden_distance_grad));
  m.impl("l1_norm", TORCH_BOX(&clear_dist::l1_norm));
  m.impl("l1_add_sign", TORCH_BOX(&clear_dist::l1_add_sign));
}

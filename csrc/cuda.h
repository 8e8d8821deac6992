// What the CUDA kernels offer to the bindings: launchers without torch and without CUDA in their signatures. All return a
// cudaError_t (0: launched); `device` is made current first, since this library has a CUDA runtime of its own.
#pragma once
#include "rows.h"

namespace clear_dist {

constexpr int F16 = 2;  // beside F32 and BF16
constexpr int STATISTICS = NPO_VOCAB + 1;

// One call over rows, as Rows, with a dtype for each matrix.
struct CudaRows {
  const void* z;
  const void* r;
  const int64_t* y;
  int64_t z_stride, r_stride, T, V;
  int z_dtype, r_dtype, want, mode;
  float beta;
  int device;
};

// h [M, D], target [M, D] or, with target_stride 0, [D].
struct CudaDistance {
  const void* h;
  const void* target;
  int64_t h_stride, target_stride, M, D;
  int h_dtype, target_dtype, device;
};

// One tensor of a list; `first_piece` counts the pieces of PIECE elements of all before it. grad: of l1_add_sign only.
struct L1Tensor {
  const void* data;
  void* grad;
  int64_t count, first_piece;
  int dtype, grad_dtype;
};
constexpr int64_t L1_PIECE = 16384;
constexpr int RECORD = 18;  // floats a sweep leaves of a row, to finish it from: see rows_math.cuh

extern "C" {
// record: [T, RECORD] fp32, scratch; stats: [K, T], state: [STATE, T], fp32.
int clear_dist_cuda_row_stats(const CudaRows* rows, float* record, float* stats, float* state, void* stream);
int clear_dist_cuda_row_grad(const CudaRows* rows, const float* state, const float* coef, void* out, int64_t out_stride,
                             int out_dtype, void* stream);
int clear_dist_cuda_distance(const CudaDistance* call, float* out, void* stream);
int clear_dist_cuda_distance_grad(const CudaDistance* call, const float* c, void* out, void* stream);
// table: device memory, sizeof(L1Tensor) * count bytes, filled here from `tensors` in host memory. partial: [pieces] fp32.
int clear_dist_cuda_l1_norm(const L1Tensor* tensors, int64_t count, int64_t pieces, void* table, float* partial, float* out,
                            int device, void* stream);
int clear_dist_cuda_l1_add_sign(const L1Tensor* tensors, int64_t count, int64_t pieces, void* table, const float* scale,
                                int device, void* stream);
const char* clear_dist_cuda_error(int code);
}

}  // namespace clear_dist

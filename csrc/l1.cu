// Sum of absolute values over many tensors, and its gradient added to many gradients, each in one launch: a table in device
// memory says where the tensors are, and every block finds the piece that is its own. The same sums in the same order
// every time: partial sums of pieces, then one block adds them up.
#include "cuda.h"
#include "cuda_memory.cuh"

namespace clear_dist {
namespace {

constexpr int THREADS = 256;
constexpr int FINAL = 1024;

// The tensor that piece `piece` belongs to: the last one that does not begin after it.
__device__ __forceinline__ L1Tensor find(const L1Tensor* table, int count, int64_t piece) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle].first_piece <= piece) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return table[low];
}

template <class W>
__device__ __forceinline__ float absolute_sum(const W* w, int count) {
  constexpr int VEC = VECTOR<W>;
  const Span<VEC> span(count, w);
  float sum = 0.0f;
  for (int k = threadIdx.x; k < span.chunks; k += THREADS) {
    float x[VEC], part = 0.0f;
    load<W, VEC>(w + span.column(k), x);
#pragma unroll
    for (int j = 0; j < VEC; ++j) part += fabsf(x[j]);
    sum += part;
  }
  for (int i = threadIdx.x; i < span.singles(); i += THREADS) sum += fabsf(value(w[span.single(i)]));
  return sum;
}

__global__ void __launch_bounds__(THREADS) l1_pieces(const L1Tensor* table, int count, float* partial) {
  __shared__ float shared[THREADS / 32];
  const int64_t piece = blockIdx.x;
  const L1Tensor tensor = find(table, count, piece);
  const int64_t start = (piece - tensor.first_piece) * L1_PIECE;
  const int size = (int)min(L1_PIECE, tensor.count - start);
  float sum = tensor.dtype == F32    ? absolute_sum((const float*)tensor.data + start, size)
              : tensor.dtype == BF16 ? absolute_sum((const bf16*)tensor.data + start, size)
                                     : absolute_sum((const fp16*)tensor.data + start, size);
  sum = block_sum<THREADS>(sum, shared);
  if (threadIdx.x == 0) partial[piece] = sum;
}

__global__ void __launch_bounds__(FINAL) l1_total(const float* partial, int64_t pieces, float* out) {
  __shared__ double shared[FINAL];
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < pieces; i += FINAL) sum += partial[i];
  shared[threadIdx.x] = sum;
  for (int width = FINAL / 2; width; width /= 2) {
    __syncthreads();
    if (threadIdx.x < width) shared[threadIdx.x] += shared[threadIdx.x + width];
  }
  if (threadIdx.x == 0) *out = (float)shared[0];
}

// g + scale sign(w), with torch's sign: 0 at NaN.
__device__ __forceinline__ float with_sign(float w, float g, float scale) {
  return g + (w > 0.0f ? scale : w < 0.0f ? -scale : 0.0f);
}

template <class W, class G>
__device__ __forceinline__ void add_sign(const W* w, G* grad, int count, float scale) {
  constexpr int VEC = VECTOR<W, G>;
  Span<VEC> span(count, w);
  span.also(grad);
  for (int k = threadIdx.x; k < span.chunks; k += THREADS) {
    float x[VEC], g[VEC];
    load<W, VEC>(w + span.column(k), x);
    load<G, VEC>(grad + span.column(k), g);
#pragma unroll
    for (int j = 0; j < VEC; ++j) g[j] = with_sign(x[j], g[j], scale);
    store<G, VEC>(grad + span.column(k), g);
  }
  for (int i = threadIdx.x; i < span.singles(); i += THREADS) {
    const int at = span.single(i);
    put(grad + at, with_sign(value(w[at]), value(grad[at]), scale));
  }
}

template <class W>
__device__ __forceinline__ void add_sign_to(const L1Tensor& tensor, int64_t start, int size, float scale) {
  const W* w = (const W*)tensor.data + start;
  if (tensor.grad_dtype == F32) add_sign(w, (float*)tensor.grad + start, size, scale);
  if (tensor.grad_dtype == BF16) add_sign(w, (bf16*)tensor.grad + start, size, scale);
  if (tensor.grad_dtype == F16) add_sign(w, (fp16*)tensor.grad + start, size, scale);
}

__global__ void __launch_bounds__(THREADS) l1_signs(const L1Tensor* table, int count, const float* scale) {
  const int64_t piece = blockIdx.x;
  const L1Tensor tensor = find(table, count, piece);
  const int64_t start = (piece - tensor.first_piece) * L1_PIECE;
  const int size = (int)min(L1_PIECE, tensor.count - start);
  if (tensor.dtype == F32) add_sign_to<float>(tensor, start, size, *scale);
  if (tensor.dtype == BF16) add_sign_to<bf16>(tensor, start, size, *scale);
  if (tensor.dtype == F16) add_sign_to<fp16>(tensor, start, size, *scale);
}

// The table lies in pageable memory: it is read before this returns. A graph would read it again later, so no capture.
cudaError_t send_table(const L1Tensor* tensors, int64_t count, int64_t pieces, void* table, int device, cudaStream_t stream) {
  if (pieces > 0x7fffffff || count > 0x7fffffff) return cudaErrorInvalidValue;
  cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  error = cudaStreamIsCapturing(stream, &status);
  if (error != cudaSuccess) return error;
  if (status != cudaStreamCaptureStatusNone) return cudaErrorStreamCaptureUnsupported;
  return cudaMemcpyAsync(table, tensors, (size_t)count * sizeof(L1Tensor), cudaMemcpyHostToDevice, stream);
}

}  // namespace
}  // namespace clear_dist

using namespace clear_dist;

extern "C" int clear_dist_cuda_l1_norm(const L1Tensor* tensors, int64_t count, int64_t pieces, void* table, float* partial,
                                       float* out, int device, void* stream) {
  const cudaError_t error = send_table(tensors, count, pieces, table, device, (cudaStream_t)stream);
  if (error != cudaSuccess) return error;
  if (pieces) l1_pieces<<<(unsigned)pieces, THREADS, 0, (cudaStream_t)stream>>>((const L1Tensor*)table, (int)count, partial);
  l1_total<<<1, FINAL, 0, (cudaStream_t)stream>>>(partial, pieces, out);
  return cudaGetLastError();
}

extern "C" int clear_dist_cuda_l1_add_sign(const L1Tensor* tensors, int64_t count, int64_t pieces, void* table,
                                           const float* scale, int device, void* stream) {
  if (pieces == 0) return cudaSuccess;
  const cudaError_t error = send_table(tensors, count, pieces, table, device, (cudaStream_t)stream);
  if (error != cudaSuccess) return error;
  l1_signs<<<(unsigned)pieces, THREADS, 0, (cudaStream_t)stream>>>((const L1Tensor*)table, (int)count, scale);
  return cudaGetLastError();
}

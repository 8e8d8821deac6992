// Squared distance of hidden states to a target on the GPU, and its gradient. A block has a row; differences and sums in
// fp32, in a fixed order; the gradient recomputes the difference, so nothing is kept between the two.
#include "cuda.h"
#include "cuda_memory.cuh"

namespace clear_dist {
namespace {

constexpr int THREADS = 128;

template <class H, class G>
__global__ void __launch_bounds__(THREADS) distance(const CudaDistance a, float* out) {
  constexpr int VEC = VECTOR<H, G>;
  __shared__ float shared[THREADS / 32];
  const int64_t m = blockIdx.x;
  const H* h = (const H*)a.h + m * a.h_stride;
  const G* target = (const G*)a.target + m * a.target_stride;
  Span<VEC> span((int)a.D, h);
  span.also(target);
  float sum = 0.0f;
#pragma unroll 2
  for (int k = threadIdx.x; k < span.chunks; k += THREADS) {
    float x[VEC], y[VEC];
    load<H, VEC>(h + span.column(k), x);
    load<G, VEC>(target + span.column(k), y);
#pragma unroll
    for (int j = 0; j < VEC; ++j) sum = fmaf(x[j] - y[j], x[j] - y[j], sum);
  }
  for (int i = threadIdx.x; i < span.singles(); i += THREADS) {
    const float x = value(h[span.single(i)]) - value(target[span.single(i)]);
    sum = fmaf(x, x, sum);
  }
  sum = block_sum<THREADS>(sum, shared);
  if (threadIdx.x == 0) out[m] = sum;
}

// out: [M, D] contiguous, in h's dtype.
template <class H, class G>
__global__ void __launch_bounds__(THREADS) distance_grad(const CudaDistance a, const float* c, H* out) {
  constexpr int VEC = VECTOR<H, G>;
  const int64_t m = blockIdx.x;
  const H* h = (const H*)a.h + m * a.h_stride;
  const G* target = (const G*)a.target + m * a.target_stride;
  H* g = out + m * a.D;
  const float twice = 2.0f * c[m];
  Span<VEC> span((int)a.D, h);
  span.also(target);
  span.also(g);
  for (int k = threadIdx.x; k < span.chunks; k += THREADS) {
    float x[VEC], y[VEC];
    load<H, VEC>(h + span.column(k), x);
    load<G, VEC>(target + span.column(k), y);
#pragma unroll
    for (int j = 0; j < VEC; ++j) x[j] = twice * (x[j] - y[j]);
    store<H, VEC>(g + span.column(k), x);
  }
  for (int i = threadIdx.x; i < span.singles(); i += THREADS) {
    const int d = span.single(i);
    put(g + d, twice * (value(h[d]) - value(target[d])));
  }
}

// f(H(), G()) on the call's device.
template <class F>
cudaError_t with_types(const CudaDistance& a, F f) {
  if (a.M == 0) return cudaSuccess;
  if (a.M > 0x7fffffff || a.D > 0x7fff0000) return cudaErrorInvalidValue;
  const cudaError_t error = cudaSetDevice(a.device);
  if (error != cudaSuccess) return error;
  bool known = false;
  with_dtype(a.h_dtype, [&](auto h) { known = with_dtype(a.target_dtype, [&](auto target) { f(h, target); }); });
  return known ? cudaGetLastError() : cudaErrorInvalidValue;
}

}  // namespace
}  // namespace clear_dist

using namespace clear_dist;

extern "C" int clear_dist_cuda_distance(const CudaDistance* call, float* out, void* stream) {
  const CudaDistance& a = *call;
  return with_types(a, [&](auto h, auto target) {
    distance<decltype(h), decltype(target)><<<(unsigned)a.M, THREADS, 0, (cudaStream_t)stream>>>(a, out);
  });
}

extern "C" int clear_dist_cuda_distance_grad(const CudaDistance* call, const float* c, void* out, void* stream) {
  const CudaDistance& a = *call;
  return with_types(a, [&](auto h, auto target) {
    using H = decltype(h);
    distance_grad<H, decltype(target)><<<(unsigned)a.M, THREADS, 0, (cudaStream_t)stream>>>(a, c, (H*)out);
  });
}

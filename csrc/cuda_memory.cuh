// Elements in memory on the GPU: vectors of them as they are loaded, their values in fp32, and how a row whose start is
// not aligned is cut into vectors.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace clear_dist {

using bf16 = __nv_bfloat16;
using fp16 = __half;

// VEC elements of T as one load: 16 or 8 bytes.
template <int BYTES>
struct Words;
template <>
struct Words<16> {
  using type = uint4;
};
template <>
struct Words<8> {
  using type = uint2;
};
template <class T, int VEC>
using Packed = typename Words<VEC * sizeof(T)>::type;

// Elements a thread takes at once: as many as make 16 bytes of the wider type.
template <class A, class B = A>
constexpr int VECTOR = sizeof(A) > 2 || sizeof(B) > 2 ? 4 : 8;

__device__ __forceinline__ float value(float x) { return x; }
__device__ __forceinline__ float value(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float value(fp16 x) { return __half2float(x); }

__device__ __forceinline__ void put(float* p, float x) { *p = x; }
__device__ __forceinline__ void put(bf16* p, float x) { *p = __float2bfloat16_rn(x); }
__device__ __forceinline__ void put(fp16* p, float x) { *p = __float2half_rn(x); }

__device__ __forceinline__ void two_values(const float* pair, float& a, float& b) { a = pair[0], b = pair[1]; }
__device__ __forceinline__ void two_values(const bf16* pair, float& a, float& b) {
  const uint32_t word = *reinterpret_cast<const uint32_t*>(pair);
  a = __uint_as_float(word << 16), b = __uint_as_float(word & 0xffff0000u);
}
__device__ __forceinline__ void two_values(const fp16* pair, float& a, float& b) {
  const float2 both = __half22float2(*reinterpret_cast<const __half2*>(pair));
  a = both.x, b = both.y;
}

template <class T, int VEC>
__device__ __forceinline__ void unpack(const Packed<T, VEC>& packed, float (&x)[VEC]) {
  const T* elements = reinterpret_cast<const T*>(&packed);
#pragma unroll
  for (int j = 0; j < VEC; j += 2) two_values(elements + j, x[j], x[j + 1]);
}

// p is aligned to VEC * sizeof(T).
template <class T, int VEC>
__device__ __forceinline__ Packed<T, VEC> load_packed(const T* p) {
  return *reinterpret_cast<const Packed<T, VEC>*>(p);
}
template <class T, int VEC>
__device__ __forceinline__ void load(const T* p, float (&x)[VEC]) {
  unpack<T, VEC>(load_packed<T, VEC>(p), x);
}
template <class T, int VEC>
__device__ __forceinline__ void store(T* p, const float (&x)[VEC]) {
  if constexpr (VEC * sizeof(T) > 16) {
#pragma unroll
    for (int j = 0; j < VEC; j += 4) *reinterpret_cast<float4*>(p + j) = make_float4(x[j], x[j + 1], x[j + 2], x[j + 3]);
  } else {
    Packed<T, VEC> packed;
    T* elements = reinterpret_cast<T*>(&packed);
#pragma unroll
    for (int j = 0; j < VEC; ++j) put(elements + j, x[j]);
    *reinterpret_cast<Packed<T, VEC>*>(p) = packed;
  }
}

// Elements from p to the next address a vector may be loaded from.
template <int VEC, class T>
__device__ __forceinline__ int to_alignment(const T* p) {
  const int over = static_cast<int>((reinterpret_cast<uintptr_t>(p) / sizeof(T)) % VEC);
  return over ? VEC - over : 0;
}

// A row of `size` columns: `head` single ones, then `chunks` vectors, then single ones again. All matrices that are read
// together must come to an alignment at the same column; where they do not, the whole row is single columns.
template <int VEC>
struct Span {
  int size, head, chunks;

  template <class T>
  __device__ __forceinline__ Span(int size, const T* p) : size(size), head(to_alignment<VEC>(p)) {
    chunks = size > head ? (size - head) / VEC : 0;
  }
  template <class T>
  __device__ __forceinline__ void also(const T* p) {
    if (to_alignment<VEC>(p) != head) chunks = 0;
  }
  __device__ __forceinline__ int singles() const { return size - chunks * VEC; }
  // Column of a vector, and of the i-th single one.
  __device__ __forceinline__ int column(int chunk) const { return head + chunk * VEC; }
  __device__ __forceinline__ int single(int i) const { return i < head ? i : i + chunks * VEC; }
};

// f(T()) for the dtype; false where it is not known.
template <class F>
bool with_dtype(int dtype, F f) {
  switch (dtype) {
    case 0: f(float()); return true;
    case 1: f(bf16()); return true;
    case 2: f(fp16()); return true;
    default: return false;
  }
}

// Sum over the block, in a fixed order; the result is in thread 0. `part` holds a float for each warp.
template <int THREADS>
__device__ __forceinline__ float block_sum(float x, float* part) {
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = x;
  __syncthreads();
  if (threadIdx.x == 0) {
    x = part[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; ++w) x += part[w];
  }
  return x;
}

}  // namespace clear_dist

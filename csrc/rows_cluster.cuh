// A row shared by the blocks of a cluster (sm_90 and newer; elsewhere a block has a row to itself): who reads which columns,
// the row kept in shared memory while it is swept again, and reductions over all threads of the cluster in a fixed order.
#pragma once
#include <cooperative_groups.h>

#include <type_traits>

#include "cuda.h"
#include "cuda_memory.cuh"
#include "rows_math.cuh"

namespace clear_dist {

// Whether the code being compiled is for a device with clusters. (The emulator of the tests has them, too.)
#if defined(CLEAR_DIST_EMULATED) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
#define CLEAR_DIST_CLUSTERS 1
#else
#define CLEAR_DIST_CLUSTERS 0
#endif

constexpr int THREADS = 512;
constexpr int MOST_BLOCKS = 8;  // of a cluster: what every device with clusters grants

// The blocks of a cluster. All of them must come to every sync.
struct Team {
  int rank = 0, size = 1;

  __device__ __forceinline__ Team() {
#if CLEAR_DIST_CLUSTERS
    rank = cooperative_groups::this_cluster().block_rank();
    size = cooperative_groups::this_cluster().num_blocks();
#endif
  }
  __device__ __forceinline__ void sync() const {
#if CLEAR_DIST_CLUSTERS
    cooperative_groups::this_cluster().sync();
#else
    __syncthreads();
#endif
  }
  // Another block's variable at the place of this block's own.
  template <class T>
  __device__ __forceinline__ T* of(T* mine, int other) const {
#if CLEAR_DIST_CLUSTERS
    return cooperative_groups::this_cluster().map_shared_rank(mine, other);
#else
    return mine;
#endif
  }
};

struct Largest {
  using Wide = float;
  static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
};
struct Total {
  using Wide = double;
  template <class T>
  static __device__ __forceinline__ T of(T a, T b) {
    return a + b;
  }
};

// Shared memory of one reduction of K numbers. Other blocks read `mine`: each reduction of a kernel has its own.
template <int K>
struct Exchange {
  float part[K][THREADS / 32];
  double mine[K];
};

// x over all threads of the team, always in the same order; result[K] is in shared memory, valid in all threads of a block
// afterwards: of the team's first block, or of all where `everywhere`.
template <class Op, int K>
__device__ __forceinline__ void combine(float (&x)[K], Exchange<K>& shared, float* result, const Team& team,
                                        bool everywhere) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) x[k] = Op::of(x[k], __shfl_xor_sync(0xffffffffu, x[k], offset));
    if ((threadIdx.x & 31) == 0) shared.part[k][threadIdx.x >> 5] = x[k];
  }
  __syncthreads();
  if (threadIdx.x < K) {
    typename Op::Wide sum = shared.part[threadIdx.x][0];
    for (int w = 1; w < THREADS / 32; ++w) sum = Op::of(sum, (typename Op::Wide)shared.part[threadIdx.x][w]);
    shared.mine[threadIdx.x] = sum;
  }
  team.sync();
  if (threadIdx.x < K && (everywhere || team.rank == 0)) {
    double theirs[MOST_BLOCKS];
#pragma unroll
    for (int c = 0; c < MOST_BLOCKS; ++c)  // all reads before the first use: they take long
      if (c < team.size) theirs[c] = *team.of(&shared.mine[threadIdx.x], c);
    typename Op::Wide sum = theirs[0];
#pragma unroll
    for (int c = 1; c < MOST_BLOCKS; ++c)
      if (c < team.size) sum = Op::of(sum, (typename Op::Wide)theirs[c]);
    result[threadIdx.x] = (float)sum;
  }
  __syncthreads();
}

constexpr int EITHER = 3;  // PAIR or DIFFERENCE, known when the kernel runs: for kernels where that costs little

// A column as all formulas take it, whatever the two matrices are; `logit`: the student's, as it is.
template <int MODE>
__device__ __forceinline__ void split(bool pair, float z, float r, float& zr, float& x, float& logit) {
  if (MODE != EITHER) pair = MODE == PAIR;
  zr = MODE != SINGLE && pair ? r : z;
  x = MODE == SINGLE ? 0.0f : pair ? z - r : r;
  logit = MODE == SINGLE || pair ? z : z + r;
}

template <class T, int VEC>
__device__ __forceinline__ void copy_async(Packed<T, VEC>* shared, const T* global) {
#ifdef __CUDA_ARCH__
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (VEC * sizeof(T) == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(global) : "memory");
  }
#else
  *shared = load_packed<T, VEC>(global);
#endif
}

// Columns of a vector. fp16 has the full kernels only, which run out of registers with eight of them.
template <class Z, class R>
constexpr int ROW_VECTOR = std::is_same_v<Z, fp16> ? 4 : VECTOR<Z, R>;

// One row of one or two matrices, and this block's share of its columns: vectors [begin, end), and single columns.
template <class Z, class R, int MODE>
struct Row {
  static constexpr int VEC = ROW_VECTOR<Z, R>;
  const Z* z;
  const R* r;
  Span<VEC> span;
  Team team;
  bool pair, staged;
  int begin, end;
  Packed<Z, VEC>* kept_z;
  Packed<R, VEC>* kept_r;

  // `per`: vectors of a block, for which `shared` has the room where `staged`.
  __device__ __forceinline__ Row(const CudaRows& a, int64_t t, const Team& team, int per, bool staged, void* shared)
      : z((const Z*)a.z + t * a.z_stride),
        r(MODE == SINGLE ? nullptr : (const R*)a.r + t * a.r_stride),
        span((int)a.V, z),
        team(team),
        pair(a.mode == PAIR),
        staged(staged) {
    if (MODE != SINGLE) span.also(r);
    begin = min(team.rank * per, span.chunks);
    end = min(begin + per, span.chunks);
    kept_z = (Packed<Z, VEC>*)shared;
    kept_r = (Packed<R, VEC>*)(kept_z + per);
  }

  // Start to copy this block's vectors; every thread copies, and later reads, its own.
  __device__ __forceinline__ void stage() const {
    if (!staged) return;
    for (int k = begin + threadIdx.x; k < end; k += THREADS) {
      copy_async<Z, VEC>(kept_z + (k - begin), z + span.column(k));
      if (MODE != SINGLE) copy_async<R, VEC>(kept_r + (k - begin), r + span.column(k));
    }
  }
  __device__ __forceinline__ void wait() const {
#ifdef __CUDA_ARCH__
    if (staged) asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  }

  __device__ __forceinline__ void one(int column, float& zr, float& x, float& logit) const {
    split<MODE>(pair, value(z[column]), MODE == SINGLE ? 0.0f : value(r[column]), zr, x, logit);
  }

  // f(zr, x, logit) for this thread's columns; column `without` as one that is nowhere: (-inf, s, -inf).
  template <class F>
  __device__ __forceinline__ void each(int without, float s, F f) const {
    for (int k = begin + threadIdx.x; k < end; k += THREADS) {
      const int column = span.column(k);
      float zs[VEC], rs[VEC] = {}, zr[VEC], x[VEC], logit[VEC];
      unpack<Z, VEC>(staged ? kept_z[k - begin] : load_packed<Z, VEC>(z + column), zs);
      if (MODE != SINGLE) unpack<R, VEC>(staged ? kept_r[k - begin] : load_packed<R, VEC>(r + column), rs);
#pragma unroll
      for (int j = 0; j < VEC; ++j) split<MODE>(pair, zs[j], rs[j], zr[j], x[j], logit[j]);
      if ((unsigned)(without - column) < VEC) {
#pragma unroll
        for (int j = 0; j < VEC; ++j)
          if (column + j == without) zr[j] = NOTHING, x[j] = s, logit[j] = NOTHING;
      }
#pragma unroll
      for (int j = 0; j < VEC; ++j) f(zr[j], x[j], logit[j]);
    }
    for (int i = team.rank * THREADS + threadIdx.x; i < span.singles(); i += team.size * THREADS) {
      const int column = span.single(i);
      float zr, x, logit;
      one(column, zr, x, logit);
      if (column == without) zr = NOTHING, x = s, logit = NOTHING;
      f(zr, x, logit);
    }
  }
};

// Where a row's target is: a column, none (-1, no targets at all), or the row is not scored, or the target is nowhere.
struct Target {
  bool ignored, wrong, there;
  int column;
  __device__ __forceinline__ Target(const CudaRows& a, int64_t t) {
    const int64_t y = a.y ? a.y[t] : 0;
    ignored = a.y && y == IGNORE;
    wrong = !ignored && (y < 0 || y >= a.V);
    there = a.y && !ignored && !wrong;
    column = there ? (int)y : -1;
  }
  __device__ __forceinline__ int or_first() const { return column < 0 ? 0 : column; }
};

// Launch with `blocks` of a cluster to a row (1 on devices without clusters).
template <class... Parameters, class... Arguments>
cudaError_t launch_team(void (*kernel)(Parameters...), int64_t rows, int blocks, bool clusters, size_t shared, void* stream,
                        Arguments... arguments) {
  if (rows * blocks > 0x7fffffff) return cudaErrorInvalidValue;
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3((unsigned)(rows * blocks));
  config.blockDim = dim3(THREADS);
  config.dynamicSmemBytes = shared;
  config.stream = (cudaStream_t)stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = blocks;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = clusters ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

// What of a device decides about a launch.
struct Device {
  int clusters = 0, processors = 1, shared = 48 * 1024;
  explicit Device(int device) {
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    clusters = clusters && major >= 9;
  }
};

// f(Z(), R()) for the dtypes of the two matrices; false where there is no kernel for them.
template <class F>
bool with_dtypes(int mode, int z, int r, F f) {
  if (mode == SINGLE) r = z;
  if (z == F32 && r == F32) return f(float(), float()), true;
  if (z == BF16 && r == BF16) return f(bf16(), bf16()), true;
  if (z == F16 && r == F16) return f(fp16(), fp16()), true;
  if (z == F32 && r == BF16) return f(float(), bf16()), true;
  return false;
}

}  // namespace clear_dist

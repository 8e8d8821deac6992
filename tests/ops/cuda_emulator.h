// Runs CUDA kernels on a CPU: every thread of a cluster is a fibre of its own, and all meet at every barrier. Slow, and no
// proof about a GPU's memory model; but indices, alignment, reductions, barriers that not all reach, and the arithmetic are
// those of the kernels. The test that includes this in front of a .cu file rewrites launches and __shared__ for it.
#pragma once
#include <math.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <type_traits>
#include <vector>

#define CLEAR_DIST_EMULATED 1
#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
template <class A, class B>
std::common_type_t<A, B> min(A a, B b) { return a < b ? a : b; }

inline float __uint_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
struct __nv_bfloat16 { uint16_t bits; };
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return {x != x ? (uint16_t)0x7fc0 : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
struct __half { _Float16 x; };
struct __half2 { __half x, y; };
inline float __half2float(__half x) { return (float)x.x; }
inline __half __float2half_rn(float x) { return {(_Float16)x}; }
inline float2 __half22float2(__half2 x) { return {(float)x.x.x, (float)x.y.x}; }

inline dim3 threadIdx, blockIdx, blockDim;  // of the fibre that runs

namespace emulated {

constexpr size_t ARENA = 256 * 1024, STACK = 64 * 1024;
struct Barrier {
  int arrived = 0, size = 0, generation = 0;
};
struct Block {
  dim3 index;
  char* arena;
  size_t used = 0;
  std::map<int, size_t> places;
  Barrier barrier;
  std::vector<Barrier> warps;
  std::vector<float> slots;
};
struct Fibre {
  ucontext_t context;
  dim3 thread;
  Block* block;
  bool done = false;
};
inline Fibre* current;
inline ucontext_t scheduler;
inline std::vector<Block>* cluster;
inline Barrier whole;
inline std::function<void()> body;
inline size_t dynamic_bytes;
inline int clusters = 1, shared_limit = 227 * 1024;

inline void pause() { swapcontext(&current->context, &scheduler); }
inline void meet(Barrier& b) {
  const int generation = b.generation;
  if (++b.arrived == b.size) b.arrived = 0, ++b.generation;
  while (b.generation == generation) pause();
}
inline char* place(int key, size_t bytes) {
  Block& b = *current->block;
  if (!b.places.count(key)) {
    b.places[key] = b.used;
    b.used += (bytes + 15) / 16 * 16;
    if (b.used > ARENA - 16) abort();
  }
  return b.arena + b.places[key];
}
template <class T, int KEY>
T& shared() { return *reinterpret_cast<T*>(place(KEY, sizeof(T))); }

inline void run() {
  body();
  current->done = true;
  pause();
}

// All blocks of one cluster at a time; false where threads wait for one that has ended.
inline bool run_cluster(int first, int blocks, int threads) {
  static std::vector<char> stacks, arenas;
  stacks.resize((size_t)blocks * threads * STACK);
  arenas.assign((size_t)blocks * ARENA, (char)0xff);  // NaN: nobody may count on zeros
  std::vector<Block> members(blocks);
  std::vector<Fibre> fibres((size_t)blocks * threads);
  cluster = &members;
  whole = {0, blocks * threads, 0};
  for (int b = 0; b < blocks; ++b) {
    Block& block = members[b];
    block.index = dim3(first + b);
    block.arena = arenas.data() + (size_t)b * ARENA;
    block.arena += (16 - (uintptr_t)block.arena % 16) % 16;
    block.used = dynamic_bytes;
    block.barrier.size = threads;
    block.warps.assign((threads + 31) / 32, Barrier{0, threads < 32 ? threads : 32, 0});
    block.slots.assign(threads, 0.0f);
    for (int t = 0; t < threads; ++t) {
      Fibre& f = fibres[(size_t)b * threads + t];
      f.thread = dim3(t), f.block = &block;
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = stacks.data() + ((size_t)b * threads + t) * STACK;
      f.context.uc_stack.ss_size = STACK;
      f.context.uc_link = nullptr;
      makecontext(&f.context, run, 0);
    }
  }
  for (long rounds = 0, left = 1; left; ++rounds) {
    if (rounds > 100000) return false;
    left = 0;
    for (size_t i = 0; i < fibres.size(); ++i) {
      Fibre& f = fibres[rounds % 2 ? fibres.size() - 1 - i : i];  // a missing barrier shows in one order or the other
      if (f.done) continue;
      current = &f;
      threadIdx = f.thread, blockIdx = f.block->index, blockDim = dim3((unsigned)threads);
      swapcontext(&scheduler, &f.context);
      left += !f.done;
    }
  }
  return true;
}

}  // namespace emulated

inline void __syncthreads() { emulated::meet(emulated::current->block->barrier); }
inline float __shfl_xor_sync(unsigned, float x, int offset) {
  auto& block = *emulated::current->block;
  const unsigned thread = threadIdx.x;
  block.slots[thread] = x;
  emulated::meet(block.warps[thread / 32]);
  const float other = block.slots[thread ^ offset];
  emulated::meet(block.warps[thread / 32]);
  return other;
}

namespace cooperative_groups {
struct Cluster {
  int block_rank() const { return (int)(emulated::current->block - emulated::cluster->data()); }
  int num_blocks() const { return (int)emulated::cluster->size(); }
  void sync() const { emulated::meet(emulated::whole); }
  template <class T>
  T* map_shared_rank(T* mine, int rank) const {
    return reinterpret_cast<T*>((char*)mine - emulated::current->block->arena + (*emulated::cluster)[rank].arena);
  }
};
inline Cluster this_cluster() { return {}; }
}  // namespace cooperative_groups

using cudaError_t = int;
using cudaStream_t = void*;
enum { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidClusterSize, cudaErrorLaunchOutOfResources, cudaErrorStreamCaptureUnsupported, cudaErrorUnknown };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaLaunchAttributeClusterDimension, cudaMemcpyHostToDevice };
enum { cudaDevAttrComputeCapabilityMajor, cudaDevAttrClusterLaunch, cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };
struct cudaLaunchAttribute {
  int id;
  struct { dim3 clusterDim; } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  int numAttrs;
};
inline cudaError_t last_error = cudaSuccess;
inline cudaError_t cudaGetLastError() { cudaError_t e = last_error; last_error = cudaSuccess; return e; }
inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? (emulated::clusters ? 9 : 8)
           : attribute == cudaDevAttrClusterLaunch        ? emulated::clusters
           : attribute == cudaDevAttrMultiProcessorCount  ? 132
                                                          : emulated::shared_limit;
  return cudaSuccess;
}
template <class K>
cudaError_t cudaFuncSetAttribute(K, int, int) { return cudaSuccess; }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* s) { *s = cudaStreamCaptureStatusNone; return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, cudaStream_t) { memcpy(to, from, bytes); return cudaSuccess; }

namespace emulated {
inline cudaError_t launch(unsigned grid, unsigned threads, size_t dynamic, unsigned blocks, std::function<void()> kernel) {
  body = kernel;
  dynamic_bytes = (dynamic + 15) / 16 * 16;
  if (dynamic > (size_t)shared_limit || grid % blocks) return last_error = cudaErrorInvalidValue;
  for (unsigned first = 0; first < grid; first += blocks)
    if (!run_cluster((int)first, (int)blocks, (int)threads)) return last_error = cudaErrorUnknown;
  return cudaSuccess;
}
}  // namespace emulated
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* c, void (*kernel)(P...), A... arguments) {
  return emulated::launch(c->gridDim.x, c->blockDim.x, c->dynamicSmemBytes, c->numAttrs ? c->attrs[0].val.clusterDim.x : 1,
                          [=] { kernel(P(arguments)...); });
}
extern "C" void emulate(int clusters, int shared_limit) {
  emulated::clusters = clusters, emulated::shared_limit = shared_limit;
}

// Gradient of row statistics on the GPU: one sweep, every column read once and written once. The result may be written over
// the logits: what a row needs of its target's column is read before anything is written, which is what the team waits for.
#include "rows_cluster.cuh"
#include "rows_gradient.cuh"

namespace clear_dist {
namespace {

template <int VEC>
struct Output {
  void* row;
  int dtype;
  __device__ __forceinline__ void store_at(int column, const float (&g)[VEC]) const {
    if (dtype == F32) store<float, VEC>((float*)row + column, g);
    if (dtype == BF16) store<bf16, VEC>((bf16*)row + column, g);
    if (dtype == F16) store<fp16, VEC>((fp16*)row + column, g);
  }
  __device__ __forceinline__ void put_at(int column, float g) const {
    if (dtype == F32) put((float*)row + column, g);
    if (dtype == BF16) put((bf16*)row + column, g);
    if (dtype == F16) put((fp16*)row + column, g);
  }
};

template <class Z, class R, int MODE, bool FULL>
__global__ void __launch_bounds__(THREADS, 2) gradient(const CudaRows a, const float* state, const float* coef, void* out,
                                                       int64_t out_stride, int out_dtype) {
  constexpr int VEC = ROW_VECTOR<Z, R>;
  __shared__ Gradient shared;
  const Team team;
  const int64_t t = blockIdx.x / team.size;
  const Target y(a, t);
  const Row<Z, R, MODE> row(a, t, team, 0, false, nullptr);
  const int size = out_dtype == F32 ? 4 : 2;
  const Output<VEC> output{(char*)out + t * out_stride * size, out_dtype};
  Span<VEC> span = row.span;
  out_dtype == F32 ? span.also((float*)output.row) : span.also((bf16*)output.row);

  const bool nothing = y.ignored || y.wrong;
  if (!nothing && threadIdx.x == 0) {
    float zr, x, logit;
    row.one(y.or_first(), zr, x, logit);
    shared.prepare(state + t, coef + t, a.T, a.want, a.beta, a.V, zr, x, y.there, MODE == SINGLE);
  }
  team.sync();
  const Gradient g = shared;
  const float constant = y.ignored ? 0.0f : nanf("");
  auto of = [&](int column, float z, float r) {
    float zr, x, logit;
    split<MODE>(row.pair, z, r, zr, x, logit);
    if (nothing) return constant;
    if (column == y.column) return g.at_y;
    return MODE == SINGLE ? g.template of_one<FULL>(zr) : g.template of_two<FULL>(zr, x);
  };
  const int first = team.rank * THREADS + threadIdx.x, step = team.size * THREADS;
  for (int k = first; k < span.chunks; k += step) {
    const int column = span.column(k);
    float z[VEC], r[VEC] = {}, result[VEC];
    load<Z, VEC>(row.z + column, z);
    if (MODE != SINGLE) load<R, VEC>(row.r + column, r);
#pragma unroll
    for (int j = 0; j < VEC; ++j) result[j] = of(column + j, z[j], r[j]);
    output.store_at(column, result);
  }
  for (int i = first; i < span.singles(); i += step) {
    const int column = span.single(i);
    output.put_at(column, of(column, value(row.z[column]), MODE == SINGLE ? 0.0f : value(row.r[column])));
  }
}

template <class Z, class R, int MODE, bool FULL>
cudaError_t launch(const CudaRows& a, const float* state, const float* coef, void* out, int64_t out_stride, int out_dtype,
                   void* stream) {
  const Device device(a.device);
  // Few rows: several blocks to each, while that gives idle multiprocessors something to do.
  int blocks = 1;
  while (device.clusters && blocks < MOST_BLOCKS && a.T * blocks < 2 * device.processors && a.V > 4096 * blocks) blocks *= 2;
  return launch_team(gradient<Z, R, MODE, FULL>, a.T, blocks, device.clusters, 0, stream, a, state, coef, out, out_stride,
                     out_dtype);
}

template <int MODE>
cudaError_t of_mode(const CudaRows& a, const float* state, const float* coef, void* out, int64_t out_stride, int out_dtype,
                    void* stream) {
  cudaError_t error = cudaErrorInvalidValue;
  with_dtypes(MODE, a.z_dtype, a.r_dtype, [&](auto z, auto r) {
    using Z = decltype(z);
    using R = decltype(r);
    if constexpr (MODE != SINGLE || std::is_same_v<Z, R>) {
      if constexpr (!std::is_same_v<Z, fp16>) {
        if (!(a.want & ~BASIC_GRADIENT)) {
          error = launch<Z, R, MODE, false>(a, state, coef, out, out_stride, out_dtype, stream);
          return;
        }
      }
      error = launch<Z, R, MODE == SINGLE ? SINGLE : EITHER, true>(a, state, coef, out, out_stride, out_dtype, stream);
    }
  });
  return error;
}

}  // namespace
}  // namespace clear_dist

extern "C" int clear_dist_cuda_row_grad(const clear_dist::CudaRows* rows, const float* state, const float* coef, void* out,
                                        int64_t out_stride, int out_dtype, void* stream) {
  using namespace clear_dist;
  const CudaRows& a = *rows;
  if (a.T == 0) return cudaSuccess;
  if (a.V < 1 || a.V > 0x7fff0000 || out_dtype < F32 || out_dtype > F16) return cudaErrorInvalidValue;
  const cudaError_t error = cudaSetDevice(a.device);
  if (error != cudaSuccess) return error;
  return a.mode == SINGLE ? of_mode<SINGLE>(a, state, coef, out, out_stride, out_dtype, stream)
         : a.mode == PAIR ? of_mode<PAIR>(a, state, coef, out, out_stride, out_dtype, stream)
                          : of_mode<DIFFERENCE>(a, state, coef, out, out_stride, out_dtype, stream);
}

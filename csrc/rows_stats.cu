// Statistics of rows of logits on the GPU, forward. A row is read from device memory once, into the shared memory of the
// blocks that share it, and swept there: maxima, then sums about them, then, where a statistic needs the normalisers
// themselves, once more. A row too long for that is read again for each sweep. A second, small kernel makes statistics of
// the sums, one thread a row: double precision, out of the way of the sweeps.
#include <algorithm>

#include "rows_cluster.cuh"
#include "rows_finish.cuh"

namespace clear_dist {
namespace {

static_assert(sizeof(Record) == RECORD * sizeof(float), "Record is an array of floats to the kernels");
constexpr size_t COMFORTABLE = 100 * 1024;  // of shared memory a block: two blocks on a multiprocessor

struct Shared {
  Exchange<4> extremes;
  Exchange<8> sums;
  Exchange<4> second;
  float result[RECORD];
};

template <class Z, class R, int MODE, bool FULL>
__global__ void __launch_bounds__(THREADS, 2) sweep(const CudaRows a, int per, bool staged, float* records) {
  extern __shared__ uint4 room[];
  __shared__ Shared shared;
  const Team team;
  const int64_t t = blockIdx.x / team.size;
  const Target y(a, t);
  if (y.ignored || y.wrong) return;  // the whole team
  const Row<Z, R, MODE> row(a, t, team, per, staged, room);
  row.stage();
  const int want = FULL ? a.want : 0;
  float zr_y, s, plain_y;
  row.one(y.or_first(), zr_y, s, plain_y);
  row.wait();

  Record& result = reinterpret_cast<Record&>(shared.result);
  {
    Extremes found;
    row.each(y.column, s, [&](float zr, float x, float logit) { found.add<MODE>(zr, x, logit, s); });
    float x[4] = {found.reference, found.student, found.plain, found.wide};
    combine<Largest>(x, shared.extremes, &result.extremes.reference, team, true);
  }
  const Origin origin(result.extremes, s);
  const int reach = reach_of(result.extremes.wide);
  {
    Sums sums;
    if (MODE == SINGLE) {
      row.each(y.column, s, [&](float zr, float, float) { sums.add_single(zr, origin.m, want); });
    } else if (reach == TINY) {
      row.each(y.column, s, [&](float zr, float x, float) { sums.add<TINY>(zr, x, origin, want); });
    } else if (reach == NEAR) {
      row.each(y.column, s, [&](float zr, float x, float) { sums.add<NEAR>(zr, x, origin, want); });
    } else {
      row.each(y.column, s, [&](float zr, float x, float) { sums.add<FAR>(zr, x, origin, want); });
    }
    float x[8] = {sums.a, sums.b, sums.f, sums.p, sums.r, sums.q, sums.nr, sums.ns};
    combine<Total>(x, shared.sums, &result.sums.a, team, FULL && (want & WANT_SECOND));
  }
  if (threadIdx.x == 0) result.zr = zr_y, result.plain = y.there ? plain_y : NOTHING;
  if (FULL && MODE != SINGLE && (want & WANT_SECOND)) {
    __syncthreads();
    float lse, ct;
    normalisers(result, y.there, lse, ct);
    Second second;
    row.each(-1, s, [&](float zr, float x, float) { second.add(zr, x, s, lse, ct, a.beta, want); });
    float x[4] = {second.js, second.to_mean, second.soft, second.sigmoids};
    combine<Total>(x, shared.second, &result.second.js, team, false);
  } else {
    if (threadIdx.x == 0) result.second = Second();
    __syncthreads();
  }
  if (team.rank == 0 && threadIdx.x < RECORD) records[t * RECORD + threadIdx.x] = shared.result[threadIdx.x];
  if (team.size > 1) team.sync();  // the first block has read what it needs of the others
}

__global__ void __launch_bounds__(32) finish_rows(const CudaRows a, const float* records, float* stats, float* state) {
  const int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= a.T) return;
  const Target y(a, t);
  Destination out(stats + t, state + t, a.T, a.want);
  if (y.ignored || y.wrong) {
    out.all(y.ignored ? 0.0f : nanf(""));
    return;
  }
  Record row;
#pragma unroll
  for (int k = 0; k < RECORD; ++k) (&row.extremes.reference)[k] = records[t * RECORD + k];
  finish(row, a.mode, y.there, a.beta, a.V, out);
}

// The smallest team whose blocks have the row comfortably, else the largest; without room, rows are read again and again.
template <class Z, class R, int MODE, bool FULL>
cudaError_t sweep_rows(const CudaRows& a, float* records, void* stream) {
  constexpr int VEC = ROW_VECTOR<Z, R>;
  const Device device(a.device);
  const int most = device.clusters ? MOST_BLOCKS : 1;
  const int64_t vectors = a.V / VEC;
  const size_t bytes = VEC * (sizeof(Z) + (MODE == SINGLE ? 0 : sizeof(R)));
  auto per = [&](int blocks) { return (vectors + blocks - 1) / blocks; };
  int blocks = 1;
  while (blocks < most && (size_t)per(blocks) * bytes > COMFORTABLE) blocks *= 2;
  if ((size_t)per(blocks) * bytes + sizeof(Shared) + 1024 <= (size_t)device.shared) {
    const cudaError_t error = launch_team(sweep<Z, R, MODE, FULL>, a.T, blocks, device.clusters, per(blocks) * bytes, stream,
                                          a, (int)per(blocks), true, records);
    // A part of a device may have no room for a cluster of this size.
    if (error != cudaErrorInvalidClusterSize && error != cudaErrorLaunchOutOfResources) return error;
    (void)cudaGetLastError();
  }
  return launch_team(sweep<Z, R, MODE, FULL>, a.T, 1, device.clusters, 0, stream, a, (int)vectors, false, records);
}

template <int MODE>
cudaError_t of_mode(const CudaRows& a, float* records, void* stream) {
  cudaError_t error = cudaErrorInvalidValue;
  with_dtypes(MODE, a.z_dtype, a.r_dtype, [&](auto z, auto r) {
    using Z = decltype(z);
    using R = decltype(r);
    if constexpr (MODE != SINGLE || std::is_same_v<Z, R>) {
      if constexpr (!std::is_same_v<Z, fp16>) {
        if (!(a.want & ~BASIC)) {
          error = sweep_rows<Z, R, MODE, false>(a, records, stream);
          return;
        }
      }
      error = sweep_rows<Z, R, MODE == SINGLE ? SINGLE : EITHER, true>(a, records, stream);
    }
  });
  return error;
}

}  // namespace
}  // namespace clear_dist

extern "C" int clear_dist_cuda_row_stats(const clear_dist::CudaRows* rows, float* record, float* stats, float* state,
                                         void* stream) {
  using namespace clear_dist;
  const CudaRows& a = *rows;
  if (a.T == 0) return cudaSuccess;
  if (a.V < 1 || a.V > 0x7fff0000) return cudaErrorInvalidValue;
  cudaError_t error = cudaSetDevice(a.device);
  if (error != cudaSuccess) return error;
  error = a.mode == SINGLE ? of_mode<SINGLE>(a, record, stream)
          : a.mode == PAIR ? of_mode<PAIR>(a, record, stream)
                           : of_mode<DIFFERENCE>(a, record, stream);
  if (error != cudaSuccess) return error;
  finish_rows<<<(unsigned)((a.T + 31) / 32), 32, 0, (cudaStream_t)stream>>>(a, record, stats, state);
  return cudaGetLastError();
}

extern "C" const char* clear_dist_cuda_error(int code) { return cudaGetErrorString((cudaError_t)code); }

// Walking over the columns of a row, vector by vector.
#pragma once
#include "cpu.h"
#include "vec.h"

// Functions the linker sees: their names end in the capability.
#define CLEAR_DIST_JOIN_(a, b) a##b
#define CLEAR_DIST_JOIN(a, b) CLEAR_DIST_JOIN_(a, b)
#define CLEAR_DIST_NAME(stem) CLEAR_DIST_JOIN(stem, CLEAR_DIST_CAPABILITY)

namespace clear_dist {

void CLEAR_DIST_NAME(row_stats_)(const Rows&, float*, float*, int64_t, int64_t);
void CLEAR_DIST_NAME(row_grad_)(const Rows&, const float*, const float*, void*, int64_t, int64_t, int64_t);
void CLEAR_DIST_NAME(distance_)(const Distance&, float*, int64_t, int64_t);
void CLEAR_DIST_NAME(distance_grad_)(const Distance&, const float*, void*, int64_t, int64_t);
double CLEAR_DIST_NAME(l1_)(const void*, DType, int64_t);
void CLEAR_DIST_NAME(l1_add_sign_)(const void*, DType, void*, DType, float, int64_t, int64_t);

namespace {

// f(z, r, keep) over columns [begin, end); keep is 1, or 0 in lanes beyond the end, where z and r are the fills.
template <class T, class G>
INLINE void columns(const T* z, const T* r, int64_t begin, int64_t end, float z_fill, float r_fill, const G& f) {
  int64_t v = begin;
  for (; v + N <= end; v += N) f(load(z + v), r ? load(r + v) : F{}, splat(1.0f));
  if (v < end) f(load_some(z + v, end - v, z_fill), r ? load_some(r + v, end - v, r_fill) : F{}, first(end - v));
}

// The same over all columns but y's (y < 0: over all).
template <class T, class G>
INLINE void across(const Rows& a, int64_t y, const T* z, const T* r, float z_fill, float r_fill, const G& f) {
  columns(z, r, 0, y < 0 ? a.V : y, z_fill, r_fill, f);
  if (y >= 0) columns(z, r, y + 1, a.V, z_fill, r_fill, f);
}

// Sums over columns in single precision block by block, the blocks in double: the error does not grow with the row.
constexpr int64_t BLOCK = 64 * N;

template <int K>
struct Sums {
  double value[K] = {};
  // f(z, r, keep, F sums[K]) adds to its sums.
  template <class T, class G>
  INLINE void add(Sums& out, const T* z, const T* r, int64_t begin, int64_t end, float z_fill, float r_fill, const G& f) {
    for (int64_t block = begin; block < end; block += BLOCK) {
      F sums[K] = {};
      int64_t last = block + BLOCK < end ? block + BLOCK : end;
      columns(z, r, block, last, z_fill, r_fill, [&](F zv, F rv, F keep) INLINED { f(zv, rv, keep, sums); });
      for (int k = 0; k < K; ++k) out.value[k] += total(sums[k]);
    }
  }
  // The same over all columns but y's; lanes beyond a row's end hold 0.
  template <class T, class G>
  INLINE void across(Sums& out, const Rows& a, int64_t y, const T* z, const T* r, const G& f) {
    add(out, z, r, 0, y < 0 ? a.V : y, 0, 0, f);
    if (y >= 0) add(out, z, r, y + 1, a.V, 0, 0, f);
  }
};

}  // namespace
}  // namespace clear_dist

// Statistics of a row of logits: bits, modes and the layout of what is kept for the gradient. The equations and the
// meaning of every bit stand in clear_dist/ops/rows/__init__.py; the numbers are those of clear_dist/ops/rows/names.py.
#pragma once
#include <cstdint>

namespace clear_dist {

enum Mode : int { SINGLE = 0, PAIR = 1, DIFFERENCE = 2 };
constexpr int64_t IGNORE = -100;
constexpr int STATE = 8;
enum State : int { LSE = 0, SHIFTED = 1, REST = 2, REST_REF = 3, OWN_ENTROPY = 4, REVERSE = 5, TO_MEAN = 6, NPO_SUM = 7 };
enum Bit : int {
  LOGP, LOG1MP, TOP1, ENTROPY, LOGP_REF, LOG1MP_REF, ENTROPY_REF, LOG_RATIO, CROSS_REST, KL_FORWARD, KL_REVERSE, JS, NPO_VOCAB
};
// Statistics that compare with a reference, and those that look at a target.
constexpr int64_t OF_TWO = -(int64_t{1} << LOGP_REF);
constexpr int64_t OF_TARGET = int64_t{1} << LOGP | int64_t{1} << LOG1MP | int64_t{1} << TOP1 | int64_t{1} << LOGP_REF |
                              int64_t{1} << LOG1MP_REF | int64_t{1} << LOG_RATIO | int64_t{1} << CROSS_REST;
inline bool has(int want, Bit bit) { return (want >> bit) & 1; }

enum DType : int { F32 = 0, BF16 = 1 };

// One call: T rows of V columns. Strides in elements, the last dimension contiguous. r is null in SINGLE, y may be null.
struct Rows {
  const void* z;
  const void* r;
  const int64_t* y;
  int64_t z_stride, r_stride, T, V;
  DType dtype;
  int want, mode;
  float beta;
};

}  // namespace clear_dist

// Sequential rounding of a block of columns. Built without contraction to fused operations, which paths would differ by.
#include "rounding.hpp"

#include <algorithm>
#include <cmath>

namespace rarefy {

namespace {

// Rows do not know each other: so many at a time, that the errors of a block of them stay in the nearest cache.
constexpr size_t kRows = 64;

struct Sides {
  const uint8_t* keep;
  int32_t* q;
  float* left;
};

RAREFY_INLINE void strip(Block shape, size_t first, size_t count, float* weights, const float* within,
                         const float* reciprocal, Grid grid, Sides out, float* errors) {
  float column[kRows], level[kRows], value[kRows];
  const bool same = grid.points_stride == 1;
  for (size_t i = 0; i < shape.columns; ++i) {
    const size_t at = i * shape.rows + first;
    for (size_t r = 0; r < count; ++r) column[r] = weights[at + r];
    for (size_t j = 0; j < i; ++j) {
      const float u = within[i * shape.columns + j];
      const float* error = errors + j * shape.rows + first;
      for (size_t r = 0; r < count; ++r) column[r] -= u * error[r];
    }
    for (size_t r = 0; r < count; ++r) level[r] = column[r] / (grid.scales[first + r] * grid.steps[i]);
    for (size_t r = 0; r < count; ++r) value[r] = std::rint(level[r]);
    if (out.keep)
      for (size_t r = 0; r < count; ++r) value[r] = out.keep[at + r] ? value[r] : 0.0f;
    for (size_t r = 0; r < count; ++r) out.q[at + r] = int32_t(value[r]);
    for (size_t r = 0; r < count; ++r) {
      const float* point = grid.points + (same ? 0 : first + r);
      const float size = std::fabs(value[r]);
      const float low = size == 1.0f ? point[0] : size, middle = size == 2.0f ? point[grid.points_stride] : low;
      value[r] = std::copysign(size == 3.0f ? point[2 * grid.points_stride] : middle, level[r]);
    }
    if (out.left)
      for (size_t r = 0; r < count; ++r) out.left[at + r] = level[r] - value[r];
    for (size_t r = 0; r < count; ++r) {
      const float rounded = value[r] * (grid.scales[first + r] * grid.steps[i]);
      errors[at + r] = (column[r] - rounded) * reciprocal[i];
      weights[at + r] = rounded;
    }
  }
}

RAREFY_INLINE void strips(Block shape, float* weights, const float* within, const float* reciprocal, Grid grid,
                          Sides out, float* errors) {
  size_t first = 0;
  for (; first + kRows <= shape.rows; first += kRows)
    strip(shape, first, kRows, weights, within, reciprocal, grid, out, errors);
  if (first < shape.rows) strip(shape, first, shape.rows - first, weights, within, reciprocal, grid, out, errors);
}

void strips_scalar(Block shape, float* weights, const float* within, const float* reciprocal, Grid grid, Sides out,
                   float* errors) {
  strips(shape, weights, within, reciprocal, grid, out, errors);
}
#if RAREFY_X86
RAREFY_AVX2 void strips_avx2(Block shape, float* weights, const float* within, const float* reciprocal, Grid grid,
                             Sides out, float* errors) {
  strips(shape, weights, within, reciprocal, grid, out, errors);
}
RAREFY_AVX512 void strips_avx512(Block shape, float* weights, const float* within, const float* reciprocal, Grid grid,
                                 Sides out, float* errors) {
  strips(shape, weights, within, reciprocal, grid, out, errors);
}
#endif

}  // namespace

void round_block(Block shape, float* weights, const float* within, const float* reciprocal, Grid grid,
                 const uint8_t* keep, int32_t* q, float* errors, float* left, Path path) {
  const Sides out{keep, q, left};
#if RAREFY_X86
  if (path == Path::avx512) return strips_avx512(shape, weights, within, reciprocal, grid, out, errors);
  if (path == Path::avx2) return strips_avx2(shape, weights, within, reciprocal, grid, out, errors);
#endif
  (void)path;
  strips_scalar(shape, weights, within, reciprocal, grid, out, errors);
}

}  // namespace rarefy

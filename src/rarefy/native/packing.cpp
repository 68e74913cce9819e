// Memory-bound helpers: symbol counts, and grouped integers back to floats.
#include "packing.hpp"

#include <algorithm>
#include <cstring>
#include <string>

namespace rarefy {

void histogram(const uint8_t* symbols, size_t n, int64_t* counts) {
  // Four tables: equal neighbours in one table would wait on each other's store.
  int64_t part[4][256] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, symbols + i, 8);
    for (int b = 0; b < 8; ++b) ++part[b % 4][eight >> (8 * b) & 0xff];
  }
  for (; i < n; ++i) ++part[0][symbols[i]];
  for (int s = 0; s < 256; ++s) counts[s] = part[0][s] + part[1][s] + part[2][s] + part[3][s];
}

static void check_given(const uint8_t* given, size_t n, size_t tables) {
  uint8_t most = 0;
  for (size_t i = 0; i < n; ++i) most = std::max(most, given[i]);
  if (n && most >= tables)
    throw std::invalid_argument("scale index " + std::to_string(most) + " of " + std::to_string(tables));
}

void histogram_given(const uint8_t* symbols, const uint8_t* given, size_t n, int64_t* counts, size_t rows) {
  check_given(given, n, rows);
  std::fill_n(counts, 256 * rows, 0);
  for (size_t i = 0; i < n; ++i) ++counts[size_t(given[i]) << 8 | symbols[i]];
}

void escape_given(Lost lost, const uint8_t* symbols, const uint8_t* given, size_t n, uint8_t escape, uint8_t* out,
                  std::vector<uint8_t>& escaped) {
  check_given(given, n, lost.tables);
  for (size_t i = 0; i < n; ++i) {
    const bool is_lost = lost.of[size_t(given[i]) << 8 | symbols[i]];
    out[i] = is_lost ? escape : symbols[i];
    if (is_lost) escaped.push_back(symbols[i]);
  }
}

namespace {

RAREFY_INLINE void rows(Groups shape, const uint8_t* q, const float* scale, const float* zero, float* out) {
  const size_t groups = (shape.columns + shape.group - 1) / shape.group;
  for (size_t r = 0; r < shape.rows; ++r)
    for (size_t g = 0; g < groups; ++g) {
      const size_t begin = r * shape.columns + g * shape.group;
      const size_t count = std::min(shape.group, shape.columns - g * shape.group);
      const float s = scale[r * groups + g], z = zero[r * groups + g];
      const uint8_t* from = q + begin;
      float* to = out + begin;
      for (size_t i = 0; i < count; ++i) to[i] = (float(from[i]) - z) * s;
    }
}

template <class Integer>
RAREFY_INLINE void separable(Separable grid, const Integer* q, float* out) {
  const float one = grid.points[0], two = grid.points[1], three = grid.points[2];
  for (size_t r = 0; r < grid.rows; ++r, q += grid.columns, out += grid.columns)
    for (size_t c = 0; c < grid.columns; ++c) {
      const float v = float(q[c]), size = v < 0 ? -v : v;
      const float first = size == 1.0f ? one : size, second = size == 2.0f ? two : first;
      const float point = size == 3.0f ? three : second;
      out[c] = (v < 0 ? -point : point) * (grid.row[r] * grid.column[c]);
    }
}

#if RAREFY_X86
template <class Integer>
RAREFY_AVX2 void separable_avx2(Separable grid, const Integer* q, float* out) {
  separable(grid, q, out);
}
template <class Integer>
RAREFY_AVX512 void separable_avx512(Separable grid, const Integer* q, float* out) {
  separable(grid, q, out);
}
#endif

void rows_scalar(Groups shape, const uint8_t* q, const float* scale, const float* zero, float* out) {
  rows(shape, q, scale, zero, out);
}
#if RAREFY_X86
RAREFY_AVX2 void rows_avx2(Groups shape, const uint8_t* q, const float* scale, const float* zero, float* out) {
  rows(shape, q, scale, zero, out);
}
RAREFY_AVX512 void rows_avx512(Groups shape, const uint8_t* q, const float* scale, const float* zero, float* out) {
  rows(shape, q, scale, zero, out);
}
#endif

}  // namespace

void dequantize_groups(Groups shape, const uint8_t* q, const float* scale, const float* zero, float* out, Path path) {
#if RAREFY_X86
  if (path == Path::avx512) return rows_avx512(shape, q, scale, zero, out);
  if (path == Path::avx2) return rows_avx2(shape, q, scale, zero, out);
#endif
  (void)path;
  rows_scalar(shape, q, scale, zero, out);
}

template <class Integer>
void dequantize_separable(Separable grid, const Integer* q, float* out, Path path) {
#if RAREFY_X86
  if (path == Path::avx512) return separable_avx512(grid, q, out);
  if (path == Path::avx2) return separable_avx2(grid, q, out);
#endif
  (void)path;
  separable(grid, q, out);
}
template void dequantize_separable(Separable, const int8_t*, float*, Path);
template void dequantize_separable(Separable, const int32_t*, float*, Path);

}  // namespace rarefy

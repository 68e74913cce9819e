#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu.hpp"

namespace rarefy {

// counts[256]
void histogram(const uint8_t* symbols, size_t n, int64_t* counts);
// counts: `rows` of 256, of the symbols under each value of `given`; throws where it is no row.
void histogram_given(const uint8_t* symbols, const uint8_t* given, size_t n, int64_t* counts, size_t rows);

// Of each table, which of 256 symbols are lost.
struct Lost {
  const uint8_t* of;
  size_t tables;
};
// Moves the symbols lost under the table that is given from `symbols` to `escaped`; throws where it is no table.
void escape_given(Lost lost, const uint8_t* symbols, const uint8_t* given, size_t n, uint8_t escape, uint8_t* out,
                  std::vector<uint8_t>& escaped);

// out[r, c] = (q[r, c] - zero[r, c / group]) * scale[r, c / group]; the last group of a row may be short.
struct Groups {
  size_t rows, columns, group;
};
void dequantize_groups(Groups shape, const uint8_t* q, const float* scale, const float* zero, float* out, Path path);

// out[r, c] = v * (row[r] * column[c]), where v is q[r, c], but of 1, 2 and 3 either way points[0..2].
struct Separable {
  size_t rows, columns;
  const float* row;
  const float* column;
  const float* points;
};
template <class Integer>  // int8_t, int32_t
void dequantize_separable(Separable grid, const Integer* q, float* out, Path path);

}  // namespace rarefy

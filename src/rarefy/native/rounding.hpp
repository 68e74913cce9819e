#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.hpp"

namespace rarefy {

// A block of columns of a weight matrix, transposed: `columns` of `rows` weights each, one after the other.
struct Block {
  size_t columns, rows;
};

// A grid of separable step: a weight of row r and column i is a multiple of scales[r] * steps[i], and multiples 1, 2, 3
// stand for points[0..2]. Of all rows, or `points_stride` apart for each row.
struct Grid {
  const float* scales;
  const float* steps;
  const float* points;
  size_t points_stride;  // between points: 1 where all rows have the same, else the number of rows
};

// Sequential rounding with feedback inside a block (GPTQ; maths/rounding.py says the rest). `within` is (columns,
// columns), U's block transposed; reciprocal[i] = 1 / U_ii. `weights` become what they round to, `q` the multiples,
// `errors` what is to be fed on. keep: null, or which weights may be other than zero. left: null, or what rounding leaves
// in steps.
void round_block(Block shape, float* weights, const float* within, const float* reciprocal, Grid grid,
                 const uint8_t* keep, int32_t* q, float* errors, float* left, Path path);

}  // namespace rarefy

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu.hpp"

namespace rarefy {

// A matrix (rows, inputs) at 4 or 8 bits a weight. A row is `width` integers, a multiple of 64; those past `digits` meet
// zeros. The input of column j is x[index[j]] * columns[j], or x[j] where these are null.
//
// 8 bits: int8, the weight's share of its row's step.
// 4 bits: in 64 columns, the low halves of 32 bytes are the first 32; of each 32, byte b < 16 is column 8 (b / 4) + b % 4,
// byte b + 16 the one four further. They number `table`, 16 bfloat16 values: their low bytes, then their high bytes. In
// groups of `group` columns, a multiple of 32, a value v may stand for scale * (v + shift): scales (rows, groups) in
// bfloat16 or binary16, or null; shifts, or null where they are zeros.
// Integers further out are sums of entries: of kRows rows, in the order of their columns, those from first[row / kRows]
// on: column << 16 | row % kRows << 8 | int8.
//
// steps: of the rows, or null.
constexpr size_t kRows = 16;

struct Packed {
  int bits;
  size_t rows, inputs, digits, width;
  const uint8_t* q;
  const uint8_t* table;
  const float* steps;
  size_t group, groups;
  bool binary16;
  const uint16_t* scales;
  const int8_t* shifts;
  const uint32_t* first;
  const uint32_t* far;
  const uint32_t* index;
  const float* columns;
};

// Lays a matrix (rows, columns) of int8 out at 4 bits: packed (rows, columns filled to whole blocks, 2 a byte) numbers the
// integers from -8 to 7, those beyond become entries. -128 stands for the next of the n `far` ones, which may be any;
// throws where these are more or fewer. False, with nothing of use made, where there would be more than `most` entries.
bool lay_out(const int8_t* q, size_t rows, size_t columns, const int32_t* far, size_t n, size_t most, uint8_t* packed,
             uint32_t* first, std::vector<uint32_t>& entries);

// y (n, rows) = x (n, inputs) W', of several matrices beside each other, which all read x. Sums are float32's, fused, in
// one order on every path and for any number of threads, whatever vectors and matrices are beside. bfloat16: x and y are;
// else float32. Work is shared among the threads of OpenMP where its runtime is loaded already, as torch loads it.
void multiply(const std::vector<const Packed*>& matrices, const void* x, size_t n, void* y, bool bfloat16, Path path);

// Rows of W for prepared inputs, float32 (count, digits): those of `ids`, or from `start` on where it is null.
void restore(const Packed& w, size_t start, const int64_t* ids, size_t count, float* out, Path path);

}  // namespace rarefy

#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.hpp"

namespace rarefy {

// counts[256]
void histogram(const uint8_t* symbols, size_t n, int64_t* counts);

// out[r, c] = (q[r, c] - zero[r, c / group]) * scale[r, c / group]; the last group of a row may be short.
struct Groups {
  size_t rows, columns, group;
};
void dequantize_groups(Groups shape, const uint8_t* q, const float* scale, const float* zero, float* out, Path path);

}  // namespace rarefy

#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy {

// Bit patterns of n elements of `width` bytes (1, 2, 4 or 8). exponent, mantissa: bits of a float, 0 and 0 for integers.
struct Elements {
  size_t n, width;
  int exponent, mantissa;
};

constexpr size_t kRun = size_t{1} << 18;

// What separates `values` from `base`, and back: XOR, or zigzag steps in the order of the numbers; in runs of kRun,
// sorted by the base's exponent, elements of one exponent as they were. See rarefy/codes/difference.py.
void take_difference(Elements e, bool xored, const uint8_t* values, const uint8_t* base, uint8_t* out);
void undo_difference(Elements e, bool xored, const uint8_t* steps, const uint8_t* base, uint8_t* out);

}  // namespace rarefy

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "rans.hpp"

namespace rarefy {

// A byte plane of a window: tiles of `step` symbols (the last may be shorter) one after the other, their bytes and
// their CRC-32.
struct CodedPlane {
  Span data;
  size_t step;
  const int64_t* sizes;
  const int64_t* checks;
};

// Symbols to which every step is a multiple, unless one tile is all of its plane.
constexpr size_t kBlock = 4096;

struct Place {
  size_t plane, tile;
};

// The n elements, as wide as there are planes (1, 2, 4 or 8), each rotated right by one bit if `rotate`; or where the
// first damage was met, `elements` then being undefined. Throws std::invalid_argument for other widths and steps.
std::optional<Place> decode_window(const std::vector<CodedPlane>& planes, size_t n, bool rotate, uint8_t* elements,
                                   Path path);

}  // namespace rarefy

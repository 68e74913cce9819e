#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.hpp"

namespace rarefy {

void check_width(size_t width);  // throws std::invalid_argument

// Elements of `width` bytes (1, 2, 4 or 8), each rotated left by one bit if `rotate`, to byte planes, the highest
// first, plane p at planes + p * n; and back, plane p at planes[p].
void split_planes(const uint8_t* elements, size_t n, size_t width, bool rotate, uint8_t* planes, Path path);
void join_planes(const uint8_t* const* planes, size_t n, size_t width, bool rotate, uint8_t* elements, Path path);

}  // namespace rarefy

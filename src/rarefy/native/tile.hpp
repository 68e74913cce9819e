#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rans.hpp"

namespace rarefy {

// Tiles that bring their own model. Described in rarefy/entropy/rans_tiles.py.

// Appends the tile of n symbols to `out`; returns its bytes.
size_t encode_tile(const uint8_t* symbols, size_t n, std::vector<uint8_t>& out);

// Throws std::invalid_argument when `data` is not exactly one tile of n symbols.
void decode_tile(Span data, uint8_t* out, size_t n);

// The bytes of a tile, within a part in a thousand.
double tile_bytes(const uint8_t* symbols, size_t n);

}  // namespace rarefy

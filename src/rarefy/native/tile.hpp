#pragma once

#include <cstddef>
#include <cstdint>

#include "rans.hpp"

namespace rarefy {

// A tile that brings its own model. Described in rarefy/entropy/rans_tiles.py.
struct Tile {
  Span coded;  // null when the symbols stand as they are, after a byte of zero
};
// The tile lies in memory that belongs to this thread until its next call.
Tile encode_tile(const uint8_t* symbols, size_t n);

// Throws std::invalid_argument when `data` is not exactly one tile of n symbols.
void decode_tile(Span data, uint8_t* out, size_t n);

// The bytes of a tile, within a part in a thousand.
double tile_bytes(const uint8_t* symbols, size_t n);

}  // namespace rarefy

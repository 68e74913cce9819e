#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "rans.hpp"

namespace rarefy {

// Tiles that bring their own model. Described in rarefy/entropy/rans_tiles.py.

// Appends the tile of n symbols to `out`; returns its bytes.
size_t encode_tile(const uint8_t* symbols, size_t n, std::vector<uint8_t>& out);

// A tile, some symbols at a time. Throws std::invalid_argument where it is found not to be one of n symbols.
class TileDecoder {
 public:
  TileDecoder(Span data, size_t n, Path path);
  TileDecoder(const TileDecoder&) = delete;
  TileDecoder& operator=(const TileDecoder&) = delete;
  // The next n symbols, in `room` or, where they are stored as they are, in the tile itself; n is a multiple of
  // kMaxLanes for all but the last.
  const uint8_t* take(size_t n, uint8_t* room);
  void end() const;

 private:
  const uint8_t* raw_ = nullptr;
  DecodeTable table_;
  std::optional<Decoder> stream_;
};

// Throws std::invalid_argument when `data` is not exactly one tile of n symbols.
void decode_tile(Span data, uint8_t* out, size_t n);

// The bytes of a tile, within a part in a thousand.
double tile_bytes(const uint8_t* symbols, size_t n);

}  // namespace rarefy

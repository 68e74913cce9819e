// Tiles of byte planes to elements, block by block: a block's symbols never leave the first-level cache, and those that
// are stored as they are go straight from the file's bytes to the elements.
#include "window.hpp"

#include <algorithm>
#include <stdexcept>

#include "crc.hpp"
#include "planes.hpp"
#include "tile.hpp"

namespace rarefy {
namespace {

class PlaneDecoder {
 public:
  PlaneDecoder(const CodedPlane& plane, size_t n, Path path) : plane_(plane), n_(n), path_(path) {}

  // The next `count` symbols, of one tile; in `room` or where they lie.
  const uint8_t* take(size_t count, uint8_t* room) {
    if (!left_) open();
    const uint8_t* symbols = tile_->take(count, room);
    if (left_ -= count; !left_) {
      tile_->end();
      ++number_;
    }
    return symbols;
  }
  size_t number() const { return number_; }

 private:
  void open() {
    left_ = std::min(plane_.step, n_ - number_ * plane_.step);
    const size_t size = size_t(plane_.sizes[number_]);
    if (size > plane_.data.size - at_) throw std::invalid_argument("it is truncated");
    const Span data{plane_.data.data + at_, size};
    if (crc32(data.data, size, path_) != uint64_t(plane_.checks[number_]))
      throw std::invalid_argument("its checksum is wrong");
    tile_.emplace(data, left_, path_);
    at_ += size;
  }

  const CodedPlane& plane_;
  const size_t n_;
  const Path path_;
  std::optional<TileDecoder> tile_;
  size_t number_ = 0, at_ = 0, left_ = 0;  // of the tile, in the plane's bytes, in the tile's symbols
};

}  // namespace

std::optional<Place> decode_window(const std::vector<CodedPlane>& planes, size_t n, bool rotate, uint8_t* elements,
                                   Path path) {
  const size_t width = planes.size();
  check_width(width);
  std::optional<PlaneDecoder> decoders[8];
  for (size_t p = 0; p < width; ++p) {
    if (planes[p].step % kBlock && planes[p].step < n) throw std::invalid_argument("a tile is no number of blocks");
    decoders[p].emplace(planes[p], n, path);
  }
  uint8_t room[8][kBlock];
  const uint8_t* symbols[8];
  for (size_t at = 0; at < n; at += kBlock) {
    const size_t count = std::min(kBlock, n - at);
    for (size_t p = 0; p < width; ++p) {
      try {
        symbols[p] = decoders[p]->take(count, room[p]);
      } catch (const std::invalid_argument&) {
        return Place{p, decoders[p]->number()};
      }
    }
    join_planes(symbols, count, width, rotate, elements + width * at, path);
  }
  return std::nullopt;
}

}  // namespace rarefy

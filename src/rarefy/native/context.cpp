// The range coder, and the one way in which it may end.
#include "context.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "context_model.hpp"

namespace rarefy {
namespace {

constexpr uint64_t kWhole = uint64_t(1) << 32;
constexpr uint64_t kTop = uint64_t(1) << 24;

void check(ContextShape shape, size_t n) {
  if (shape.depth < 1 || shape.depth > 8) throw std::invalid_argument("symbols of other than 1 to 8 bits");
  if (shape.columns < 1 || shape.columns > kMaxTile) throw std::invalid_argument("columns outside 1..2^20");
  if (n > kMaxTile) throw std::invalid_argument("a tile of more than 2^20 symbols");
}

// Strings of bytes are the intervals [B, B + 1) / 256^length. The distance from `low` up to the first interval of
// `width` that begins at or above it; both count units of the same window.
uint64_t gap(uint64_t low, uint64_t width) { return (width - low % width) % width; }

// How many bytes of the window's four the shortest interval inside [low, low + range) needs.
int ending(uint64_t low, uint64_t range) {
  int bytes = 0;
  for (uint64_t width = kWhole; gap(low, width) + width > range; width >>= 8) ++bytes;
  return bytes;
}

class Encoder {
 public:
  uint32_t operator()(uint32_t bit, uint32_t p) {
    const uint64_t bound = (range_ >> 16) * p;
    // A one takes the lower part.
    if (bit) {
      range_ = bound;
    } else {
      low_ += bound;
      range_ -= bound;
    }
    while (range_ < kTop) {
      put();
      range_ <<= 8;
    }
    return bit;
  }

  std::vector<uint8_t> finish() {
    const int bytes = ending(low_, range_);
    low_ += gap(low_, kWhole >> (8 * bytes));
    if (!bytes) carry();
    for (int i = 0; i < bytes; ++i) put();
    return std::move(out_);
  }

 private:
  void carry() {
    if (low_ < kWhole) return;
    low_ -= kWhole;
    for (size_t i = out_.size(); ++out_[--i] == 0;) {
    }
  }

  void put() {
    carry();
    out_.push_back(uint8_t(low_ >> 24));
    low_ = low_ << 8 & (kWhole - 1);
  }

  uint64_t low_ = 0, range_ = kWhole;
  std::vector<uint8_t> out_;
};

class Decoder {
 public:
  Decoder(const uint8_t* data, size_t size) : data_(data), size_(size) {
    for (int i = 0; i < 4; ++i) next();
  }

  uint32_t operator()(uint32_t, uint32_t p) {
    const uint64_t bound = (range_ >> 16) * p;
    const bool bit = above_ < bound;
    if (bit) {
      range_ = bound;
    } else {
      above_ -= bound;
      range_ -= bound;
    }
    while (range_ < kTop) {
      next();
      range_ <<= 8;
    }
    return bit;
  }

  // Refuse bytes missing, left over, or other than an encoder's.
  void finish() const {
    const uint64_t low = (window_ - above_) & (kWhole - 1);
    const int bytes = ending(low, range_);
    if (read_ - 4 + bytes != size_ || gap(low, kWhole >> (8 * bytes)) != above_)
      throw std::invalid_argument("context stream is damaged: it does not end where its symbols do");
  }

 private:
  // Zeros follow the bytes, as many as are asked for: `finish` finds out.
  void next() {
    const uint8_t byte = read_ < size_ ? data_[read_] : 0;
    ++read_;
    window_ = (window_ << 8 | byte) & (kWhole - 1);
    above_ = above_ << 8 | byte;
  }

  const uint8_t* data_;
  size_t size_, read_ = 0;
  uint64_t range_ = kWhole;
  uint64_t window_ = 0, above_ = 0;  // the last four bytes; how far they lie above the lower end of the range
};

}  // namespace

std::vector<uint8_t> context_encode(const uint8_t* symbols, size_t n, ContextShape shape) {
  check(shape, n);
  for (size_t i = 0; i < n; ++i)
    if (symbols[i] >> shape.depth) throw std::invalid_argument("a symbol has more bits than the model says");
  if (!n) return {};
  ContextModel model({shape.depth, std::min(shape.columns, n)});
  Encoder encoder;
  for (size_t i = 0; i < n; ++i) model.step(symbols[i], encoder);
  return encoder.finish();
}

void context_decode(const uint8_t* data, size_t size, ContextShape shape, uint8_t* out, size_t n) {
  check(shape, n);
  if (!n && size) throw std::invalid_argument("context stream of no symbols has bytes");
  if (!n) return;
  ContextModel model({shape.depth, std::min(shape.columns, n)});
  Decoder decoder(data, size);
  for (size_t i = 0; i < n; ++i) out[i] = uint8_t(model.step(0, decoder));
  decoder.finish();
}

}  // namespace rarefy

// Adaptive binary context coder: a range coder (Martin 1979) under logistically mixed adaptive probabilities (Mahoney's
// lpaq, 2007). The byte format is described in rarefy/entropy/context.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rarefy {

constexpr size_t kMaxTile = size_t(1) << 20;  // symbols; bounds every accumulator in context_model.hpp

struct ContextShape {
  int depth;       // bits of a symbol, 1 to 8
  size_t columns;  // at least 1
};

// Both throw std::invalid_argument.
std::vector<uint8_t> context_encode(const uint8_t* symbols, size_t n, ContextShape shape);
// Refuses whatever is not the one encoding of n symbols.
void context_decode(const uint8_t* data, size_t size, ContextShape shape, uint8_t* out, size_t n);

}  // namespace rarefy

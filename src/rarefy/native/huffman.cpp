#include "huffman.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace rarefy {
namespace {

constexpr size_t kWhole = size_t(1) << kHuffmanBits;

void check(CodeLengths lengths) {
  if (lengths.size > 256) throw std::invalid_argument("more than 256 code lengths");
  size_t sum = 0;
  for (size_t s = 0; s < lengths.size; ++s) {
    if (lengths.of[s] == kNoCode) continue;
    if (lengths.of[s] > kHuffmanBits) throw std::invalid_argument("a code is longer than 12 bits");
    sum += kWhole >> lengths.of[s];
  }
  if (sum != kWhole) throw std::invalid_argument("code lengths are not a complete prefix code");
}

// Calls take(symbol, length, first): codes by length, then symbol; `first` is the code shifted to 12 bits.
template <class Take>
void canonical(CodeLengths lengths, Take take) {
  size_t first = 0;
  for (int length = 0; length <= kHuffmanBits; ++length)
    for (size_t s = 0; s < lengths.size; ++s)
      if (lengths.of[s] == length) {
        take(s, length, first);
        first += kWhole >> length;
      }
}

[[noreturn]] void refuse(const char* why) { throw std::invalid_argument(std::string("Huffman stream ") + why); }

}  // namespace

std::vector<uint8_t> huffman_encode(const uint8_t* symbols, size_t n, CodeLengths lengths) {
  check(lengths);
  uint32_t code[256] = {};
  uint8_t length[256];
  std::fill_n(length, 256, kNoCode);
  canonical(lengths, [&](size_t s, int bits, size_t first) {
    code[s] = uint32_t(first >> (kHuffmanBits - bits));
    length[s] = uint8_t(bits);
  });
  size_t total = 0;
  for (size_t i = 0; i < n; ++i) {
    if (length[symbols[i]] == kNoCode) throw std::invalid_argument("a symbol has no code");
    total += length[symbols[i]];
  }
  std::vector<uint8_t> out((total + 7) / 8);
  uint8_t* to = out.data();
  uint64_t pending = 0;
  int count = 0;
  for (size_t i = 0; i < n; ++i) {
    pending = pending << length[symbols[i]] | code[symbols[i]];
    count += length[symbols[i]];
    while (count >= 8) *to++ = uint8_t(pending >> (count -= 8));
  }
  if (count) *to = uint8_t(pending << (8 - count));
  return out;
}

void huffman_decode(const uint8_t* data, size_t size, CodeLengths lengths, uint8_t* out, size_t n) {
  check(lengths);
  std::vector<uint16_t> table(kWhole);  // symbol (8 bits) | length
  canonical(lengths, [&](size_t s, int bits, size_t first) {
    std::fill_n(table.begin() + std::ptrdiff_t(first), kWhole >> bits, uint16_t(s << 4 | size_t(bits)));
  });
  uint64_t window = 0;  // the next bits, highest first; `count` of them are there
  int count = 0;
  size_t read = 0, i = 0;
  const auto take = [&] {
    const uint16_t entry = table[window >> (64 - kHuffmanBits)];
    window <<= entry & 15;
    count -= entry & 15;
    return uint8_t(entry >> 4);
  };
  for (; n - i >= 4; i += 4) {
    if (size - read < 8) break;
    for (; count <= 56; count += 8) window |= uint64_t(data[read++]) << (56 - count);
    for (size_t j = 0; j < 4; ++j) out[i + j] = take();
  }
  // Zeros follow the bytes here; `count` below zero tells that a code reached into them.
  for (; i < n; ++i) {
    for (; count <= 56 && read < size; count += 8) window |= uint64_t(data[read++]) << (56 - count);
    out[i] = take();
    if (count < 0) refuse("is truncated");
  }
  if (read != size || count >= 8) refuse("has bytes left over");
  if (window) refuse("does not end in zeros");
}

}  // namespace rarefy

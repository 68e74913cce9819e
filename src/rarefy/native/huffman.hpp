// Canonical Huffman codes of at most kHuffmanBits bits, bits packed highest first. The byte format is described in
// rarefy/entropy/huffman.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rarefy {

constexpr int kHuffmanBits = 12;  // a table of 2^12 entries stays in the first-level cache
constexpr uint8_t kNoCode = 255;

struct CodeLengths {
  const uint8_t* of;  // 0 to kHuffmanBits, or kNoCode
  size_t size;        // at most 256
};

// Both throw std::invalid_argument, also for lengths that are no complete prefix code.
std::vector<uint8_t> huffman_encode(const uint8_t* symbols, size_t n, CodeLengths lengths);
// Refuses whatever is not exactly n codes and less than a byte of zeros.
void huffman_decode(const uint8_t* data, size_t size, CodeLengths lengths, uint8_t* out, size_t n);

}  // namespace rarefy

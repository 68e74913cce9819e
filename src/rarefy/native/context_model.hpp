// What the coder knows of the next symbol. Integers only: every machine must come to the same probabilities.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "context.hpp"

namespace rarefy {

constexpr int kModels = 5;
constexpr int kUnit = 16;        // fraction bits of means, probabilities and weights
constexpr int kLevels = 96;      // of a magnitude, eighths of an octave
constexpr int kOffsets = 32;     // of a mean, eighths of a magnitude
constexpr int kMaxCount = 1023;  // observations that a mean remembers

// logistic(d / 256) in 1 / 2^16, |d| < 2048, and its inverse on 12 bits.
struct Logistic {
  uint16_t squash[4096];
  int16_t stretch[4096];
  uint32_t rate[kMaxCount + 1];  // 2^16 / (n + 1.5)
  Logistic();
};
extern const Logistic kLogistic;

// x moves to `target` by 1 / (n + 1.5).
inline void approach(int32_t& x, int32_t target, int n) {
  x += int32_t((int64_t(target) - x) * kLogistic.rate[n] >> 16);
}

inline int bit_length(uint32_t x) {
#if defined(__GNUC__) || defined(__clang__)
  return 32 - __builtin_clz(x);
#else
  int bits = 0;
  for (; x; x >>= 1) ++bits;
  return bits;
#endif
}

// A magnitude's logarithm, eighths of an octave; linear below 1/16.
inline int level(uint32_t magnitude) {
  const uint32_t x = (magnitude >> 8) + 16;
  const int octave = bit_length(x) - 1;
  return std::min(8 * (octave - 4) + int(x >> (octave - 3) & 7), kLevels - 1);
}

struct Column {
  int32_t magnitude, mean;  // of signed symbols, in 1 / 2^16
  int count;
};

class ContextModel {
 public:
  explicit ContextModel(ContextShape shape);

  // The contexts of the next symbol.
  void open();
  // The probability of a one, in 1 / 2^16, at `node` of the symbol's tree.
  uint32_t predict(uint32_t node);
  void update(uint32_t node, uint32_t bit);
  // The symbol is known.
  void close(uint32_t symbol);

 private:
  int depth_;
  std::vector<Column> columns_;
  size_t at_ = 0;
  bool first_row_ = true;
  int32_t overall_, overall_count_ = 0;
  int32_t here_, expected_;  // running means along the row: magnitudes, and what their columns promised
  uint32_t left_ = 0;
  std::vector<uint32_t> slots_;  // 22 bits of probability, 10 of count
  uint32_t* tables_[kModels];
  uint32_t* rows_[kModels];
  std::vector<int32_t> weights_;
  std::vector<uint16_t> seen_;
  int16_t inputs_[kModels];
  uint32_t probability_ = 0;
};

}  // namespace rarefy

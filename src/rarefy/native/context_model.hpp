// What the coder knows of the next symbol. Integers only: every machine must come to the same probabilities.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "context.hpp"

namespace rarefy {

constexpr int kModels = 5;
constexpr int kUnit = 16;                // fraction bits of means, probabilities and weights
constexpr int kLevels = 96;              // of a magnitude, eighths of an octave
constexpr int kOffsets = 32;             // of a mean, sixteenths of a magnitude, above and below zero
constexpr int kSlow = 5;                 // a row's running means remember about 2^5 symbols
constexpr int kStart = 8;                // observations that a column's first mean counts for
constexpr int kMaxCount = 1023;          // observations that a mean remembers
constexpr int kFast = 15, kSteady = 17;  // weights learn at 2^-kFast of input x error, after kMaxCount at 2^-kSteady

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

  // Code one symbol, most significant bit first: `code(bit, p)` returns the bit, one with probability p / 2^16.
  template <class Code>
  uint32_t step(uint32_t symbol, Code&& code) {
    open();
    uint32_t node = 1;
    for (int b = depth_ - 1; b >= 0; --b) node = 2 * node + bit(node, symbol >> b & 1, code);
    symbol = node - (1u << depth_);
    close(symbol);
    return symbol;
  }

 private:
  void open();
  void close(uint32_t symbol);

  template <class Code>
  uint32_t bit(uint32_t node, uint32_t bit, Code&& code) {
    int32_t* weights = &weights_[node * kModels];
    int32_t inputs[kModels];
    uint32_t slots[kModels];
    int64_t sum = 0;
    for (int m = 0; m < kModels; ++m) {
      slots[m] = rows_[m][node];
      inputs[m] = kLogistic.stretch[slots[m] >> 20];
      sum += int64_t(weights[m]) * inputs[m];
    }
    const int32_t p = kLogistic.squash[std::clamp<int64_t>(sum >> kUnit, -2047, 2047) + 2048];
    bit = code(bit, uint32_t(p));
    const int32_t error = int32_t(bit << kUnit) - p;
    const int rate = (slots[0] & kMaxCount) < kMaxCount ? kFast : kSteady;
    for (int m = 0; m < kModels; ++m) {
      weights[m] += (inputs[m] * error + (1 << (rate - 1))) >> rate;
      const uint32_t count = slots[m] & kMaxCount;
      int32_t q = int32_t(slots[m] >> 10);
      approach(q, int32_t((1 << 22) - 1) & -int32_t(bit), int(count));
      rows_[m][node] = uint32_t(q) << 10 | (count + (count < kMaxCount));
    }
    return bit;
  }

  int depth_;
  std::vector<Column> columns_;
  size_t at_ = 0;
  bool first_row_ = true;
  int32_t overall_, overall_count_ = 0;
  int32_t here_, expected_;  // running means along the row: magnitudes, and what their columns promised
  uint32_t left_ = 0;
  // 22 bits of probability, 10 of count: a tree for each context, filled when it is met, as short streams meet few.
  std::unique_ptr<uint32_t[]> slots_;
  std::vector<bool> met_;
  size_t tables_[kModels];  // the first tree of each model
  uint32_t* rows_[kModels];
  std::vector<int32_t> weights_;
};

inline void ContextModel::open() {
  Column& column = columns_[at_];
  if (first_row_) column = {overall_, 0, kStart};
  if (at_ == 0) here_ = expected_ = overall_;
  const int64_t joint = int64_t(column.magnitude) * (here_ + 1) / (expected_ + 1);
  const int near = level(uint32_t(std::min<int64_t>(joint, 1 << 24)));
  // |mean| <= magnitude but for what rounding down has taken off, far below the addend.
  const int64_t scale = column.magnitude + (1 << (kUnit - 2));
  const int offset = int((column.mean + scale) * (kOffsets / 2) / scale);
  const int context[kModels] = {0, level(uint32_t(column.magnitude)), near,
                                offset * (kLevels / 4) + near / 4, int(left_)};
  for (int m = 0; m < kModels; ++m) {
    const size_t tree = tables_[m] + size_t(context[m]);
    rows_[m] = slots_.get() + (tree << depth_);
    if (met_[tree]) continue;
    met_[tree] = true;
    std::fill_n(rows_[m], size_t(1) << depth_, 1u << 31);
  }
}

inline void ContextModel::close(uint32_t symbol) {
  Column& column = columns_[at_];
  const int32_t value = int32_t(symbol) - (symbol >> (depth_ - 1) ? 1 << depth_ : 0);
  const int32_t magnitude = (value < 0 ? -value : value) * (1 << kUnit);
  here_ += (magnitude - here_) >> kSlow;
  expected_ += (column.magnitude - expected_) >> kSlow;
  approach(column.magnitude, magnitude, column.count);
  approach(column.mean, value * (1 << kUnit), column.count);
  column.count += column.count < kMaxCount;
  approach(overall_, magnitude, overall_count_);
  overall_count_ += overall_count_ < kMaxCount;
  left_ = symbol;
  if (++at_ == columns_.size()) {
    at_ = 0;
    first_row_ = false;
  }
}

}  // namespace rarefy

#include "context_model.hpp"

namespace rarefy {
namespace {

// 2^16 / (1 + e^(-i / 2)), i = -16 .. 16.
constexpr int32_t kSigmoid[33] = {22,    36,    60,    99,    162,   267,   439,   720,   1179,  1921,  3108,
                                  4971,  7812,  11954, 17625, 24743, 32768, 40793, 47911, 53582, 57724, 60565,
                                  62428, 63615, 64357, 64816, 65097, 65269, 65374, 65437, 65476, 65500, 65514};

constexpr int kSlow = 5;  // a row's running means remember about 2^5 symbols
constexpr int kStart = 8;  // observations that a column's first mean counts for

}  // namespace

Logistic::Logistic() {
  for (int d = -2048; d < 2048; ++d) {
    const int i = (d >> 7) + 16, w = d & 127;
    squash[d + 2048] = uint16_t((kSigmoid[i] * (128 - w) + kSigmoid[i + 1] * w + 64) >> 7);
  }
  int next = 0;
  for (int d = -2047; d < 2048; ++d)
    for (; next <= squash[d + 2048] >> 4; ++next) stretch[next] = int16_t(d);
  for (; next < 4096; ++next) stretch[next] = 2047;
  for (int n = 0; n <= kMaxCount; ++n) rate[n] = uint32_t((2 << 16) / (2 * n + 3));
}

const Logistic kLogistic;

ContextModel::ContextModel(ContextShape shape)
    : depth_(shape.depth), columns_(shape.columns), overall_(1 << kUnit), here_(1 << kUnit), expected_(1 << kUnit) {
  const size_t tree = size_t(1) << depth_;
  const size_t contexts[kModels] = {1, kLevels, kLevels, kOffsets * kLevels / 4, tree};
  size_t total = 0;
  for (size_t count : contexts) total += count * tree;
  slots_.assign(total, 1u << 31);
  uint32_t* table = slots_.data();
  for (int m = 0; m < kModels; ++m) {
    tables_[m] = table;
    table += contexts[m] * tree;
  }
  weights_.assign(kModels * tree, (1 << kUnit) * W0 / 100);
  seen_.assign(tree, 0);
}

void ContextModel::open() {
  Column& column = columns_[at_];
  if (first_row_) column = {overall_, 0, kStart};
  if (at_ == 0) { here_ = expected_ = overall_; }
  const int64_t joint = int64_t(column.magnitude) * (here_ + 1) / (expected_ + 1);
  const int near = level(uint32_t(std::min<int64_t>(joint, 1 << 24)));
  const int offset = int(int64_t(column.mean) * 8 / (column.magnitude + (1 << (kUnit - 2)))) + kOffsets / 2;
  const int context[kModels] = {0, level(uint32_t(column.magnitude)), near,
                                std::clamp(offset, 0, kOffsets - 1) * (kLevels / 4) + near / 4, int(left_)};
  for (int m = 0; m < kModels; ++m) rows_[m] = tables_[m] + (size_t(context[m]) << depth_);
}

uint32_t ContextModel::predict(uint32_t node) {
  const int32_t* weights = &weights_[node * kModels];
  int64_t sum = 0;
  for (int m = 0; m < kModels; ++m) {
    inputs_[m] = kLogistic.stretch[rows_[m][node] >> 20];
    sum += int64_t(weights[m]) * inputs_[m];
  }
  const int d = int(std::clamp<int64_t>(sum >> kUnit, -2047, 2047));
  return probability_ = kLogistic.squash[d + 2048];
}

void ContextModel::update(uint32_t node, uint32_t bit) {
  int32_t* weights = &weights_[node * kModels];
  const int32_t error = int32_t(bit << kUnit) - int32_t(probability_);
  const int shift = RATE(seen_[node]);
  if (seen_[node] < 65535) ++seen_[node];
  for (int m = 0; m < kModels; ++m) {
    weights[m] += (inputs_[m] * error + (1 << (shift - 1))) >> shift;
    uint32_t& slot = rows_[m][node];
    const uint32_t count = slot & kMaxCount;
    int32_t p = int32_t(slot >> 10);
    approach(p, bit ? (1 << 22) - 1 : 0, int(count));
    slot = uint32_t(p) << 10 | (count + (count < kMaxCount));
  }
}

void ContextModel::close(uint32_t symbol) {
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

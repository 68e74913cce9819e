#include "context_model.hpp"

namespace rarefy {
namespace {

// 2^16 / (1 + e^(-i / 2)), i = -16 .. 16.
constexpr int32_t kSigmoid[33] = {22,    36,    60,    99,    162,   267,   439,   720,   1179,  1921,  3108,
                                  4971,  7812,  11954, 17625, 24743, 32768, 40793, 47911, 53582, 57724, 60565,
                                  62428, 63615, 64357, 64816, 65097, 65269, 65374, 65437, 65476, 65500, 65514};

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
  size_t trees = 0;
  for (int m = 0; m < kModels; ++m) {
    tables_[m] = trees;
    trees += contexts[m];
  }
  slots_.reset(new uint32_t[trees * tree]);
  met_.assign(trees, false);
  weights_.assign(kModels * tree, (1 << kUnit) / kModels);
}

}  // namespace rarefy

#include "blocks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "bfloat16.hpp"
#include "openmp.hpp"

namespace rarefy {

namespace {

float full(float value) { return value; }
float full(uint16_t value) { return widened(value); }
void put(float* to, float value) { *to = value; }
void put(uint16_t* to, float value) { *to = narrowed(value); }

constexpr size_t kLanes = 16;  // sums side by side, which a processor adds at once

template <class T>
RAREFY_INLINE float dot(const T* x, const T* y, size_t n) {
  float lane[kLanes] = {}, sum = 0;
  size_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (size_t l = 0; l < kLanes; ++l) lane[l] += full(x[j + l]) * full(y[j + l]);
  for (; j < n; ++j) sum += full(x[j]) * full(y[j]);
  for (const float each : lane) sum += each;
  return sum;
}

template <class T>
void norm(const T* x, size_t width, const T* w, float offset, float epsilon, T* y) {
  const float scale = 1.0f / std::sqrt(dot(x, x, width) / float(width) + epsilon);
  for (size_t j = 0; j < width; ++j) put(y + j, full(x[j]) * scale * (full(w[j]) + offset));
}

template <class T>
void turn(T* head, size_t half, const T* cos, const T* sin) {
  for (size_t j = 0; j < half; ++j) {
    const float first = full(head[j]), second = full(head[half + j]);
    put(head + j, first * full(cos[j]) - second * full(sin[j]));
    put(head + half + j, second * full(cos[half + j]) + first * full(sin[half + j]));
  }
}

template <class T>
void gate_all(const T* both, size_t n, size_t width, float a, float b, T* out) {
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < width; ++j) {
      const float gate = full(both[2 * i * width + j]), up = full(both[(2 * i + 1) * width + j]);
      put(out + i * width + j, gate / (1.0f + std::exp(-(a + b * gate * gate) * gate)) * up);
    }
}

// One head's attention to `count` rows. scores (count) and sum (size): to work in.
template <class T>
RAREFY_INLINE void attend_head(const T* q, const T* k, const T* v, size_t count, size_t size, float scale, float* scores,
                               float* sum, T* y) {
  float most = -std::numeric_limits<float>::infinity(), all = 0;
  for (size_t t = 0; t < count; ++t) {
    scores[t] = scale * dot(q, k + t * size, size);
    most = std::max(most, scores[t]);
  }
  std::fill_n(sum, size, 0.0f);
  for (size_t t = 0; t < count; ++t) {
    const float weight = std::exp(scores[t] - most);
    all += weight;
    for (size_t j = 0; j < size; ++j) sum[j] += weight * full(v[t * size + j]);
  }
  for (size_t j = 0; j < size; ++j) put(y + j, sum[j] / all);
}

template <class T>
RAREFY_INLINE void attend_heads(const Heads& of, size_t first, size_t last, const T* q, const T* k, const T* v, float scale,
                                T* y) {
  std::vector<float> scores(of.count), sum(of.size);
  for (size_t h = first; h < last; ++h) {
    const size_t i = h / of.heads, head = h % of.heads;
    const size_t at = (i * of.kept + head / (of.heads / of.kept)) * of.count * of.size;
    attend_head(q + (i * of.row + head) * of.size, k + at, v + at, of.count, of.size, scale, scores.data(), sum.data(),
                y + h * of.size);
  }
}

#if RAREFY_X86
template <class T>
RAREFY_FMA void attend_fma(const Heads& of, size_t first, size_t last, const T* q, const T* k, const T* v, float scale,
                           T* y) {
  attend_heads(of, first, last, q, k, v, scale, y);
}
#endif

// `work` on pointers to what tensors hold.
template <class Work>
void typed(bool bfloat16, const Work& work) {
  if (bfloat16) work(static_cast<uint16_t*>(nullptr));
  else work(static_cast<float*>(nullptr));
}

}  // namespace

void rms_norm(const void* x, size_t n, size_t width, const void* w, float offset, float epsilon, void* y, bool bfloat16) {
  typed(bfloat16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (size_t i = 0; i < n; ++i)
      norm(static_cast<const T*>(x) + i * width, width, static_cast<const T*>(w), offset, epsilon,
           static_cast<T*>(y) + i * width);
  });
}

void rotate(void* x, size_t n, size_t heads, size_t count, size_t size, const void* cos, const void* sin, bool bfloat16) {
  typed(bfloat16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (size_t i = 0; i < n; ++i)
      for (size_t h = 0; h < count; ++h)
        turn(static_cast<T*>(x) + (i * heads + h) * size, size / 2, static_cast<const T*>(cos) + i * size,
             static_cast<const T*>(sin) + i * size);
  });
}

void attend(Heads of, const void* q, const void* k, const void* v, float scale, void* y, bool bfloat16, Path path) {
  typed(bfloat16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto some = attend_heads<T>;
#if RAREFY_X86
    if (has_fma(path)) some = attend_fma<T>;
#endif
    (void)path;
    shared(of.n * of.heads, of.n * of.heads * of.count * of.size, [&](size_t first, size_t last) {
      some(of, first, last, static_cast<const T*>(q), static_cast<const T*>(k), static_cast<const T*>(v), scale,
           static_cast<T*>(y));
    });
  });
}

void gated(const Packed& gate, const Packed& up, const Packed& down, float a, float b, const void* x, size_t n, void* y,
           bool bfloat16, Path path) {
  typed(bfloat16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    static thread_local std::vector<T> both, inner;  // their memory is small, and asked for again and again
    both.resize(2 * n * gate.rows);
    inner.resize(n * gate.rows);
    multiply({&gate, &up}, x, n, both.data(), bfloat16, path);
    gate_all(both.data(), n, gate.rows, a, b, inner.data());
    multiply({&down}, inner.data(), n, y, bfloat16, path);
  });
}

}  // namespace rarefy

#include "blocks.hpp"

#include <cmath>
#include <type_traits>
#include <vector>

#include "bfloat16.hpp"

namespace rarefy {

namespace {

float full(float value) { return value; }
float full(uint16_t value) { return widened(value); }
void put(float* to, float value) { *to = value; }
void put(uint16_t* to, float value) { *to = narrowed(value); }

constexpr size_t kLanes = 16;  // sums side by side, which a processor adds at once

template <class T>
void norm(const T* x, size_t width, const T* w, float offset, float epsilon, T* y) {
  float lane[kLanes] = {}, sum = 0;
  size_t j = 0;
  for (; j + kLanes <= width; j += kLanes)
    for (size_t l = 0; l < kLanes; ++l) lane[l] += full(x[j + l]) * full(x[j + l]);
  for (; j < width; ++j) sum += full(x[j]) * full(x[j]);
  for (const float each : lane) sum += each;
  const float scale = 1.0f / std::sqrt(sum / float(width) + epsilon);
  for (j = 0; j < width; ++j) put(y + j, full(x[j]) * scale * (full(w[j]) + offset));
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

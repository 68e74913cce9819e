// Elements to byte planes and back, block by block so that a block stays in the first-level cache.
#include "planes.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace rarefy {
namespace {

constexpr size_t kPart = 1024;

// Files are little-endian, and so are nearly all machines.
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
template <class T>
RAREFY_INLINE void load(T* to, const uint8_t* from, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    to[i] = 0;
    for (size_t b = 0; b < sizeof(T); ++b) to[i] = T(to[i] | T(T(from[i * sizeof(T) + b]) << (8 * b)));
  }
}
template <class T>
RAREFY_INLINE void store(uint8_t* to, const T* from, size_t count) {
  for (size_t i = 0; i < count; ++i)
    for (size_t b = 0; b < sizeof(T); ++b) to[i * sizeof(T) + b] = uint8_t(from[i] >> (8 * b));
}
#else
template <class T>
RAREFY_INLINE void load(T* to, const uint8_t* from, size_t count) {
  std::memcpy(to, from, count * sizeof(T));
}
template <class T>
RAREFY_INLINE void store(uint8_t* to, const T* from, size_t count) {
  std::memcpy(to, from, count * sizeof(T));
}
#endif

template <class T>
RAREFY_INLINE void split(const uint8_t* elements, size_t n, bool rotate, uint8_t* planes) {
  constexpr size_t W = sizeof(T);
  T block[kPart];
  for (size_t at = 0; at < n; at += kPart) {
    const size_t count = std::min(kPart, n - at);
    load(block, elements + W * at, count);
    if (rotate)
      for (size_t i = 0; i < count; ++i) block[i] = T(T(block[i] << 1) | T(block[i] >> (8 * W - 1)));
    for (size_t p = 0; p < W; ++p) {
      uint8_t* plane = planes + p * n + at;
      for (size_t i = 0; i < count; ++i) plane[i] = uint8_t(block[i] >> (8 * (W - 1 - p)));
    }
  }
}

template <class T>
RAREFY_INLINE void join(const uint8_t* const* planes, size_t n, bool rotate, uint8_t* elements) {
  constexpr size_t W = sizeof(T);
  T block[kPart];
  for (size_t at = 0; at < n; at += kPart) {
    const size_t count = std::min(kPart, n - at);
    const uint8_t* from[W];
    for (size_t p = 0; p < W; ++p) from[p] = planes[p] + at;
    for (size_t i = 0; i < count; ++i) {
      T value = 0;
      for (size_t p = 0; p < W; ++p) value = T(value | T(T(from[p][i]) << (8 * (W - 1 - p))));
      block[i] = value;
    }
    if (rotate)
      for (size_t i = 0; i < count; ++i) block[i] = T(T(block[i] >> 1) | T(block[i] << (8 * W - 1)));
    store(elements + W * at, block, count);
  }
}

RAREFY_INLINE void split_any(const uint8_t* e, size_t n, size_t width, bool rotate, uint8_t* planes) {
  switch (width) {
    case 1: return split<uint8_t>(e, n, rotate, planes);
    case 2: return split<uint16_t>(e, n, rotate, planes);
    case 4: return split<uint32_t>(e, n, rotate, planes);
    default: return split<uint64_t>(e, n, rotate, planes);
  }
}
RAREFY_INLINE void join_any(const uint8_t* const* planes, size_t n, size_t width, bool rotate, uint8_t* e) {
  switch (width) {
    case 1: return join<uint8_t>(planes, n, rotate, e);
    case 2: return join<uint16_t>(planes, n, rotate, e);
    case 4: return join<uint32_t>(planes, n, rotate, e);
    default: return join<uint64_t>(planes, n, rotate, e);
  }
}

#if RAREFY_X86
RAREFY_AVX2 void split_avx2(const uint8_t* e, size_t n, size_t width, bool rotate, uint8_t* planes) {
  split_any(e, n, width, rotate, planes);
}
RAREFY_AVX512 void split_avx512(const uint8_t* e, size_t n, size_t width, bool rotate, uint8_t* planes) {
  split_any(e, n, width, rotate, planes);
}
RAREFY_AVX512 void join_avx512(const uint8_t* const* planes, size_t n, size_t width, bool rotate, uint8_t* e) {
  join_any(planes, n, width, rotate, e);
}
RAREFY_AVX2 void join_avx2(const uint8_t* const* planes, size_t n, size_t width, bool rotate, uint8_t* e) {
  join_any(planes, n, width, rotate, e);
}
#endif

}  // namespace

void check_width(size_t width) {
  if (width != 1 && width != 2 && width != 4 && width != 8)
    throw std::invalid_argument("elements are not 1, 2, 4 or 8 bytes wide");
}

void split_planes(const uint8_t* elements, size_t n, size_t width, bool rotate, uint8_t* planes, Path path) {
  check_width(width);
#if RAREFY_X86
  if (path == Path::avx512) return split_avx512(elements, n, width, rotate, planes);
  if (path == Path::avx2) return split_avx2(elements, n, width, rotate, planes);
#endif
  (void)path;
  split_any(elements, n, width, rotate, planes);
}

void join_planes(const uint8_t* const* planes, size_t n, size_t width, bool rotate, uint8_t* elements, Path path) {
  check_width(width);
#if RAREFY_X86
  if (path == Path::avx512) return join_avx512(planes, n, width, rotate, elements);
  if (path == Path::avx2) return join_avx2(planes, n, width, rotate, elements);
#endif
  (void)path;
  join_any(planes, n, width, rotate, elements);
}

}  // namespace rarefy

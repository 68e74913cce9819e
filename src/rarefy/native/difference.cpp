// Differences of two checkpoints, sorted by the base's exponent in one pass over counts.
#include "difference.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace rarefy {
namespace {

template <class T>
T load(const uint8_t* p) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  T value = 0;
  for (size_t b = 0; b < sizeof(T); ++b) value = T(value | T(T(p[b]) << (8 * b)));
  return value;
#else
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
#endif
}
template <class T>
void store(uint8_t* p, T value) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  for (size_t b = 0; b < sizeof(T); ++b) p[b] = uint8_t(value >> (8 * b));
#else
  std::memcpy(p, &value, sizeof(T));
#endif
}

template <class T>
struct Pattern {
  static constexpr int kTop = 8 * int(sizeof(T)) - 1;
  bool floating, xored;
  int mantissa;

  size_t key(T base) const { return floating ? size_t(T(base << 1) >> (1 + mantissa)) : 0; }
  // Where a number stands in the order of its type: floats from -NaN to NaN.
  T position(T bits) const {
    return floating ? T(bits ^ T(T(0 - T(bits >> kTop)) | T(T(1) << kTop))) : bits;
  }
  T apart(T value, T base) const {
    if (xored) return T(value ^ base);
    const T step = T(position(value) - position(base));
    return T(T(step << 1) ^ T(0 - T(step >> kTop)));
  }
  T together(T step, T base) const {
    if (xored) return T(step ^ base);
    const T at = T(T(T(step >> 1) ^ T(0 - T(step & 1))) + position(base));
    return floating ? T(at ^ T(T(0 - T(T(at >> kTop) ^ 1)) | T(T(1) << kTop))) : at;
  }
};

// Where the next element of each key goes.
template <class T>
void starts(const Pattern<T>& pattern, const uint8_t* base, size_t n, std::vector<uint32_t>& next) {
  std::fill(next.begin(), next.end(), 0);
  for (size_t i = 0; i < n; ++i) ++next[pattern.key(load<T>(base + sizeof(T) * i))];
  uint32_t at = 0;
  for (auto& count : next) {
    const uint32_t size = count;
    count = at;
    at += size;
  }
}

template <class T, bool UNDO>
void run(Elements e, bool xored, const uint8_t* from, const uint8_t* base, uint8_t* out) {
  constexpr size_t W = sizeof(T);
  const Pattern<T> pattern{e.exponent > 0, xored, e.mantissa};
  std::vector<uint32_t> next(size_t{1} << e.exponent);
  for (size_t start = 0; start < e.n; start += kRun) {
    const size_t n = std::min(kRun, e.n - start);
    const uint8_t *b = base + W * start, *f = from + W * start;
    uint8_t* o = out + W * start;
    starts(pattern, b, n, next);
    for (size_t i = 0; i < n; ++i) {
      const T bits = load<T>(b + W * i);
      const size_t at = next[pattern.key(bits)]++;
      if constexpr (UNDO)
        store(o + W * i, pattern.together(load<T>(f + W * at), bits));
      else
        store(o + W * at, pattern.apart(load<T>(f + W * i), bits));
    }
  }
}

template <bool UNDO>
void any(Elements e, bool xored, const uint8_t* from, const uint8_t* base, uint8_t* out) {
  const bool floating = e.exponent > 0 && e.mantissa > 0 && e.exponent < 16 &&
                        size_t(e.exponent + e.mantissa + 1) == 8 * e.width;
  if (!floating && (e.exponent || e.mantissa)) throw std::invalid_argument("no float has such an exponent and mantissa");
  switch (e.width) {
    case 1: return run<uint8_t, UNDO>(e, xored, from, base, out);
    case 2: return run<uint16_t, UNDO>(e, xored, from, base, out);
    case 4: return run<uint32_t, UNDO>(e, xored, from, base, out);
    case 8: return run<uint64_t, UNDO>(e, xored, from, base, out);
    default: throw std::invalid_argument("elements are not 1, 2, 4 or 8 bytes wide");
  }
}

}  // namespace

void take_difference(Elements e, bool xored, const uint8_t* values, const uint8_t* base, uint8_t* out) {
  any<false>(e, xored, values, base, out);
}
void undo_difference(Elements e, bool xored, const uint8_t* steps, const uint8_t* base, uint8_t* out) {
  any<true>(e, xored, steps, base, out);
}

}  // namespace rarefy

// CRC-32 eight bytes at a time by tables (Kounavis and Berry 2005), or 64 or 256 by carry-less products (Gopal et al. 2009,
// "Fast CRC computation for generic polynomials using PCLMULQDQ instruction").
#include "crc.hpp"

#include <array>

#if RAREFY_X86
#include <immintrin.h>
#endif

namespace rarefy {
namespace {

constexpr std::array<std::array<uint32_t, 256>, 8> tables() {
  std::array<std::array<uint32_t, 256>, 8> t{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
    t[0][b] = crc;
  }
  for (size_t i = 1; i < 8; ++i)
    for (size_t b = 0; b < 256; ++b) t[i][b] = t[i - 1][b] >> 8 ^ t[0][t[i - 1][b] & 0xff];
  return t;
}
constexpr auto kTables = tables();

// `crc` is the register, inverted before and after by the caller.
uint32_t by_tables(const uint8_t* data, size_t n, uint32_t crc) {
  for (; n >= 8; data += 8, n -= 8) {
    uint32_t next = 0;
    for (int i = 0; i < 4; ++i) next ^= kTables[size_t(7 - i)][(crc >> (8 * i) & 0xff) ^ data[i]];
    for (int i = 4; i < 8; ++i) next ^= kTables[size_t(7 - i)][data[i]];
    crc = next;
  }
  for (; n; ++data, --n) crc = crc >> 8 ^ kTables[0][(crc ^ *data) & 0xff];
  return crc;
}

#if RAREFY_X86
#define RAREFY_PCLMUL __attribute__((target("pclmul,sse4.1")))

RAREFY_PCLMUL inline __m128i fold(__m128i x, __m128i k, __m128i next) {
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), next);
}
RAREFY_PCLMUL inline __m128i load(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// The register after four neighbouring products and what follows them, a multiple of sixteen bytes.
RAREFY_PCLMUL uint32_t reduce(const __m128i* x, const uint8_t* data, size_t n) {
  const __m128i by16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0), by4 = _mm_set_epi64x(0, 0x0163cd6124);
  const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641), low = _mm_setr_epi32(~0, 0, ~0, 0);
  __m128i y = x[0];
  for (int i = 1; i < 4; ++i) y = fold(y, by16, x[i]);
  for (; n >= 16; data += 16, n -= 16) y = fold(y, by16, load(data));
  y = _mm_xor_si128(_mm_srli_si128(y, 8), _mm_clmulepi64_si128(y, by16, 0x10));
  y = _mm_xor_si128(_mm_srli_si128(y, 4), _mm_clmulepi64_si128(_mm_and_si128(y, low), by4, 0x00));
  __m128i q = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(y, low), barrett, 0x10), low);
  y = _mm_xor_si128(y, _mm_clmulepi64_si128(q, barrett, 0x00));
  return uint32_t(_mm_extract_epi32(y, 1));
}

// A multiple of sixteen bytes, at least sixty-four.
RAREFY_PCLMUL uint32_t by_products(const uint8_t* data, size_t n, uint32_t crc) {
  const __m128i by64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
  __m128i x[4];
  for (int i = 0; i < 4; ++i) x[i] = load(data + 16 * i);
  x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(int(crc)));
  for (data += 64, n -= 64; n >= 64; data += 64, n -= 64)
    for (int i = 0; i < 4; ++i) x[i] = fold(x[i], by64, load(data + 16 * i));
  return reduce(x, data, n);
}

#define RAREFY_VPCLMUL __attribute__((target("vpclmulqdq,avx512f,avx512dq,avx512vl,pclmul,sse4.1")))

RAREFY_VPCLMUL inline __m512i fold(__m512i x, __m512i k, __m512i next) {
  const __m512i low = _mm512_clmulepi64_epi128(x, k, 0x00), high = _mm512_clmulepi64_epi128(x, k, 0x11);
  return _mm512_ternarylogic_epi64(low, high, next, 0x96);  // XOR of the three
}

// The same with four products in each register, at least 256 bytes.
RAREFY_VPCLMUL uint32_t by_wide_products(const uint8_t* data, size_t n, uint32_t crc) {
  const __m512i by256 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x01322d1430, 0x011542778a));
  const __m512i by64 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x01c6e41596, 0x0154442bd4));
  __m512i x[4];
  for (int i = 0; i < 4; ++i) x[i] = _mm512_loadu_si512(data + 64 * i);
  x[0] = _mm512_xor_si512(x[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(int(crc))));
  for (data += 256, n -= 256; n >= 256; data += 256, n -= 256)
    for (int i = 0; i < 4; ++i) x[i] = fold(x[i], by256, _mm512_loadu_si512(data + 64 * i));
  __m512i y = x[0];
  for (int i = 1; i < 4; ++i) y = fold(y, by64, x[i]);
  for (; n >= 64; data += 64, n -= 64) y = fold(y, by64, _mm512_loadu_si512(data));
  __m128i parts[4];
  _mm512_storeu_si512(parts, y);
  return reduce(parts, data, n);
}

bool has_products() {
  static const bool has = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  return has;
}
bool has_wide_products() {
  static const bool has = best_path() == Path::avx512 && __builtin_cpu_supports("vpclmulqdq");
  return has;
}
#endif

}  // namespace

uint32_t crc32(const uint8_t* data, size_t n, Path path) {
  uint32_t crc = 0xffffffff;
#if RAREFY_X86
  if (path != Path::scalar && n >= 64 && has_products()) {
    const size_t whole = n & ~size_t{15};
    const bool wide = path == Path::avx512 && n >= 256 && has_wide_products();
    crc = wide ? by_wide_products(data, whole, crc) : by_products(data, whole, crc);
    data += whole;
    n -= whole;
  }
#endif
  (void)path;
  return ~by_tables(data, n, crc);
}

}  // namespace rarefy

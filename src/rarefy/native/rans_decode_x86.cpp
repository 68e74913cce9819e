// AVX2 and AVX-512 decoders: table look-ups by gather, words handed out to lanes by expansion under the mask of
// lanes that ran low (Giesen 2014, section 4).
#include "rans.hpp"

#if RAREFY_X86
#include <immintrin.h>

#include <array>
#endif

namespace rarefy {
#if RAREFY_X86
namespace {

// For each mask of lanes, the index of the word that each lane takes, a byte a lane.
constexpr std::array<uint64_t, 256> expansions() {
  std::array<uint64_t, 256> table{};
  for (int mask = 0; mask < 256; ++mask)
    for (int lane = 0, word = 0; lane < 8; ++lane)
      if (mask >> lane & 1) table[size_t(mask)] |= uint64_t(word++) << (8 * lane);
  return table;
}
constexpr auto kExpansions = expansions();

template <int V, Layout LAYOUT>
RAREFY_AVX2 void decode_avx2(DecodeRun& run, const DecodeTable& t) {
  const __m256i slot_mask = _mm256_set1_epi32((1 << t.bits) - 1), zero = _mm256_setzero_si256();
  const __m256i low8 = _mm256_set1_epi32(0xff), low12 = _mm256_set1_epi32(0xfff), low16 = _mm256_set1_epi32(0xffff);
  const __m256i bytes = _mm256_set1_epi32(0x0c080400);  // the low byte of each lane, four of them over and over
  const __m128i bits = _mm_cvtsi32_si128(t.bits);
  constexpr bool kGiven = LAYOUT == Layout::given;
  __m256i x[V];
  for (int v = 0; v < V; ++v) x[v] = _mm256_loadu_si256((const __m256i*)(run.states + 8 * v));
  const uint8_t *words = run.words, *given = run.given;
  uint8_t* out = run.out;
  size_t steps = run.steps;
  for (; steps && words <= run.limit; --steps, out += 8 * V, given += kGiven ? 8 * V : 0)
    for (int v = 0; v < V; ++v) {
      const __m256i slot = _mm256_and_si256(x[v], slot_mask), q = _mm256_srl_epi32(x[v], bits);
      __m256i e, freq, bias;
      if constexpr (LAYOUT == Layout::wide) {
        e = _mm256_and_si256(_mm256_i32gather_epi32((const int*)t.symbols.data(), slot, 1), low8);
        const __m256i range = _mm256_i32gather_epi32((const int*)t.ranges.data(), e, 4);
        freq = _mm256_srli_epi32(range, 16);
        bias = _mm256_sub_epi32(slot, _mm256_and_si256(range, low16));
      } else {
        __m256i at = slot;
        if constexpr (kGiven) {
          const __m256i which = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(given + 8 * v)));
          at = _mm256_or_si256(at, _mm256_sll_epi32(which, bits));
        }
        e = _mm256_i32gather_epi32((const int*)t.slots.data(), at, 4);
        freq = _mm256_srli_epi32(e, 20);
        bias = _mm256_and_si256(_mm256_srli_epi32(e, 8), low12);
      }
      const __m256i y = _mm256_add_epi32(_mm256_mullo_epi32(freq, q), _mm256_add_epi32(q, bias));
      const __m256i low = _mm256_cmpeq_epi32(_mm256_srli_epi32(y, 16), zero);
      const unsigned mask = unsigned(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
      const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)kExpansions[mask]));
      const __m256i next = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)words));
      const __m256i refilled = _mm256_or_si256(_mm256_slli_epi32(y, 16), _mm256_permutevar8x32_epi32(next, order));
      x[v] = _mm256_blendv_epi8(y, refilled, low);
      words += 2 * _mm_popcnt_u32(mask);
      const __m256i symbols = _mm256_shuffle_epi8(e, bytes);
      _mm_storel_epi64((__m128i*)(out + 8 * v), _mm_unpacklo_epi32(_mm256_castsi256_si128(symbols),
                                                                  _mm256_extracti128_si256(symbols, 1)));
    }
  for (int v = 0; v < V; ++v) _mm256_storeu_si256((__m256i*)(run.states + 8 * v), x[v]);
  run = {run.states, words, run.limit, given, out, steps};
}

template <int V, Layout LAYOUT>
RAREFY_AVX512 void decode_avx512(DecodeRun& run, const DecodeTable& t) {
  const __m512i slot_mask = _mm512_set1_epi32((1 << t.bits) - 1), lower = _mm512_set1_epi32(int(kLower));
  const __m512i low8 = _mm512_set1_epi32(0xff), low12 = _mm512_set1_epi32(0xfff), low16 = _mm512_set1_epi32(0xffff);
  const __m128i bits = _mm_cvtsi32_si128(t.bits);
  constexpr bool kGiven = LAYOUT == Layout::given;
  __m512i x[V];
  for (int v = 0; v < V; ++v) x[v] = _mm512_loadu_si512(run.states + 16 * v);
  const uint8_t *words = run.words, *given = run.given;
  uint8_t* out = run.out;
  size_t steps = run.steps;
  for (; steps && words <= run.limit; --steps, out += 16 * V, given += kGiven ? 16 * V : 0)
    for (int v = 0; v < V; ++v) {
      const __m512i slot = _mm512_and_si512(x[v], slot_mask), q = _mm512_srl_epi32(x[v], bits);
      __m512i e, freq, bias;
      if constexpr (LAYOUT == Layout::wide) {
        e = _mm512_and_si512(_mm512_i32gather_epi32(slot, t.symbols.data(), 1), low8);
        const __m512i range = _mm512_i32gather_epi32(e, t.ranges.data(), 4);
        freq = _mm512_srli_epi32(range, 16);
        bias = _mm512_sub_epi32(slot, _mm512_and_si512(range, low16));
      } else {
        __m512i at = slot;
        if constexpr (kGiven) {
          const __m512i which = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(given + 16 * v)));
          at = _mm512_or_si512(at, _mm512_sll_epi32(which, bits));
        }
        e = _mm512_i32gather_epi32(at, t.slots.data(), 4);
        freq = _mm512_srli_epi32(e, 20);
        bias = _mm512_and_si512(_mm512_srli_epi32(e, 8), low12);
      }
      const __m512i y = _mm512_add_epi32(_mm512_mullo_epi32(freq, q), _mm512_add_epi32(q, bias));
      const __mmask16 low = _mm512_cmplt_epu32_mask(y, lower);
      const __m512i next = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)words));
      x[v] = _mm512_mask_or_epi32(y, low, _mm512_slli_epi32(y, 16), _mm512_maskz_expand_epi32(low, next));
      words += 2 * _mm_popcnt_u32(low);
      _mm_storeu_si128((__m128i*)(out + 16 * v), _mm512_cvtepi32_epi8(e));
    }
  for (int v = 0; v < V; ++v) _mm512_storeu_si512(run.states + 16 * v, x[v]);
  run = {run.states, words, run.limit, given, out, steps};
}

template <Layout LAYOUT>
DecodeKernel kernel(size_t lanes, Path path) {
  if (path == Path::scalar) return nullptr;
  switch (lanes) {  // eight lanes are too few to hide a gather's latency: the portable kernel is faster
    case 16: return path == Path::avx512 ? decode_avx512<1, LAYOUT> : decode_avx2<2, LAYOUT>;
    case 32: return path == Path::avx512 ? decode_avx512<2, LAYOUT> : decode_avx2<4, LAYOUT>;
    default: return nullptr;
  }
}

}  // namespace

DecodeKernel decode_kernel_x86(size_t lanes, Layout layout, Path path) {
  switch (layout) {
    case Layout::packed: return kernel<Layout::packed>(lanes, path);
    case Layout::wide: return kernel<Layout::wide>(lanes, path);
    default: return kernel<Layout::given>(lanes, path);
  }
}
#else
DecodeKernel decode_kernel_x86(size_t, Layout, Path) { return nullptr; }
#endif
}  // namespace rarefy

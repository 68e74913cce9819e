// AVX-512 encoder: eight lanes a register, each state in 64 bits so that products need no splitting.
#include "rans.hpp"

#if RAREFY_X86
#include <immintrin.h>
#endif

namespace rarefy {
#if RAREFY_X86
namespace {

template <int V, bool GIVEN>
RAREFY_AVX512 void encode_avx512(EncodeRun& run, const EncodeTable& table) {
  const __m512i low32 = _mm512_set1_epi64(0xffffffff), low14 = _mm512_set1_epi64(0x3fff);
  const long long* entries = reinterpret_cast<const long long*>(table.data());
  __m512i x[V];
  for (int v = 0; v < V; ++v) x[v] = _mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i*)(run.states + 8 * v)));
  uint8_t* words = run.words;
  unsigned bad = 0;
  for (size_t step = run.steps; step-- > 0;) {
    const uint8_t* symbols = run.symbols + step * 8 * V;
    for (int v = V; v-- > 0;) {
      __m512i s = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i*)(symbols + 8 * v)));
      if constexpr (GIVEN) {
        const uint8_t* given = run.given + step * 8 * V + 8 * v;
        s = _mm512_or_si512(s, _mm512_slli_epi64(_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i*)given)), 8));
      }
      s = _mm512_slli_epi64(s, 1);
      const __m512i divide = _mm512_i64gather_epi64(s, entries, 8);      // reciprocal | addend << 32
      const __m512i place = _mm512_i64gather_epi64(s, entries + 1, 8);  // limit | packed << 32
      bad |= _mm512_testn_epi64_mask(divide, low32);
      const __mmask8 full = _mm512_cmpgt_epu64_mask(x[v], _mm512_and_si512(place, low32));
      const int count = _mm_popcnt_u32(full);
      words -= 2 * count;
      _mm_mask_storeu_epi16(words, __mmask8((1u << count) - 1),
                            _mm512_cvtepi64_epi16(_mm512_maskz_compress_epi64(full, x[v])));
      const __m512i y = _mm512_mask_srli_epi64(x[v], full, x[v], 16);
      const __m512i shift = _mm512_add_epi64(_mm512_srli_epi64(place, 60), _mm512_set1_epi64(32));
      const __m512i product = _mm512_add_epi64(_mm512_mul_epu32(y, divide), _mm512_srli_epi64(divide, 32));
      const __m512i rest = _mm512_and_si512(_mm512_srli_epi64(place, 32), low14);
      const __m512i start = _mm512_and_si512(_mm512_srli_epi64(place, 46), low14);
      x[v] = _mm512_add_epi64(_mm512_add_epi64(y, start),
                              _mm512_mul_epu32(_mm512_srlv_epi64(product, shift), rest));
    }
  }
  for (int v = 0; v < V; ++v) _mm256_storeu_si256((__m256i*)(run.states + 8 * v), _mm512_cvtepi64_epi32(x[v]));
  run.words = words;
  run.bad |= bad != 0;
}

}  // namespace

EncodeKernel encode_kernel_x86(size_t lanes, bool given, Path path) {
  if (path != Path::avx512) return nullptr;
  switch (lanes) {
    case 8: return given ? encode_avx512<1, true> : encode_avx512<1, false>;
    case 16: return given ? encode_avx512<2, true> : encode_avx512<2, false>;
    case 32: return given ? encode_avx512<4, true> : encode_avx512<4, false>;
    default: return nullptr;
  }
}
#else
EncodeKernel encode_kernel_x86(size_t, bool, Path) { return nullptr; }
#endif
}  // namespace rarefy

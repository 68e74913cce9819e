// Rows of small integers times vectors. Built without contraction to fused operations, which here are asked for by name.
#include "products.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

#include "bfloat16.hpp"
#include "openmp.hpp"

#if RAREFY_X86
#include <immintrin.h>
#endif

namespace rarefy {

namespace {

constexpr size_t kBlock = 64, kHalf = 32;  // columns
constexpr int64_t kMost = 127;             // that an entry adds, either way

// Whose memory begins with a cache line, as a load across two takes twice as long.
template <class T>
struct Lines {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  Lines() = default;
  template <class U>
  Lines(const Lines<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* at, size_t) { ::operator delete(at, kLine); }
  bool operator==(const Lines&) const { return true; }
  bool operator!=(const Lines&) const { return false; }
};
using Floats = std::vector<float, Lines<float>>;

float scale_of(const Packed& w, size_t row, size_t group) {
  const uint32_t bits = w.scales[row * w.groups + group];
  if (!w.binary16) return widened(uint16_t(bits));
  // Sign, and 15 bits in the place of float32's: short of the difference of the biases, 2^112.
  const uint32_t wide = (bits & 0x8000) << 16 | (bits & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &wide, 4);
  return value * 0x1p112f;
}

// An entry: its column above its row among kRows, above its value.
size_t column_of(uint32_t entry) { return entry >> 16; }
size_t row_of(uint32_t entry) { return entry >> 8 & 0xff; }
float value_of(uint32_t entry) { return float(int8_t(entry & 0xff)); }

// Where the integer of a column stands among the 32 bytes of its block.
constexpr size_t place(size_t column) { return (column % 8 / 4) * 16 + column % kHalf / 8 * 4 + column % 4; }

// What the integers of a block of columns stand for.
void block(const Packed& w, const float* table, size_t row, size_t column, float* out) {
  const uint8_t* q = w.q + (row * w.width + column) * size_t(w.bits) / 8;
  if (w.bits == 8)
    for (size_t c = 0; c < kBlock; ++c) out[c] = float(int8_t(q[c]));
  else
    for (size_t c = 0; c < kHalf; ++c) {
      const uint8_t pair = q[place(c)];
      out[c] = table[pair & 15];
      out[kHalf + c] = table[pair >> 4];
    }
}

struct Table {
  float value[16] = {};

  explicit Table(const Packed& w) {
    for (size_t k = 0; w.table && k < 16; ++k) value[k] = widened(uint16_t(w.table[k] | w.table[16 + k] << 8));
  }
};

// One prepared vector: inputs in the order of the columns, zeros after them, and what a group's inputs come to.
struct Inputs {
  Floats x, sums;

  void prepare(const Packed& w, const void* from, bool bfloat16) {
    x.assign(w.width, 0.0f);
    const auto fill = [&](auto value) {
      for (size_t j = 0; j < w.digits; ++j) x[j] = value(w.index ? w.index[j] : j) * (w.columns ? w.columns[j] : 1.0f);
    };
    if (bfloat16) fill([half = static_cast<const uint16_t*>(from)](size_t i) { return widened(half[i]); });
    else fill([full = static_cast<const float*>(from)](size_t i) { return full[i]; });
    sums.assign(w.shifts ? w.groups : 0, 0.0f);
    for (size_t g = 0; g < sums.size(); ++g)
      for (size_t j = g * w.group; j < std::min((g + 1) * w.group, w.width); ++j) sums[g] += x[j];
  }
};

// What eight lanes come to, in the order of the narrowing halves of a vector.
float total(const float* lane) {
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

// Of 32 lanes, eight.
void fold(const float* lane, float* out) {
  for (size_t l = 0; l < 8; ++l) out[l] = (lane[l] + lane[8 + l]) + (lane[16 + l] + lane[24 + l]);
}

// What the columns of a row come to: the order of all sums.
float dot(const Packed& w, const Table& table, size_t row, const float* x) {
  float value[kBlock], lane[kHalf] = {}, eight[8];
  for (size_t j = 0; j < w.width; j += kBlock) {
    block(w, table.value, row, j, value);
    for (size_t c = 0; c < kBlock; ++c) lane[c % kHalf] = std::fma(value[c], x[j + c], lane[c % kHalf]);
  }
  fold(lane, eight);
  return total(eight);
}

// The same, group by group.
float dot_groups(const Packed& w, const Table& table, size_t row, const float* x) {
  float value[kBlock], eight[8], sum[8] = {}, lane[kHalf] = {};
  for (size_t j = 0; j < w.width; j += kHalf) {
    if (j % kBlock == 0) block(w, table.value, row, j, value);
    for (size_t c = 0; c < kHalf; ++c) lane[c] = std::fma(value[j % kBlock + c], x[j + c], lane[c]);
    if ((j + kHalf) % w.group && j + kHalf < w.width) continue;
    fold(lane, eight);
    const float scale = scale_of(w, row, j / w.group);
    for (size_t l = 0; l < 8; ++l) sum[l] = std::fma(scale, eight[l], sum[l]);
    std::fill_n(lane, kHalf, 0.0f);
  }
  return total(sum);
}

void dots_scalar(const Packed& w, size_t first, size_t count, const float* x, float* out) {
  const Table table(w);
  for (size_t i = 0; i < count; ++i)
    out[i] = w.scales ? dot_groups(w, table, first + i, x) : dot(w, table, first + i, x);
}

#if RAREFY_X86
RAREFY_FMA RAREFY_INLINE float total_fma(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

RAREFY_FMA RAREFY_INLINE __m256 fold_fma(const __m256* lane) {
  return _mm256_add_ps(_mm256_add_ps(lane[0], lane[1]), _mm256_add_ps(lane[2], lane[3]));
}

struct Halves {
  __m256i low, high;
};

RAREFY_FMA RAREFY_INLINE Halves halves_fma(const uint8_t* table) {
  const auto both = [](const uint8_t* from) RAREFY_FMA {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  };
  return {both(table), both(table + 16)};
}

// The values of 32 columns, numbered in the low halves of bytes: a byte of each by either half of the table, side by side
// a bfloat16, which above 16 zeros is a float32.
RAREFY_FMA RAREFY_INLINE void values_fma(Halves table, __m256i bytes, __m256* value) {
  const __m256i k = _mm256_and_si256(bytes, _mm256_set1_epi8(15)), zero = _mm256_setzero_si256();
  const __m256i low = _mm256_shuffle_epi8(table.low, k), high = _mm256_shuffle_epi8(table.high, k);
  const __m256i first = _mm256_unpacklo_epi8(low, high), second = _mm256_unpackhi_epi8(low, high);
  value[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, first));
  value[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, first));
  value[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, second));
  value[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, second));
}

RAREFY_FMA RAREFY_INLINE void half_fma(Halves table, __m256i bytes, const float* x, __m256* lane) {
  __m256 value[4];
  values_fma(table, bytes, value);
  for (int i = 0; i < 4; ++i) lane[i] = _mm256_fmadd_ps(value[i], _mm256_loadu_ps(x + 8 * i), lane[i]);
}

RAREFY_FMA RAREFY_INLINE __m256i block_fma(const Packed& w, size_t row, size_t column) {
  const uint8_t* at = w.q + (row * w.width + column / kBlock * kBlock) / 2;
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

RAREFY_FMA void dots4_fma(const Packed& w, size_t first, size_t count, const float* x, float* out) {
  const Halves table = halves_fma(w.table);
  for (size_t row = first; row < first + count; ++row) {
    __m256 lane[4] = {};
    for (size_t j = 0; j < w.width; j += kBlock) {
      const __m256i bytes = block_fma(w, row, j);
      half_fma(table, bytes, x + j, lane);
      half_fma(table, _mm256_srli_epi16(bytes, 4), x + j + kHalf, lane);
    }
    out[row - first] = total_fma(fold_fma(lane));
  }
}

RAREFY_FMA void dots4_groups_fma(const Packed& w, size_t first, size_t count, const float* x, float* out) {
  const Halves table = halves_fma(w.table);
  for (size_t row = first; row < first + count; ++row) {
    __m256 sum = _mm256_setzero_ps();
    for (size_t g = 0; g < w.groups; ++g) {
      __m256 lane[4] = {};
      for (size_t j = g * w.group; j < std::min((g + 1) * w.group, w.width); j += kHalf) {
        const __m256i bytes = block_fma(w, row, j);
        half_fma(table, j % kBlock ? _mm256_srli_epi16(bytes, 4) : bytes, x + j, lane);
      }
      const __m256 scale = _mm256_set1_ps(scale_of(w, row, g));
      sum = _mm256_fmadd_ps(scale, fold_fma(lane), sum);
    }
    out[row - first] = total_fma(sum);
  }
}

RAREFY_FMA void values4_fma(const Packed& w, size_t row, float* out) {
  const Halves table = halves_fma(w.table);
  for (size_t j = 0; j < w.width; j += kBlock) {
    const __m256i bytes = block_fma(w, row, j);
    __m256 value[8];
    values_fma(table, bytes, value);
    values_fma(table, _mm256_srli_epi16(bytes, 4), value + 4);
    for (int i = 0; i < 8; ++i) _mm256_storeu_ps(out + j + 8 * i, value[i]);
  }
}

RAREFY_FMA void values8_fma(const Packed& w, size_t row, float* out) {
  const int8_t* q = reinterpret_cast<const int8_t*>(w.q + row * w.width);
  for (size_t j = 0; j < w.width; ++j) out[j] = float(q[j]);
}

RAREFY_FMA void dots8_fma(const Packed& w, size_t first, size_t count, const float* x, float* out) {
  for (size_t row = first; row < first + count; ++row) {
    __m256 lane[4] = {};
    for (size_t j = 0; j < w.width; j += kHalf)
      for (size_t i = 0; i < 4; ++i) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.q + row * w.width + j + 8 * i));
        const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        lane[i] = _mm256_fmadd_ps(value, _mm256_loadu_ps(x + j + 8 * i), lane[i]);
      }
    out[row - first] = total_fma(fold_fma(lane));
  }
}

// The values of a row times N vectors.
template <size_t N>
RAREFY_FMA void dots_values_fma(const Packed& w, size_t row, const float* values, const Inputs* inputs, float* sums) {
  const size_t group = w.scales ? w.group : w.width;
  __m256 sum[N] = {};
  for (size_t g = 0; g * group < w.width; ++g) {
    __m256 lane[N][4] = {};
    for (size_t j = g * group; j < std::min((g + 1) * group, w.width); j += kHalf)
      for (size_t i = 0; i < 4; ++i) {
        const __m256 value = _mm256_loadu_ps(values + j + 8 * i);
        for (size_t v = 0; v < N; ++v)
          lane[v][i] = _mm256_fmadd_ps(value, _mm256_loadu_ps(inputs[v].x.data() + j + 8 * i), lane[v][i]);
      }
    for (size_t v = 0; v < N; ++v) {
      const __m256 eight = fold_fma(lane[v]);
      sum[v] = w.scales ? _mm256_fmadd_ps(_mm256_set1_ps(scale_of(w, row, g)), eight, sum[v]) : eight;
    }
  }
  for (size_t v = 0; v < N; ++v) sums[v * kRows] = total_fma(sum[v]);
}

// Of several vectors: integers become values once for all of them. values: (count, width), to be filled.
void dots_several_fma(const Packed& w, size_t first, size_t count, const Inputs* inputs, size_t n, float* values,
                      float* sums) {
  for (size_t k = 0; k < count; ++k) (w.bits == 8 ? values8_fma : values4_fma)(w, first + k, values + k * w.width);
  for (size_t i = 0; i < n; i += 3) {  // as many as there are registers for
    const auto dots = n - i == 1 ? dots_values_fma<1> : n - i == 2 ? dots_values_fma<2> : dots_values_fma<3>;
    for (size_t k = 0; k < count; ++k) dots(w, first + k, values + k * w.width, inputs + i, sums + i * kRows + k);
  }
}

#endif

// Rows, one vector.
using Dots = void (*)(const Packed&, size_t, size_t, const float*, float*);

Dots dots_of(const Packed& w, Path path) {
#if RAREFY_X86
  if (has_fma(path)) return w.bits == 8 ? dots8_fma : w.scales ? dots4_groups_fma : dots4_fma;
#endif
  (void)path;
  return dots_scalar;
}

// What the integers of up to kRows rows come to, vector after vector: sums (n, kRows).
void dots_of_all(const Packed& w, size_t first, size_t count, const Inputs* inputs, size_t n, Path path, Floats& values,
                 float* sums) {
#if RAREFY_X86
  if (n > 1 && has_fma(path)) {
    values.resize(kRows * w.width);
    return dots_several_fma(w, first, count, inputs, n, values.data(), sums);
  }
#endif
  const Dots dots = dots_of(w, path);
  for (size_t i = 0; i < n; ++i) dots(w, first, count, inputs[i].x.data(), sums + i * kRows);
}

// Added to the sums (n, kRows) of up to kRows rows from a multiple of kRows on: entries, by column, so that one seldom
// waits for the sum of the one before; and shifts.
void add_rest(const Packed& w, size_t first, size_t count, const Inputs* inputs, size_t n, float* sums) {
  if (w.first)
    for (uint32_t k = w.first[first / kRows], last = w.first[first / kRows + 1]; k < last; ++k)
      for (size_t v = 0; v < n; ++v)
        sums[v * kRows + row_of(w.far[k])] += value_of(w.far[k]) * inputs[v].x[column_of(w.far[k])];
  if (w.shifts)
    for (size_t v = 0; v < n; ++v)
      for (size_t i = 0; i < count; ++i)
        for (size_t g = 0; g < w.groups; ++g)
          sums[v * kRows + i] +=
              scale_of(w, first + i, g) * (float(w.shifts[(first + i) * w.groups + g]) * inputs[v].sums[g]);
}

size_t chunks_of(const Packed& w) { return (w.rows + kRows - 1) / kRows; }

// What the integers of a row stand for.
void values(const Packed& w, size_t row, Path path, float* out) {
#if RAREFY_X86
  if (has_fma(path)) return w.bits == 8 ? values8_fma(w, row, out) : values4_fma(w, row, out);
#endif
  (void)path;
  const Table table(w);
  for (size_t j = 0; j < w.width; j += kBlock) block(w, table.value, row, j, out + j);
}

// Rows that share their entries, each in steps of its own.
void unstepped(const Packed& w, size_t start, size_t count, Path path, float* out) {
  for (size_t i = 0; i < count; ++i) {
    const size_t row = start + i;
    float* to = out + i * w.width;
    values(w, row, path, to);
    for (size_t g = 0; w.scales && g < w.groups; ++g) {
      const float scale = scale_of(w, row, g), shift = w.shifts ? float(w.shifts[row * w.groups + g]) : 0.0f;
      for (size_t j = g * w.group; j < std::min((g + 1) * w.group, w.width); ++j) to[j] = scale * (to[j] + shift);
    }
  }
  if (w.first)
    for (uint32_t k = w.first[start / kRows], last = w.first[start / kRows + 1]; k < last; ++k) {
      const size_t i = row_of(w.far[k]) - start % kRows;
      if (i < count) out[i * w.width + column_of(w.far[k])] += value_of(w.far[k]);
    }
}

}  // namespace

bool lay_out(const int8_t* q, size_t rows, size_t columns, const int32_t* far, size_t n, size_t most, uint8_t* packed,
             uint32_t* first, std::vector<uint32_t>& entries) {
  const int32_t* const end = far + n;
  entries.clear();
  first[0] = 0;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t column = 0; column < columns; column += kBlock, packed += kHalf) {
      const size_t count = std::min(kBlock, columns - column);
      const int8_t* from = q + row * columns + column;
      uint8_t number[kBlock], beyond[kBlock] = {};
      std::memset(number, 8, kBlock);
      for (size_t c = 0; c < count; ++c) {
        const uint8_t raised = uint8_t(from[c] + 8);
        beyond[c] = raised > 15;
        number[c] = raised > 15 ? 8 : raised;
      }
      for (size_t four = 0; four < kHalf; four += 4) {  // whose places follow each other
        uint32_t low, high;
        std::memcpy(&low, number + four, 4);
        std::memcpy(&high, number + kHalf + four, 4);
        low |= high << 4;
        std::memcpy(packed + place(four), &low, 4);
      }
      for (size_t eight = 0; eight < count; eight += 8) {
        uint64_t some;
        std::memcpy(&some, beyond + eight, 8);
        for (size_t c = eight; some; ++c, some >>= 8) {
          if (!(some & 1)) continue;
          if (from[c] == -128 && far == end) throw std::invalid_argument("a far integer is missing");
          int64_t value = from[c] == -128 ? *far++ : from[c];
          if (entries.size() + size_t((std::abs(value) + kMost - 1) / kMost) > most) return false;
          for (int64_t part; value; value -= part) {
            part = std::clamp(value, -kMost, kMost);
            entries.push_back(uint32_t(column + c) << 16 | uint32_t(row % kRows) << 8 | uint32_t(part & 0xff));
          }
        }
      }
    }
    if (row % kRows == kRows - 1 || row == rows - 1) {
      std::sort(entries.begin() + first[row / kRows], entries.end());
      first[row / kRows + 1] = uint32_t(entries.size());
    }
  }
  if (far != end) throw std::invalid_argument("a far integer has no place");
  return true;
}

void multiply(const std::vector<const Packed*>& matrices, const void* x, size_t n, void* y, bool bfloat16, Path path) {
  static thread_local std::vector<Inputs> kept;  // its memory is small, and asked for again and again
  std::vector<Inputs>& inputs = kept;            // of this thread, for all that share its work
  if (inputs.size() < matrices.size() * n) inputs.resize(matrices.size() * n);
  size_t chunks = 0, rows = 0, weights = 0;
  for (size_t m = 0; m < matrices.size(); ++m) {
    const Packed& w = *matrices[m];
    const size_t bytes = w.inputs * (bfloat16 ? 2 : 4);
    for (size_t i = 0; i < n; ++i) inputs[m * n + i].prepare(w, static_cast<const char*>(x) + i * bytes, bfloat16);
    chunks += chunks_of(w), rows += w.rows, weights += w.rows * w.width;
  }
  shared(chunks, weights * n, [&](size_t begin, size_t end) {
    Floats values, sums(n * kRows);
    size_t chunk = 0, column = 0;  // of all matrices, where this one begins: of work, of y
    for (size_t m = 0; m < matrices.size(); ++m) {
      const Packed& w = *matrices[m];
      const Inputs* mine = inputs.data() + m * n;
      const size_t stop = std::min(end, chunk + chunks_of(w));
      for (size_t c = std::max(begin, chunk); c < stop; ++c) {
        const size_t first = (c - chunk) * kRows, count = std::min(kRows, w.rows - first);
        dots_of_all(w, first, count, mine, n, path, values, sums.data());
        add_rest(w, first, count, mine, n, sums.data());
        for (size_t i = 0; i < n; ++i)
          for (size_t k = 0; k < count; ++k) {
            const float sum = sums[i * kRows + k], value = w.steps ? w.steps[first + k] * sum : sum;
            const size_t at = i * rows + column + first + k;
            if (bfloat16) static_cast<uint16_t*>(y)[at] = narrowed(value);
            else static_cast<float*>(y)[at] = value;
          }
      }
      chunk += chunks_of(w), column += w.rows;
    }
  });
}

void restore(const Packed& w, size_t start, const int64_t* ids, size_t count, float* out, Path path) {
  shared(count, count * w.width, [&](size_t first, size_t last) {
    Floats rows((ids ? 1 : kRows) * w.width);
    for (size_t i = first, together = 1; i < last; i += together) {
      const size_t row = ids ? size_t(ids[i]) : start + i;
      together = ids ? 1 : std::min(kRows - row % kRows, last - i);
      unstepped(w, row, together, path, rows.data());
      for (size_t k = 0; k < together; ++k)
        for (size_t j = 0; j < w.digits; ++j)
          out[(i + k) * w.digits + j] = w.steps ? rows[k * w.width + j] * w.steps[row + k] : rows[k * w.width + j];
    }
  });
}

}  // namespace rarefy

// From counts to frequencies that sum to 2^k, and from frequencies to the coders' tables: integers only.
#include <algorithm>
#include <array>
#include <string>

#include "rans.hpp"

namespace rarefy {

void check_frequencies(Frequencies freqs, int bits) {
  if (bits < kMinBits || bits > kMaxBits)
    throw std::invalid_argument("k is " + std::to_string(bits) + ", not within 8..14");
  if (freqs.size > 256) throw std::invalid_argument("more than 256 frequencies");
  uint32_t sum = 0;
  for (size_t s = 0; s < freqs.size; ++s) sum += freqs.of[s];
  if (sum != 1u << bits)
    throw std::invalid_argument("frequencies sum to " + std::to_string(sum) + ", not 2^" + std::to_string(bits));
}

void check_lanes(size_t lanes) {
  if (lanes == 0 || lanes > kMaxLanes || (lanes & (lanes - 1)))
    throw std::invalid_argument(std::to_string(lanes) + " lanes, not one of 1, 2, 4, 8, 16, 32");
}

std::vector<bool> tables_in_use(Tables tables, size_t n) {
  bool given[256] = {};
  for (size_t i = 0; i < n; ++i) given[tables.given[i]] = true;
  for (size_t t = tables.count; t < 256; ++t)
    if (given[t])
      throw std::invalid_argument("scale index " + std::to_string(t) + " of " + std::to_string(tables.count));
  return std::vector<bool>(given, given + std::min<size_t>(tables.count, 256));
}

namespace {

// floor-ish 2^32 ln(1 + 1/f): the series 2 atanh(1/(2f+1)), each term truncated, so the same integer everywhere.
uint64_t log_step(uint64_t f) {
  const uint64_t d = 2 * f + 1;
  uint64_t sum = 0, power = (uint64_t{1} << 33) / d;
  for (uint64_t odd = 1; power; odd += 2, power /= d * d) sum += power / odd;
  return sum;
}

const uint64_t* log_steps() {
  static const auto table = [] {
    std::vector<uint64_t> t((1u << kMaxBits) + 1);
    for (size_t f = 1; f < t.size(); ++f) t[f] = log_step(f);
    return t;
  }();
  return table.data();
}

struct Coded {
  uint64_t count;
  uint64_t freq;
  size_t symbol;
};

// What one more (one less) unit of frequency is worth; a frequency never falls below one.
uint64_t gain(const Coded& c, const uint64_t* step) { return c.count * step[c.freq]; }
uint64_t loss(const Coded& c, const uint64_t* step) { return c.freq > 1 ? c.count * step[c.freq - 1] : UINT64_MAX; }

Coded& most_gain(std::vector<Coded>& coded, const uint64_t* step) {
  return *std::max_element(coded.begin(), coded.end(),
                           [=](const Coded& a, const Coded& b) { return gain(a, step) < gain(b, step); });
}
Coded& least_loss(std::vector<Coded>& coded, const uint64_t* step) {
  return *std::min_element(coded.begin(), coded.end(),
                           [=](const Coded& a, const Coded& b) { return loss(a, step) < loss(b, step); });
}

// Counts scaled below 2^31 in total, so that products with log_step fit 64 bits.
std::vector<Coded> scaled(const int64_t* counts, size_t size, uint64_t& total) {
  int shift = 0;
  for (size_t s = 0; s < size; ++s)
    if (counts[s] < 0) throw std::invalid_argument("count of symbol " + std::to_string(s) + " is negative");
  for (;; ++shift) {
    total = 0;
    for (size_t s = 0; s < size; ++s) total += counts[s] ? std::max<uint64_t>(uint64_t(counts[s]) >> shift, 1) : 0;
    const uint64_t largest = size ? uint64_t(*std::max_element(counts, counts + size)) >> shift : 0;
    if (largest < uint64_t{1} << 31 && total < uint64_t{1} << 31) break;
  }
  std::vector<Coded> coded;
  for (size_t s = 0; s < size; ++s)
    if (counts[s]) coded.push_back({std::max<uint64_t>(uint64_t(counts[s]) >> shift, 1), 0, s});
  return coded;
}

}  // namespace

// Coded length is a separable convex function of the frequencies, so a solution that no single exchange improves
// is optimal (Fox 1966, "Discrete optimization via marginal analysis").
void quantize_counts(const int64_t* counts, size_t size, int bits, uint16_t* freqs) {
  if (bits < kMinBits || bits > kMaxBits)
    throw std::invalid_argument("k is " + std::to_string(bits) + ", not within 8..14");
  if (size > 256) throw std::invalid_argument("more than 256 counts");
  uint64_t total = 0;
  std::vector<Coded> coded = scaled(counts, size, total);
  if (coded.empty()) throw std::invalid_argument("every count is zero");
  const uint64_t* step = log_steps();
  const uint64_t whole = uint64_t{1} << bits;
  uint64_t sum = 0;
  for (auto& c : coded) sum += c.freq = std::max<uint64_t>(c.count * whole / total, 1);
  for (; sum < whole; ++sum) ++most_gain(coded, step).freq;
  for (; sum > whole; --sum) --least_loss(coded, step).freq;
  while (coded.size() > 1) {
    Coded &up = most_gain(coded, step), &down = least_loss(coded, step);
    if (gain(up, step) <= loss(down, step)) break;
    ++up.freq;
    --down.freq;
  }
  std::fill(freqs, freqs + size, uint16_t{0});
  for (const auto& c : coded) freqs[c.symbol] = uint16_t(c.freq);
}

// Division by multiplication (Robison 2005, "N-bit unsigned division via N-bit multiply-add"). With
// 2^shift < f <= 2^(shift+1) and P = 2^(32+shift), the rounded-up reciprocal is exact while x * (-P mod f) < P and the
// rounded-down one, with x + 1 for x, while (x + 1) * (P mod f) <= P. The two remainders add up to f, and
// x < f << (32 - k), so one of the two always holds.
static EncodeEntry encode_entry(uint32_t freq, uint32_t start, int bits) {
  if (freq == 0) return {0, 0, 0xffffffff, 0};
  uint32_t shift = 0;
  while (freq > 2u << shift) ++shift;
  const uint64_t p = uint64_t{1} << (32 + shift);
  const uint64_t below = p % freq, above = (freq - below) % freq;
  const bool up = freq > 1 && above <= below;
  uint32_t reciprocal = uint32_t(up ? (p + freq - 1) / freq : p / freq);
  if (freq == 1) reciprocal = 0xffffffff;  // (x + 1) * (2^32 - 1) >> 32 == x
  const uint32_t limit = uint32_t((uint64_t(freq) << (32 - bits)) - 1);
  return {reciprocal, up ? 0 : reciprocal, limit, ((1u << bits) - freq) | start << 14 | shift << 28};
}

EncodeTable encode_table(Frequencies freqs, int bits) {
  EncodeTable table(256, encode_entry(0, 0, bits));
  uint32_t start = 0;
  for (size_t s = 0; s < freqs.size; start += freqs.of[s], ++s) table[s] = encode_entry(freqs.of[s], start, bits);
  return table;
}

EncodeTable encode_tables(Tables tables, size_t n, int bits) {
  const std::vector<bool> used = tables_in_use(tables, n);
  EncodeTable all(256 * tables.count, encode_entry(0, 0, bits));
  for (size_t t = 0; t < used.size(); ++t) {
    if (!used[t]) continue;
    const Frequencies freqs{tables.freqs + 256 * t, 256};
    check_frequencies(freqs, bits);
    const EncodeTable one = encode_table(freqs, bits);
    std::copy(one.begin(), one.end(), all.begin() + ptrdiff_t(256 * t));
  }
  return all;
}

static void fill_slots(Frequencies freqs, uint32_t* slots) {
  for (uint32_t s = 0; s < freqs.size; ++s) {
    const uint32_t freq = freqs.of[s];
    for (uint32_t b = 0; b < freq; ++b) *slots++ = (freq - 1) << 20 | b << 8 | s;
  }
}

DecodeTable decode_table(Frequencies freqs, int bits) {
  const uint32_t whole = 1u << bits;
  const bool wide = bits > kPackedBits;
  DecodeTable t{wide ? Layout::wide : Layout::packed, bits, -1, {}, {}, {}};
  for (uint32_t s = 0; s < freqs.size; ++s)
    if (freqs.of[s] == whole) t.only = int(s);
  if (!wide) {
    t.slots.resize(whole);
    fill_slots(freqs, t.slots.data());
    return t;
  }
  t.symbols.resize(whole + 3);
  t.ranges.resize(256);
  uint32_t start = 0;
  for (uint32_t s = 0; s < freqs.size; start += freqs.of[s], ++s) {
    if (freqs.of[s] == 0) continue;
    std::fill_n(t.symbols.begin() + start, freqs.of[s], uint8_t(s));
    t.ranges[s] = uint32_t(freqs.of[s] - 1) << 16 | start;
  }
  return t;
}

// Kept from tile to tile, which share their tables: filling them costs a quarter of the decoding.
const DecodeTable& decode_tables(Tables tables, size_t n, int bits) {
  if (bits > kPackedBits) throw std::invalid_argument("k is above 12");
  const std::vector<bool> used = tables_in_use(tables, n);
  static thread_local DecodeTable all{Layout::given, 0, -1, {}, {}, {}};
  static thread_local std::vector<uint16_t> known;  // the frequencies in `all`, zeros where there are none
  if (all.bits != bits || known.size() < 256 * tables.count) {
    all.bits = bits;
    all.slots.resize(tables.count << bits);
    known.assign(256 * tables.count, 0);
  }
  for (size_t t = 0; t < used.size(); ++t) {
    const Frequencies freqs{tables.freqs + 256 * t, 256};
    uint16_t* before = known.data() + 256 * t;
    if (!used[t]) continue;
    check_frequencies(freqs, bits);
    if (std::equal(before, before + 256, freqs.of)) continue;
    fill_slots(freqs, all.slots.data() + (t << bits));
    std::copy_n(freqs.of, 256, before);
  }
  return all;
}

}  // namespace rarefy

// Interleaved static-table rANS (Duda 2013, arXiv:1311.2540; Giesen 2014, arXiv:1402.3392): 32-bit states in
// [2^16, 2^32), 16-bit words, frequencies summing to 2^k. The byte format is described in rarefy/entropy/rans.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu.hpp"

namespace rarefy {

constexpr uint32_t kLower = 1u << 16;
constexpr int kMinBits = 8;
constexpr int kMaxBits = 14;
constexpr int kPackedBits = 12;  // widest k whose (frequency - 1, bias, symbol) fits 32 bits
constexpr size_t kMaxLanes = 32;
constexpr size_t kMaxStep = 2 * kMaxLanes;  // bytes of words that one step over all lanes can read

struct Frequencies {
  const uint16_t* of;
  size_t size;
};

// Both throw std::invalid_argument.
void check_frequencies(Frequencies freqs, int bits);
void check_lanes(size_t lanes);

// A table of 256 frequencies for each value of the side information; symbol i uses table given[i].
struct Tables {
  const uint16_t* freqs;
  size_t count;
  const uint8_t* given;
};
std::vector<bool> tables_in_use(Tables tables, size_t n);  // throws where given[i] is no table

void quantize_counts(const int64_t* counts, size_t size, int bits, uint16_t* freqs);

inline uint32_t load_word(const uint8_t* p) { return uint32_t(p[0]) | uint32_t(p[1]) << 8; }
inline void store_word(uint8_t* p, uint32_t w) {
  p[0] = uint8_t(w);
  p[1] = uint8_t(w >> 8);
}

// ---- encoding ------------------------------------------------------------------------------------------------

// x / freq == (x * reciprocal + addend) >> (32 + shift) for every x below freq << (32 - k); see frequencies.cpp.
struct EncodeEntry {
  uint32_t reciprocal;  // 0 marks a symbol without a frequency
  uint32_t addend;
  uint32_t limit;  // the largest state that takes this symbol without giving up a word
  uint32_t packed;  // 2^k - freq (14 bits) | start (14 bits) | shift (4 bits)
};
using EncodeTable = std::vector<EncodeEntry>;
EncodeTable encode_table(Frequencies freqs, int bits);
EncodeTable encode_tables(Tables tables, size_t n, int bits);  // one after the other, those in use

// Full steps, last one first. Words grow downwards from `words`; `bad` is raised by a symbol without a frequency.
struct EncodeRun {
  uint32_t* states;
  const uint8_t* symbols;
  const uint8_t* given;  // nullptr: one table
  size_t steps;
  uint8_t* words;
  bool bad;
};
using EncodeKernel = void (*)(EncodeRun&, const EncodeTable&);
EncodeKernel encode_kernel_x86(size_t lanes, bool given, Path path);  // nullptr: none

inline uint32_t encode_symbol(uint32_t x, const EncodeEntry& e, uint8_t*& words) {
  const uint32_t full = x > e.limit;  // a coin toss: kept out of the branch predictor
  store_word(words - 2, x);
  words -= 2 * full;
  x >>= 16 * full;
  const uint32_t quotient = uint32_t((uint64_t(x) * e.reciprocal + e.addend) >> (32 + (e.packed >> 28)));
  return x + (e.packed >> 14 & 0x3fff) + quotient * (e.packed & 0x3fff);
}

struct Span {
  const uint8_t* data;
  size_t size;
};
// Returns the stream, which lies at the end of `scratch`.
Span encode(const uint8_t* symbols, size_t n, Frequencies freqs, int bits, size_t lanes, Path path, uint8_t* scratch,
            size_t scratch_size);
Span encode_given(const uint8_t* symbols, size_t n, Tables tables, int bits, size_t lanes, Path path, uint8_t* scratch,
                  size_t scratch_size);
inline size_t encode_bound(size_t n, size_t lanes) { return 4 * lanes + 2 * n + 2; }

// ---- decoding ------------------------------------------------------------------------------------------------

// How a decoder finds the symbol of a slot: one look-up, two, or one in the table that is given.
enum class Layout { packed, wide, given };

struct DecodeTable {
  Layout layout;
  int bits;
  int only;  // the symbol of a one-symbol table, else -1
  // k <= 12: for each slot, frequency - 1 (12 bits) | bias (12) | symbol (8); table after table.
  std::vector<uint32_t> slots;
  // k > 12: the symbol of each slot (padded, since gathers read four bytes), then frequency - 1 (16) | start (16).
  std::vector<uint8_t> symbols;
  std::vector<uint32_t> ranges;
};
DecodeTable decode_table(Frequencies freqs, int bits);
const DecodeTable& decode_tables(Tables tables, size_t n, int bits);  // k <= 12; until the thread's next call

// Whole steps while words <= limit; a step reads at most kMaxStep bytes from `words`.
struct DecodeRun {
  uint32_t* states;
  const uint8_t* words;
  const uint8_t* limit;
  const uint8_t* given;  // nullptr: one table
  uint8_t* out;
  size_t steps;
};
using DecodeKernel = void (*)(DecodeRun&, const DecodeTable&);
DecodeKernel decode_kernel_x86(size_t lanes, Layout layout, Path path);  // nullptr: none

// A stream, some symbols at a time. Throws std::invalid_argument where it is found not to be one.
class Decoder {
 public:
  Decoder(Span data, const DecodeTable& table, size_t lanes, Path path);  // the table outlives it
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  // The next n symbols; n is a multiple of the lanes for all but the last.
  void take(uint8_t* out, size_t n, const uint8_t* given = nullptr);
  void end() const;

 private:
  void take_copy();
  const DecodeTable& table_;
  const size_t lanes_;
  const DecodeKernel kernel_;
  uint32_t states_[kMaxLanes];
  const uint8_t *words_, *end_;
  uint8_t last_[2 * kMaxStep] = {};  // the last words, where it is harmless that kernels read ahead of what they use
  bool copied_ = false;
};

// Throws std::invalid_argument when `data` is not exactly one stream of n symbols.
void decode(Span data, Frequencies freqs, int bits, size_t lanes, Path path, uint8_t* out, size_t n);
void decode_given(Span data, Tables tables, int bits, size_t lanes, Path path, uint8_t* out, size_t n);

}  // namespace rarefy

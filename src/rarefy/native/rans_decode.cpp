// The decoder's driver and its portable kernel.
#include <algorithm>
#include <cstring>
#include <string>

#include "rans.hpp"

namespace rarefy {
namespace {

// The table's pointers by value: byte stores may alias anything, and would have them read again for each symbol.
template <Layout LAYOUT>
struct Lookup {
  int bits;
  const uint32_t* slots;
  const uint8_t* symbols;
  const uint32_t* ranges;

  explicit Lookup(const DecodeTable& t)
      : bits(t.bits), slots(t.slots.data()), symbols(t.symbols.data()), ranges(t.ranges.data()) {}

  uint32_t next(uint32_t x, uint8_t given, uint8_t& symbol) const {
    const uint32_t slot = x & ((1u << bits) - 1), q = x >> bits;
    if constexpr (LAYOUT == Layout::wide) {
      symbol = symbols[slot];
      const uint32_t range = ranges[symbol];
      return (range >> 16) * q + q + slot - (range & 0xffff);
    } else {
      const uint32_t e = slots[LAYOUT == Layout::given ? slot | uint32_t(given) << bits : slot];
      symbol = uint8_t(e);
      return (e >> 20) * q + q + (e >> 8 & 0xfff);
    }
  }
};

template <size_t LANES, Layout LAYOUT>
void decode_scalar(DecodeRun& run, const DecodeTable& table) {
  const Lookup<LAYOUT> lookup(table);
  constexpr bool kGiven = LAYOUT == Layout::given;
  uint32_t x[LANES];
  for (size_t j = 0; j < LANES; ++j) x[j] = run.states[j];
  const uint8_t *words = run.words, *given = run.given;
  uint8_t* out = run.out;
  size_t steps = run.steps;
  for (; steps && words <= run.limit; --steps, out += LANES, given += kGiven ? LANES : 0)
    for (size_t j = 0; j < LANES; ++j) {
      const uint32_t y = lookup.next(x[j], kGiven ? given[j] : 0, out[j]);
      // Shifts by 0 or 16 rather than a choice: whether a lane runs low is a coin toss that no predictor learns.
      const uint32_t low = y < kLower;
      x[j] = y << (16 * low) | (load_word(words) & (0u - low));
      words += 2 * low;
    }
  for (size_t j = 0; j < LANES; ++j) run.states[j] = x[j];
  run = {run.states, words, run.limit, given, out, steps};
}

template <Layout LAYOUT>
DecodeKernel scalar_kernel(size_t lanes) {
  switch (lanes) {
    case 1: return decode_scalar<1, LAYOUT>;
    case 2: return decode_scalar<2, LAYOUT>;
    case 4: return decode_scalar<4, LAYOUT>;
    case 8: return decode_scalar<8, LAYOUT>;
    case 16: return decode_scalar<16, LAYOUT>;
    default: return decode_scalar<32, LAYOUT>;
  }
}

[[noreturn]] void refuse(const char* why) { throw std::invalid_argument(std::string("rANS stream ") + why); }

void load_states(Span data, size_t lanes, uint32_t* states) {
  if (data.size < 4 * lanes) refuse("is shorter than its states");
  if (data.size % 2) refuse("has an odd number of bytes");
  for (size_t j = 0; j < lanes; ++j) {
    states[j] = load_word(data.data + 4 * j) | load_word(data.data + 4 * j + 2) << 16;
    if (states[j] < kLower) refuse("has a state below 2^16");
  }
}

DecodeKernel scalar_kernel(size_t lanes, Layout layout) {
  switch (layout) {
    case Layout::packed: return scalar_kernel<Layout::packed>(lanes);
    case Layout::wide: return scalar_kernel<Layout::wide>(lanes);
    default: return scalar_kernel<Layout::given>(lanes);
  }
}

uint32_t look_up(const DecodeTable& table, uint32_t x, const uint8_t* given, uint8_t& symbol) {
  switch (table.layout) {
    case Layout::packed: return Lookup<Layout::packed>(table).next(x, 0, symbol);
    case Layout::wide: return Lookup<Layout::wide>(table).next(x, 0, symbol);
    default: return Lookup<Layout::given>(table).next(x, *given, symbol);
  }
}

// The symbols of the last, partial step; here every word is looked for before it is read.
void decode_tail(DecodeRun& run, const uint8_t* end, const DecodeTable& table, size_t count) {
  for (size_t j = 0; j < count; ++j) {
    uint32_t x = look_up(table, run.states[j], run.given ? run.given + j : nullptr, run.out[j]);
    if (x < kLower) {
      if (end - run.words < 2) refuse("is truncated");
      x = x << 16 | load_word(run.words);
      run.words += 2;
    }
    run.states[j] = x;
  }
}

DecodeKernel kernel_for(size_t lanes, Layout layout, Path path) {
  const DecodeKernel kernel = decode_kernel_x86(lanes, layout, path);
  return kernel ? kernel : scalar_kernel(lanes, layout);
}

void decode_with(Span data, const DecodeTable& table, const uint8_t* given, size_t lanes, Path path, uint8_t* out,
                 size_t n) {
  Decoder decoder(data, table, lanes, path);
  decoder.take(out, n, given);
  decoder.end();
}

}  // namespace

Decoder::Decoder(Span data, const DecodeTable& table, size_t lanes, Path path)
    : table_(table), lanes_(lanes), kernel_(kernel_for(lanes, table.layout, path)) {
  load_states(data, lanes, states_);
  words_ = data.data + 4 * lanes;
  end_ = data.data + data.size;
  if (size_t(end_ - words_) < kMaxStep) take_copy();
}

void Decoder::take_copy() {
  const size_t left = size_t(end_ - words_);
  std::memcpy(last_, words_, left);
  words_ = last_;
  end_ = last_ + left;
  copied_ = true;
}

void Decoder::take(uint8_t* out, size_t n, const uint8_t* given) {
  if (table_.only >= 0) {
    std::fill_n(out, n, uint8_t(table_.only));
    return;
  }
  DecodeRun run{states_, words_, copied_ ? end_ : end_ - kMaxStep, given, out, n / lanes_};
  kernel_(run, table_);
  words_ = run.words;
  if (run.steps && !copied_) {
    take_copy();
    run.words = words_;
    run.limit = end_;
    kernel_(run, table_);
    words_ = run.words;
  }
  if (words_ > end_) refuse("is truncated");
  decode_tail(run, end_, table_, n % lanes_);
  words_ = run.words;
}

void Decoder::end() const {
  if (words_ != end_) refuse("has bytes left over");
  for (size_t j = 0; j < lanes_; ++j)
    if (states_[j] != kLower) refuse("is damaged: a lane does not end in its initial state");
}

void decode(Span data, Frequencies freqs, int bits, size_t lanes, Path path, uint8_t* out, size_t n) {
  check_lanes(lanes);
  check_frequencies(freqs, bits);
  decode_with(data, decode_table(freqs, bits), nullptr, lanes, path, out, n);
}

void decode_given(Span data, Tables tables, int bits, size_t lanes, Path path, uint8_t* out, size_t n) {
  check_lanes(lanes);
  decode_with(data, decode_tables(tables, n, bits), tables.given, lanes, path, out, n);
}

}  // namespace rarefy

// The encoder: symbols backwards, words downwards in memory, so that a decoder reads both forwards.
#include "rans.hpp"

namespace rarefy {
namespace {

template <size_t LANES, bool GIVEN>
void encode_scalar(EncodeRun& run, const EncodeTable& table) {
  const EncodeEntry* entries = table.data();  // by value: byte stores may alias the vector itself
  uint32_t x[LANES];
  for (size_t j = 0; j < LANES; ++j) x[j] = run.states[j];
  uint8_t* words = run.words;
  bool bad = false;
  for (size_t step = run.steps; step-- > 0;) {
    const uint8_t* symbols = run.symbols + step * LANES;
    for (size_t j = LANES; j-- > 0;) {
      const EncodeEntry& e = entries[symbols[j] + (GIVEN ? size_t(run.given[step * LANES + j]) << 8 : 0)];
      bad |= e.reciprocal == 0;
      x[j] = encode_symbol(x[j], e, words);
    }
  }
  for (size_t j = 0; j < LANES; ++j) run.states[j] = x[j];
  run.words = words;
  run.bad |= bad;
}

template <bool GIVEN>
EncodeKernel scalar_kernel(size_t lanes) {
  switch (lanes) {
    case 1: return encode_scalar<1, GIVEN>;
    case 2: return encode_scalar<2, GIVEN>;
    case 4: return encode_scalar<4, GIVEN>;
    case 8: return encode_scalar<8, GIVEN>;
    case 16: return encode_scalar<16, GIVEN>;
    default: return encode_scalar<32, GIVEN>;
  }
}

Span encode_with(const uint8_t* symbols, size_t n, const EncodeTable& table, const uint8_t* given, size_t lanes,
                 Path path, uint8_t* scratch, size_t scratch_size) {
  uint32_t states[kMaxLanes];
  for (size_t j = 0; j < lanes; ++j) states[j] = kLower;
  uint8_t* const end = scratch + scratch_size;
  EncodeRun run{states, symbols, given, n / lanes, end, false};
  for (size_t i = n; i > run.steps * lanes; --i) {
    const EncodeEntry& e = table[symbols[i - 1] + (given ? size_t(given[i - 1]) << 8 : 0)];
    run.bad |= e.reciprocal == 0;
    states[(i - 1) % lanes] = encode_symbol(states[(i - 1) % lanes], e, run.words);
  }
  EncodeKernel kernel = encode_kernel_x86(lanes, given, path);
  if (!kernel) kernel = given ? scalar_kernel<true>(lanes) : scalar_kernel<false>(lanes);
  kernel(run, table);
  if (run.bad) throw std::invalid_argument("a symbol has frequency zero");
  for (size_t j = lanes; j-- > 0;) {
    run.words -= 4;
    store_word(run.words, states[j] & 0xffff);
    store_word(run.words + 2, states[j] >> 16);
  }
  return {run.words, size_t(end - run.words)};
}

}  // namespace

Span encode(const uint8_t* symbols, size_t n, Frequencies freqs, int bits, size_t lanes, Path path, uint8_t* scratch,
            size_t scratch_size) {
  check_lanes(lanes);
  check_frequencies(freqs, bits);
  return encode_with(symbols, n, encode_table(freqs, bits), nullptr, lanes, path, scratch, scratch_size);
}

Span encode_given(const uint8_t* symbols, size_t n, Tables tables, int bits, size_t lanes, Path path, uint8_t* scratch,
                  size_t scratch_size) {
  check_lanes(lanes);
  return encode_with(symbols, n, encode_tables(tables, n, bits), tables.given, lanes, path, scratch, scratch_size);
}

}  // namespace rarefy

// A tile with its own model: raw symbols, or a table of frequencies and the rANS stream under it.
#include "tile.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "packing.hpp"

namespace rarefy {
namespace {

constexpr size_t kLongestTable = 1024;
constexpr double kWorth = 0.99;  // a table must take off this much: raw symbols decode at the speed of memory
constexpr size_t kFew = size_t{1} << 15;
constexpr size_t kVeryFew = size_t{1} << 12;
constexpr size_t kBlocks = 8;

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

int width_of(uint32_t value) {
  int width = 0;
  for (; value; value >>= 1) ++width;
  return width;
}

// ---- the table's bytes; the format is described in rarefy/entropy/table.py ------------------------------------

class BitWriter {
 public:
  explicit BitWriter(uint8_t first) : bytes_{first} {}
  void put(uint32_t value, int width) {
    for (int i = width; i-- > 0;) {
      if (used_ == 0) bytes_.push_back(0);
      bytes_.back() |= uint8_t((value >> i & 1) << (7 - used_));
      used_ = (used_ + 1) % 8;
    }
  }
  void gamma(uint32_t n) {
    const int length = width_of(n);
    put(0, length - 1);
    put(n, length);
  }
  std::vector<uint8_t> take() { return std::move(bytes_); }

 private:
  std::vector<uint8_t> bytes_;
  int used_ = 0;
};

uint32_t number_of(int step) {
  if (step > -2 && step < 2) return step == 0 ? 1 : step > 0 ? 3 : 2;
  return uint32_t(2 * std::abs(step) + (step > 0 ? 2 : 1));
}

std::vector<uint8_t> write_table(const uint16_t* freqs, int bits, size_t lanes) {
  BitWriter out(uint8_t(bits - kMinBits + 8 * (width_of(uint32_t(lanes)) - 1)));
  int before = bits;
  uint32_t zeros = 0;
  for (size_t s = 0; s < 256; ++s) {
    if (freqs[s] == 0) {
      ++zeros;
      continue;
    }
    if (zeros) out.gamma(4), out.gamma(zeros);
    zeros = 0;
    const int length = width_of(freqs[s]);
    out.gamma(number_of(length - before));
    out.put(freqs[s], length - 1);
    before = length;
  }
  return out.take();
}

class BitReader {
 public:
  explicit BitReader(Span data) : data_(data) {}
  uint32_t take(int width) {
    uint32_t value = 0;
    for (; width > 0; --width) {
      if (at_ == 8 * data_.size) refuse("a table of frequencies ends early");
      value = value << 1 | (data_.data[at_ / 8] >> (7 - at_ % 8) & 1);
      ++at_;
    }
    return value;
  }
  uint32_t gamma() {
    int zeros = 0;
    while (take(1) == 0)
      if (++zeros > 8) refuse("a table of frequencies is malformed");
    return uint32_t{1} << zeros | take(zeros);
  }
  void end() {
    if (8 * data_.size - at_ >= 8) refuse("a table of frequencies has bits left over");
    if (take(int(8 * data_.size - at_))) refuse("a table of frequencies has bits left over");
  }

 private:
  Span data_;
  size_t at_ = 0;
};

struct Table {
  uint16_t freqs[256];
  int bits;
  size_t lanes;
};

Table read_table(Span data) {
  if (data.size < 2 || data.size > kLongestTable) refuse("a table of frequencies is too short or too long");
  Table table{{}, kMinBits + data.data[0] % 8, size_t{1} << (data.data[0] / 8)};
  if (table.bits > kMaxBits || table.lanes > kMaxLanes) refuse("a table of frequencies has k or lanes out of range");
  BitReader bits({data.data + 1, data.size - 1});
  uint32_t symbol = 0, total = 0;
  int before = table.bits;
  while (total < 1u << table.bits) {
    const int number = int(bits.gamma());
    if (number == 4) {
      symbol += bits.gamma();
      continue;
    }
    before += number < 4 ? (number == 3) - (number == 2) : (number - 1) / 2 * (number % 2 ? -1 : 1);
    if (before < 1 || before > table.bits + 1 || symbol >= 256) refuse("a table of frequencies leaves its range");
    const uint32_t f = uint32_t{1} << (before - 1) | bits.take(before - 1);
    table.freqs[symbol++] = uint16_t(f);
    total += f;
  }
  if (total != 1u << table.bits) refuse("frequencies do not add up");
  bits.end();
  return table;
}

// ---- choosing a table -----------------------------------------------------------------------------------------

double entropy(const int64_t* counts) {  // bits, of all symbols
  double total = 0, bits = 0;
  for (int s = 0; s < 256; ++s) total += double(counts[s]);
  for (int s = 0; s < 256; ++s)
    if (counts[s]) bits -= double(counts[s]) * std::log2(double(counts[s]) / total);
  return bits;
}

double coded_bits(const int64_t* counts, const uint16_t* freqs, int k) {
  double bits = 0;
  for (int s = 0; s < 256; ++s)
    if (counts[s]) bits += double(counts[s]) * (k - std::log2(double(freqs[s])));
  return bits;
}

// Whether an eighth of a long tile already shows that its symbols are as good as uniform.
bool looks_uniform(const uint8_t* symbols, size_t n) {
  if (n < kFew) return false;
  int64_t counts[256] = {}, part[256];
  const size_t block = n / (kBlocks * kBlocks);
  for (size_t b = 0; b < kBlocks; ++b) {
    histogram(symbols + b * (n / kBlocks), block, part);
    for (int s = 0; s < 256; ++s) counts[s] += part[s];
  }
  const double m = double(kBlocks * block);
  // Entropy seen in m draws is short by (symbols - 1) / (2 m ln 2) (Miller 1955).
  return entropy(counts) / m + 255 / (2 * m * 0.6931) > 8 * kWorth;
}

bool constant(const uint8_t* symbols, size_t n) { return n > 0 && std::memcmp(symbols, symbols + 1, n - 1) == 0; }

size_t lanes_for(double bytes) {
  size_t lanes = kMaxLanes;
  while (lanes > 1 && 4 * double(lanes) * 1000 > 3 * bytes) lanes /= 2;
  return lanes;
}

struct Choice {
  Table table;
  std::vector<uint8_t> written;
  double bytes;  // with everything; infinite for raw
};

// The table with which a tile is shortest. Beyond k = 12 it falls out of the first-level cache: that must buy 0.5 %.
Choice choose(const uint8_t* symbols, size_t n) {
  Choice best{{}, {}, INFINITY};
  if (n == 0 || looks_uniform(symbols, n)) return best;
  int64_t counts[256] = {};
  if (constant(symbols, n))
    counts[symbols[0]] = int64_t(n);
  else
    histogram(symbols, n, counts);
  const double ideal = entropy(counts);
  double least = INFINITY;
  // Few symbols want a short table, many one that is close to their counts.
  const int first = n <= kVeryFew ? 8 : n <= kFew ? 10 : 12, step = n <= kVeryFew ? 1 : 2;
  for (int k = first; k <= (n <= kFew ? 12 : kMaxBits); k += step) {
    Table table{{}, k, 1};
    quantize_counts(counts, 256, k, table.freqs);
    const double bits = coded_bits(counts, table.freqs, k);
    table.lanes = lanes_for(bits / 8);
    auto written = write_table(table.freqs, k, table.lanes);
    const double bytes = bits / 8 + double(written.size() + 1 + (written.size() > 127)) + 4.0 * double(table.lanes);
    const double weighed = bytes * (k > 12 ? 1.005 : 1.0);
    if (weighed < least) least = weighed, best = {table, std::move(written), bytes};
    if (k == 12 && bits <= 1.005 * ideal) break;
  }
  if (best.bytes > kWorth * double(n)) best.bytes = INFINITY;
  return best;
}

// Memory of this thread, kept: to ask the system for it again for each tile costs more than some tiles do.
uint8_t* scratch(size_t size) {
  static thread_local std::unique_ptr<uint8_t[]> memory;
  static thread_local size_t held = 0;
  if (size > held) {
    held = 0;
    memory.reset(new uint8_t[size]);
    held = size;
  }
  return memory.get();
}

}  // namespace

double tile_bytes(const uint8_t* symbols, size_t n) {
  const double bytes = choose(symbols, n).bytes;
  return std::isinf(bytes) ? double(n) + 1 : bytes;
}

size_t encode_tile(const uint8_t* symbols, size_t n, std::vector<uint8_t>& out) {
  const size_t start = out.size();
  const Choice choice = choose(symbols, n);
  if (std::isinf(choice.bytes)) {
    out.push_back(0);
    out.insert(out.end(), symbols, symbols + n);
    return n + 1;
  }
  const Table& table = choice.table;
  const size_t head = choice.written.size();
  out.push_back(uint8_t(head > 127 ? (head & 127) | 128 : head));
  if (head > 127) out.push_back(uint8_t(head >> 7));
  out.insert(out.end(), choice.written.begin(), choice.written.end());
  if (table.lanes == 1 && table.freqs[symbols[0]] == 1u << table.bits) {
    // One symbol with all of the range moves no state: the stream is one lane as it began.
    out.insert(out.end(), {0, 0, 1, 0});
  } else {
    const size_t bound = encode_bound(n, table.lanes);
    const Span stream =
        encode(symbols, n, {table.freqs, 256}, table.bits, table.lanes, best_path(), scratch(bound), bound);
    out.insert(out.end(), stream.data, stream.data + stream.size);
  }
  return out.size() - start;
}

TileDecoder::TileDecoder(Span data, size_t n, Path path) {
  if (data.size == 0) refuse("it is empty");
  size_t head = data.data[0], at = 1;
  if (head > 127) {
    if (data.size < 2 || data.data[1] > 127) refuse("the length of its table is malformed");
    head = (head & 127) | size_t{data.data[1]} << 7;
    at = 2;
  }
  if (head > data.size - at) refuse("it is truncated");
  if (head == 0) {
    if (data.size - at != n) refuse("its raw symbols have another number");
    raw_ = data.data + at;
    return;
  }
  const Table table = read_table({data.data + at, head});
  at += head;
  table_ = decode_table({table.freqs, 256}, table.bits);
  stream_.emplace(Span{data.data + at, data.size - at}, table_, table.lanes, path);
}

const uint8_t* TileDecoder::take(size_t n, uint8_t* room) {
  if (!stream_) {
    raw_ += n;
    return raw_ - n;
  }
  stream_->take(room, n);
  return room;
}

void TileDecoder::end() const {
  if (stream_) stream_->end();
}

void decode_tile(Span data, uint8_t* out, size_t n) {
  TileDecoder tile(data, n, best_path());
  const uint8_t* symbols = tile.take(n, out);
  if (n && symbols != out) std::memcpy(out, symbols, n);
  tile.end();
}

}  // namespace rarefy

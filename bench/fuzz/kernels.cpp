// libFuzzer over the C++ kernels. The first byte of an input says what is tried. What is refused must be refused by
// std::invalid_argument; what is accepted must be accepted on every path alike and be what the encoder writes.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <vector>

#include "context.hpp"
#include "crc.hpp"
#include "difference.hpp"
#include "huffman.hpp"
#include "packing.hpp"
#include "planes.hpp"
#include "rans.hpp"
#include "tile.hpp"
#include "window.hpp"

namespace {

using namespace rarefy;
using Bytes = std::vector<uint8_t>;

void require(bool holds) {
  if (!holds) std::abort();
}

// An input, read from the front; zeros follow its end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint32_t byte() { return size_ ? (--size_, *data_++) : 0; }
  uint32_t pair() {
    const uint32_t low = byte();
    return low | byte() << 8;
  }
  // A block of its own, so that a read outside it is seen.
  Bytes take(size_t n) {
    n = std::min(n, size_);
    Bytes out(data_, data_ + n);
    data_ += n, size_ -= n;
    return out;
  }
  Bytes rest() { return take(size_); }

 private:
  const uint8_t* data_;
  size_t size_;
};

template <class Decode>
bool accepted(Decode decode) {
  try {
    decode();
  } catch (const std::invalid_argument&) {
    return false;
  }
  return true;
}

std::vector<Path> paths() {
  std::vector<Path> all;
  for (const auto& name : path_names()) all.push_back(path_from(name));
  return all;
}

// decode(out, path) on every path: all refuse, or all accept the same symbols, which are returned.
template <class Decode>
bool same_on_all(size_t n, Bytes& out, Decode decode) {
  bool first = true, taken = false;
  for (const Path path : paths()) {
    Bytes other(n);
    const bool took = accepted([&] { decode(other.data(), path); });
    require(first || (took == taken && (!took || other == out)));
    taken = took, first = false;
    out = std::move(other);
  }
  return taken;
}

void rans(Input in) {
  const int bits = kMinBits + int(in.byte() % 7);
  const size_t lanes = size_t{1} << in.byte() % 6, n = in.pair() % 2048;
  std::vector<int64_t> counts(1 + in.byte());
  for (auto& count : counts) count = in.byte();
  counts[0] += std::all_of(counts.begin(), counts.end(), [](int64_t c) { return c == 0; });
  std::vector<uint16_t> table(counts.size());
  if (!accepted([&] { quantize_counts(counts.data(), counts.size(), bits, table.data()); })) return;
  const Frequencies freqs{table.data(), table.size()};
  const Bytes data = in.rest();
  Bytes out;
  if (!same_on_all(n, out, [&](uint8_t* to, Path path) {
        decode({data.data(), data.size()}, freqs, bits, lanes, path, to, n);
      }))
    return;
  for (const Path path : paths()) {
    Bytes scratch(encode_bound(n, lanes));
    const Span coded = encode(out.data(), n, freqs, bits, lanes, path, scratch.data(), scratch.size());
    require(Bytes(coded.data, coded.data + coded.size) == data);
  }
}

// A table for each symbol, of up to four.
void rans_given(Input in) {
  const int bits = kMinBits + int(in.byte() % 7);
  const size_t lanes = size_t{1} << in.byte() % 6, n = in.pair() % 2048, count = 1 + in.byte() % 4;
  std::vector<uint16_t> freqs;
  for (size_t t = 0; t < count; ++t) {
    std::vector<int64_t> counts(256);
    for (auto& c : counts) c = in.byte();
    counts[t] += 1;
    std::vector<uint16_t> table(256);
    quantize_counts(counts.data(), counts.size(), bits, table.data());
    freqs.insert(freqs.end(), table.begin(), table.end());
  }
  Bytes given(n);
  const uint32_t strange = in.byte() == 1;  // an index that is no table
  for (auto& g : given) g = uint8_t(in.byte() % (count + strange));
  const Tables tables{freqs.data(), count, given.data()};
  const Bytes data = in.rest();
  Bytes out;
  if (!same_on_all(n, out, [&](uint8_t* to, Path path) {
        decode_given({data.data(), data.size()}, tables, bits, lanes, path, to, n);
      }))
    return;
  for (const Path path : paths()) {
    Bytes scratch(encode_bound(n, lanes));
    const Span coded = encode_given(out.data(), n, tables, bits, lanes, path, scratch.data(), scratch.size());
    require(Bytes(coded.data, coded.data + coded.size) == data);
  }
}

// Frequencies as they come: mostly refused.
void rans_frequencies(Input in) {
  const int bits = int(in.byte() % 20);
  const size_t lanes = in.byte() % 40, n = in.byte();
  std::vector<uint16_t> table(in.byte() + in.byte());
  for (auto& f : table) f = uint16_t(in.pair());
  const Bytes data = in.rest();
  Bytes out;
  same_on_all(n, out, [&](uint8_t* to, Path path) {
    decode({data.data(), data.size()}, {table.data(), table.size()}, bits, lanes, path, to, n);
  });
}

void huffman(Input in) {
  const size_t n = in.pair() % 4096;
  const Bytes lengths = in.take(1 + in.byte()), data = in.rest();
  const CodeLengths of{lengths.data(), lengths.size()};
  Bytes out(n);
  if (accepted([&] { huffman_decode(data.data(), data.size(), of, out.data(), n); }))
    require(huffman_encode(out.data(), n, of) == data);
}

void context(Input in) {
  const ContextShape shape{int(in.byte() % 10), in.pair()};
  const size_t n = in.pair() % 1024;
  const Bytes data = in.rest();
  Bytes out(n);
  if (accepted([&] { context_decode(data.data(), data.size(), shape, out.data(), n); }))
    require(context_encode(out.data(), n, shape) == data);
}

void context_round(Input in) {
  const ContextShape shape{1 + int(in.byte() % 8), 1u + in.byte()};
  Bytes symbols = in.rest();
  for (auto& s : symbols) s &= uint8_t((1 << shape.depth) - 1);
  const Bytes coded = context_encode(symbols.data(), symbols.size(), shape);
  Bytes out(symbols.size());
  context_decode(coded.data(), coded.size(), shape, out.data(), out.size());
  require(out == symbols);
}

void tile(Input in) {
  const size_t n = in.pair();
  const Bytes data = in.rest();
  Bytes out(n);
  accepted([&] { decode_tile({data.data(), data.size()}, out.data(), n); });
}

void tile_round(Input in) {
  const size_t copies = 1 + in.byte() % 16;
  const Bytes part = in.rest();
  Bytes symbols, coded;
  for (size_t i = 0; i < copies; ++i) symbols.insert(symbols.end(), part.begin(), part.end());
  require(encode_tile(symbols.data(), symbols.size(), coded) == coded.size());
  Bytes out(symbols.size());
  decode_tile({coded.data(), coded.size()}, out.data(), out.size());
  require(out == symbols);
}

// Planes of tiles as they come, their checksums put right: all paths find the same elements, or the same damage.
void window(Input in) {
  const size_t width = size_t{1} << in.byte() % 4, n = in.pair() % 20000;
  const bool rotate = in.byte() % 2;
  std::vector<Bytes> data(width);
  std::vector<std::vector<int64_t>> sizes(width), checks(width);
  std::vector<CodedPlane> planes;
  for (size_t p = 0; p < width; ++p) {
    const size_t step = kBlock * (1 + in.byte() % 4);
    for (size_t at = 0; at < n; at += step) {
      const uint32_t kind = in.byte();
      Bytes tile;
      if (kind % 4 == 0) {
        tile = in.take(in.pair() % 1024);
      } else {  // a good one, of few bytes over and over
        const Bytes part = in.take(1 + kind / 4);
        Bytes symbols(std::min(step, n - at));
        for (size_t i = 0; i < symbols.size(); ++i) symbols[i] = part.empty() ? 0 : part[i % part.size()];
        encode_tile(symbols.data(), symbols.size(), tile);
      }
      sizes[p].push_back(int64_t(tile.size()));
      checks[p].push_back(int64_t(crc32(tile.data(), tile.size(), Path::scalar)));
      data[p].insert(data[p].end(), tile.begin(), tile.end());
    }
    planes.push_back({{data[p].data(), data[p].size()}, step, sizes[p].data(), checks[p].data()});
  }
  Bytes first;
  std::optional<Place> met;
  for (const Path path : paths()) {
    Bytes elements(n * width);
    const auto damage = decode_window(planes, n, rotate, elements.data(), path);
    if (path == Path::scalar) met = damage, first = elements;
    require(damage.has_value() == met.has_value());
    require(damage ? damage->plane == met->plane && damage->tile == met->tile : elements == first);
  }
}

void planes(Input in) {
  const size_t width = size_t{1} << in.byte() % 4;
  const bool rotate = in.byte() % 2;
  const Bytes elements = in.rest();
  const size_t n = elements.size() / width;
  Bytes first;
  for (const Path path : paths()) {
    Bytes split(n * width), joined(n * width);
    split_planes(elements.data(), n, width, rotate, split.data(), path);
    std::vector<const uint8_t*> rows(width);
    for (size_t p = 0; p < width; ++p) rows[p] = split.data() + p * n;
    join_planes(rows.data(), n, width, rotate, joined.data(), path);
    require(std::equal(joined.begin(), joined.end(), elements.begin()));
    if (first.empty()) first = split;
    require(first == split);
  }
}

void difference(Input in) {
  constexpr Elements kinds[] = {{0, 4, 8, 23}, {0, 2, 8, 7}, {0, 2, 5, 10}, {0, 8, 11, 52}, {0, 1, 4, 3},
                                {0, 1, 5, 2},  {0, 1, 0, 0}, {0, 2, 0, 0},  {0, 4, 0, 0},   {0, 8, 0, 0}};
  Elements e = kinds[in.byte() % 10];
  const bool xored = in.byte() % 2;
  const Bytes all = in.rest();
  e.n = all.size() / (2 * e.width);
  const Bytes values(all.begin(), all.begin() + std::ptrdiff_t(e.n * e.width));
  const Bytes base(all.end() - std::ptrdiff_t(e.n * e.width), all.end());
  Bytes steps(values.size()), back(values.size());
  take_difference(e, xored, values.data(), base.data(), steps.data());
  undo_difference(e, xored, steps.data(), base.data(), back.data());
  require(back == values);
  undo_difference(e, xored, values.data(), base.data(), back.data());
  take_difference(e, xored, back.data(), base.data(), steps.data());
  require(steps == values);
}

void checks(Input in) {
  const Bytes data = in.rest();
  const uint32_t known = crc32(data.data(), data.size(), Path::scalar);
  for (const Path path : paths()) require(crc32(data.data(), data.size(), path) == known);
}

constexpr void (*kTargets[])(Input) = {rans,       rans_frequencies, huffman, context, context_round,
                                       tile,       tile_round,       planes,  difference, checks,
                                       rans_given, window};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size && data[0] < sizeof kTargets / sizeof *kTargets) kTargets[data[0]]({data + 1, size - 1});
  return 0;
}

#ifdef REPLAY  // a kept corpus, without libFuzzer: inputs one after the other, each after its length in two bytes
#include <cstdio>
#include <fstream>
#include <iterator>

int main(int, char** argv) {
  std::ifstream file(argv[1], std::ios::binary);
  const Bytes kept{std::istreambuf_iterator<char>(file), {}};
  size_t at = 0, inputs = 0;
  for (; at + 2 <= kept.size(); ++inputs) {
    const size_t size = kept[at] | size_t(kept[at + 1]) << 8;
    require(size <= kept.size() - at - 2);
    LLVMFuzzerTestOneInput(kept.data() + at + 2, size);
    at += 2 + size;
  }
  require(inputs && at == kept.size());
  std::printf("%zu inputs\n", inputs);
}
#endif

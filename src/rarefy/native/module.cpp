// Python bindings. Shapes are checked here, values in the kernels; every kernel runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "packing.hpp"
#include "rans.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using namespace rarefy;
template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char* why) {
  if (!holds) throw std::invalid_argument(why);
}

void bind_histogram(Vector<const uint8_t> symbols, Vector<int64_t> out) {
  require(out.size() == 256, "out does not have 256 entries");
  nb::gil_scoped_release release;
  histogram(symbols.data(), symbols.size(), out.data());
}

void bind_quantize(Vector<const int64_t> counts, int bits, Vector<uint16_t> out) {
  require(out.size() == counts.size(), "out and counts differ in length");
  nb::gil_scoped_release release;
  quantize_counts(counts.data(), counts.size(), bits, out.data());
}

nb::bytes bind_encode(Vector<const uint8_t> symbols, Vector<const uint16_t> freqs, int bits, size_t lanes,
                      const std::string& path) {
  check_lanes(lanes);
  const size_t bound = encode_bound(symbols.size(), lanes);
  std::unique_ptr<uint8_t[]> scratch(new uint8_t[bound]);  // not zeroed: most pages are never touched
  Span stream;
  {
    nb::gil_scoped_release release;
    stream = encode(symbols.data(), symbols.size(), {freqs.data(), freqs.size()}, bits, lanes, path_from(path),
                    scratch.get(), bound);
  }
  return nb::bytes(stream.data, stream.size);
}

void bind_decode(Vector<const uint8_t> data, Vector<const uint16_t> freqs, int bits, size_t lanes,
                 Vector<uint8_t> out, const std::string& path) {
  nb::gil_scoped_release release;
  decode({data.data(), data.size()}, {freqs.data(), freqs.size()}, bits, lanes, path_from(path), out.data(),
         out.size());
}

void bind_dequantize(Matrix<const uint8_t> q, Matrix<const float> scale, Matrix<const float> zero, size_t group,
                     Matrix<float> out, const std::string& path) {
  const size_t rows = q.shape(0), columns = q.shape(1);
  require(group > 0, "group is zero");
  const size_t groups = columns / group + (columns % group != 0);
  require(out.shape(0) == rows && out.shape(1) == columns, "out and q differ in shape");
  require(scale.shape(0) == rows && scale.shape(1) == groups, "scale is not (out, groups)");
  require(zero.shape(0) == rows && zero.shape(1) == groups, "zero is not (out, groups)");
  nb::gil_scoped_release release;
  dequantize_groups({rows, columns, group}, q.data(), scale.data(), zero.data(), out.data(), path_from(path));
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.def("paths", path_names);
  m.def("histogram", bind_histogram, "symbols"_a, "out"_a);
  m.def("quantize_counts", bind_quantize, "counts"_a, "bits"_a, "out"_a);
  m.def("rans_encode", bind_encode, "symbols"_a, "freqs"_a, "bits"_a, "lanes"_a, "path"_a = "");
  m.def("rans_decode", bind_decode, "data"_a, "freqs"_a, "bits"_a, "lanes"_a, "out"_a, "path"_a = "");
  m.def("dequantize_groups", bind_dequantize, "q"_a, "scale"_a, "zero"_a, "group"_a, "out"_a, "path"_a = "");
}

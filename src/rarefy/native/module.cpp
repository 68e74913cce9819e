// Python bindings. Shapes are checked here, values in the kernels; every kernel runs without the GIL, but for those that
// take no longer than giving it up and taking it again may (rms_norm, rotate).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "blocks.hpp"
#include "context.hpp"
#include "crc.hpp"
#include "difference.hpp"
#include "huffman.hpp"
#include "packing.hpp"
#include "planes.hpp"
#include "products.hpp"
#include "rans.hpp"
#include "rounding.hpp"
#include "tile.hpp"
#include "window.hpp"

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

nb::bytes bytes_of(const std::vector<uint8_t>& data) { return nb::bytes(data.data(), data.size()); }

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

// Rows of 256 frequencies; symbol i uses row given[i].
nb::bytes bind_encode_given(Vector<const uint8_t> symbols, Vector<const uint8_t> given, Matrix<const uint16_t> freqs,
                            int bits, size_t lanes, const std::string& path) {
  require(given.size() == symbols.size(), "symbols and given differ in length");
  require(freqs.shape(1) == 256, "a row of freqs does not have 256 entries");
  check_lanes(lanes);
  const size_t bound = encode_bound(symbols.size(), lanes);
  std::unique_ptr<uint8_t[]> scratch(new uint8_t[bound]);
  Span stream;
  {
    nb::gil_scoped_release release;
    stream = encode_given(symbols.data(), symbols.size(), {freqs.data(), freqs.shape(0), given.data()}, bits, lanes,
                          path_from(path), scratch.get(), bound);
  }
  return nb::bytes(stream.data, stream.size);
}

void bind_decode_given(Vector<const uint8_t> data, Vector<const uint8_t> given, Matrix<const uint16_t> freqs, int bits,
                       size_t lanes, Vector<uint8_t> out, const std::string& path) {
  require(given.size() == out.size(), "out and given differ in length");
  require(freqs.shape(1) == 256, "a row of freqs does not have 256 entries");
  nb::gil_scoped_release release;
  decode_given({data.data(), data.size()}, {freqs.data(), freqs.shape(0), given.data()}, bits, lanes, path_from(path),
               out.data(), out.size());
}

// The symbols that are lost under their table; `out` has `escape` in their place. lost: 0 or 1, a row of 256 a table.
nb::bytes bind_escape(Vector<const uint8_t> symbols, Vector<const uint8_t> given, Matrix<const uint8_t> lost,
                      uint8_t escape, Vector<uint8_t> out) {
  require(given.size() == symbols.size() && out.size() == symbols.size(), "symbols, given and out differ in length");
  require(lost.shape(1) == 256, "a row of lost does not have 256 entries");
  std::vector<uint8_t> escaped;
  {
    nb::gil_scoped_release release;
    escape_given({lost.data(), lost.shape(0)}, symbols.data(), given.data(), symbols.size(), escape, out.data(),
                 escaped);
  }
  return bytes_of(escaped);
}

// counts: of each symbol under each value of `given`.
void bind_histogram_given(Vector<const uint8_t> symbols, Vector<const uint8_t> given, Matrix<int64_t> counts) {
  require(given.size() == symbols.size(), "symbols and given differ in length");
  require(counts.shape(1) == 256, "a row of counts does not have 256 entries");
  nb::gil_scoped_release release;
  histogram_given(symbols.data(), given.data(), symbols.size(), counts.data(), counts.shape(0));
}

nb::bytes bind_huffman_encode(Vector<const uint8_t> symbols, Vector<const uint8_t> lengths) {
  std::vector<uint8_t> data;
  {
    nb::gil_scoped_release release;
    data = huffman_encode(symbols.data(), symbols.size(), {lengths.data(), lengths.size()});
  }
  return bytes_of(data);
}

void bind_huffman_decode(Vector<const uint8_t> data, Vector<const uint8_t> lengths, Vector<uint8_t> out) {
  nb::gil_scoped_release release;
  huffman_decode(data.data(), data.size(), {lengths.data(), lengths.size()}, out.data(), out.size());
}

nb::bytes bind_context_encode(Vector<const uint8_t> symbols, int depth, size_t columns) {
  std::vector<uint8_t> data;
  {
    nb::gil_scoped_release release;
    data = context_encode(symbols.data(), symbols.size(), {depth, columns});
  }
  return bytes_of(data);
}

void bind_context_decode(Vector<const uint8_t> data, int depth, size_t columns, Vector<uint8_t> out) {
  nb::gil_scoped_release release;
  context_decode(data.data(), data.size(), {depth, columns}, out.data(), out.size());
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

template <class Integer>
void bind_dequantize_separable(Matrix<const Integer> q, Vector<const float> rows, Vector<const float> columns,
                               Vector<const float> points, Matrix<float> out, const std::string& path) {
  require(out.shape(0) == q.shape(0) && out.shape(1) == q.shape(1), "out and q differ in shape");
  require(rows.size() == q.shape(0) && columns.size() == q.shape(1), "a row or a column has no scale");
  require(points.size() == 3, "there are not three points");
  nb::gil_scoped_release release;
  dequantize_separable({q.shape(0), q.shape(1), rows.data(), columns.data(), points.data()}, q.data(), out.data(),
                       path_from(path));
}

// All matrices but points and within are (columns, rows).
void bind_round_block(Matrix<float> weights, Matrix<const float> within, Vector<const float> reciprocal,
                      Vector<const float> scales, Vector<const float> steps, Matrix<const float> points,
                      std::optional<Matrix<const bool>> keep, Matrix<int32_t> q, Matrix<float> errors,
                      std::optional<Matrix<float>> left, const std::string& path) {
  const size_t columns = weights.shape(0), rows = weights.shape(1);
  const auto alike = [&](const auto& each) { return each.shape(0) == columns && each.shape(1) == rows; };
  require(alike(q) && alike(errors), "weights, q and errors differ in shape");
  require((!keep || alike(*keep)) && (!left || alike(*left)), "weights, keep and left differ in shape");
  require(within.shape(0) == columns && within.shape(1) == columns, "within is not (columns, columns)");
  require(reciprocal.size() == columns && steps.size() == columns, "a column has no step or no reciprocal");
  require(scales.size() == rows, "a row has no scale");
  require(points.shape(0) == 3 && (points.shape(1) == 1 || points.shape(1) == rows), "points are not (3, rows)");
  const Grid grid{scales.data(), steps.data(), points.data(), points.shape(1)};
  nb::gil_scoped_release release;
  round_block({columns, rows}, weights.data(), within.data(), reciprocal.data(), grid,
              keep ? reinterpret_cast<const uint8_t*>(keep->data()) : nullptr, q.data(), errors.data(),
              left ? left->data() : nullptr, path_from(path));
}

// A matrix at 4 or 8 bits; its arrays live as long as it.
struct PackedMatrix {
  Matrix<const uint8_t> q;
  std::optional<Vector<const uint8_t>> table;
  std::optional<Vector<const float>> steps;
  std::optional<Matrix<const uint16_t>> scales;
  std::optional<Matrix<const int8_t>> shifts;
  std::optional<Vector<const uint32_t>> first, far, index;
  std::optional<Vector<const float>> columns;
  Packed w;

  PackedMatrix(int bits, size_t inputs, size_t digits, size_t group, bool binary16, decltype(q) q_,
               decltype(table) table_, decltype(steps) steps_, decltype(scales) scales_, decltype(shifts) shifts_,
               decltype(first) first_, decltype(far) far_, decltype(index) index_, decltype(columns) columns_)
      : q(q_), table(table_), steps(steps_), scales(scales_), shifts(shifts_), first(first_), far(far_), index(index_),
        columns(columns_) {
    const auto data = [](const auto& array) { return array ? array->data() : nullptr; };
    require(bits == 4 || bits == 8, "a weight has 4 or 8 bits");
    const size_t width = q.shape(1) * 8 / size_t(bits), rows = q.shape(0);
    require(width % 64 == 0 && digits <= width, "a row is no multiple of 64, or shorter than its columns");
    require((bits == 4) == table.has_value() && (!table || table->size() == 32), "4 bits have a table of 32 bytes");
    require(!steps || steps->size() == rows, "a row has no step");
    require(!scales || (bits == 4 && group > 0 && group % 32 == 0), "a group is no multiple of 32");
    const size_t groups = scales ? (width + group - 1) / group : 0;
    const auto grouped = [&](const auto& each) { return !each || (each->shape(0) == rows && each->shape(1) == groups); };
    require(grouped(scales) && grouped(shifts), "scales or shifts are not (rows, groups)");
    require(first.has_value() == far.has_value(), "entries have no rows");
    if (first) {
      const size_t chunks = (rows + kRows - 1) / kRows;
      require(first->size() == chunks + 1 && std::is_sorted(first->data(), first->data() + chunks + 1), "rows overlap");
      require(first->data()[0] == 0 && first->data()[chunks] == far->size(), "entries are in no row");
      for (size_t c = 0; c < chunks; ++c)
        for (size_t k = first->data()[c]; k < first->data()[c + 1]; ++k) {
          const uint32_t entry = far->data()[k];
          require(entry >> 16 < digits && c * kRows + (entry >> 8 & 0xff) < rows && (entry >> 8 & 0xff) < kRows,
                  "an entry lies outside");
        }
    }
    require(index ? index->size() == digits : digits == inputs, "a column has no input");
    for (size_t j = 0; index && j < digits; ++j) require(index->data()[j] < inputs, "an input lies outside");
    require(!columns || columns->size() == digits, "a column has no scale");
    w = {bits,     rows,        inputs,       digits,       width,       q.data(),  data(table), data(steps), group,
         groups,   binary16,    data(scales), data(shifts), data(first), data(far), data(index), data(columns)};
  }
};

// The entries, or nothing where there are more than `most`.
std::optional<nb::bytes> bind_lay_out(Matrix<const int8_t> q, Vector<const int32_t> far, size_t most,
                                      Matrix<uint8_t> packed, Vector<uint32_t> first) {
  const size_t rows = q.shape(0), columns = q.shape(1);
  require(packed.shape(0) == rows && packed.shape(1) == (columns + 63) / 64 * 32, "packed is not as q fills it");
  require(first.size() == (rows + kRows - 1) / kRows + 1, "first has another number of rows");
  require(columns <= 1 << 16, "columns are too many");
  std::vector<uint32_t> entries;
  bool fits = false;
  {
    nb::gil_scoped_release release;
    fits = lay_out(q.data(), rows, columns, far.data(), far.size(), most, packed.data(), first.data(), entries);
  }
  if (!fits) return std::nullopt;
  return nb::bytes(entries.data(), entries.size() * sizeof(uint32_t));
}

// Addresses of contiguous vectors, as torch hands them over: its arrays of bfloat16 have no other way here that is as
// short. Where they lie, and how long they are, is for the caller to know.
void bind_multiply(const std::vector<const PackedMatrix*>& matrices, uintptr_t x, size_t n, uintptr_t y, bool bfloat16,
                   const std::string& path) {
  std::vector<const Packed*> all;
  for (const PackedMatrix* matrix : matrices) {
    require(matrix && matrix->w.inputs == matrices[0]->w.inputs, "matrices differ in their inputs");
    all.push_back(&matrix->w);
  }
  nb::gil_scoped_release release;
  multiply(all, reinterpret_cast<const void*>(x), n, reinterpret_cast<void*>(y), bfloat16, path_from(path));
}

void bind_rms_norm(uintptr_t x, size_t n, size_t width, uintptr_t w, float offset, float epsilon, uintptr_t y,
                   bool bfloat16) {
  rms_norm(reinterpret_cast<const void*>(x), n, width, reinterpret_cast<const void*>(w), offset, epsilon,
           reinterpret_cast<void*>(y), bfloat16);
}

void bind_rotate(uintptr_t x, size_t n, size_t heads, size_t count, size_t size, uintptr_t cos, uintptr_t sin,
                 bool bfloat16) {
  require(count <= heads && size % 2 == 0, "heads are fewer, or have no halves");
  rotate(reinterpret_cast<void*>(x), n, heads, count, size, reinterpret_cast<const void*>(cos),
         reinterpret_cast<const void*>(sin), bfloat16);
}

void bind_attend(uintptr_t q, size_t n, size_t heads, size_t row, uintptr_t k, uintptr_t v, size_t kept, size_t count,
                 size_t size, float scale, uintptr_t y, bool bfloat16, const std::string& path) {
  require(kept > 0 && heads % kept == 0 && count > 0, "heads do not share what is kept alike, or nothing is");
  nb::gil_scoped_release release;
  attend({n, heads, row, kept, count, size}, reinterpret_cast<const void*>(q), reinterpret_cast<const void*>(k),
         reinterpret_cast<const void*>(v), scale, reinterpret_cast<void*>(y), bfloat16, path_from(path));
}

void bind_gated(const PackedMatrix& gate, const PackedMatrix& up, const PackedMatrix& down, float a, float b, uintptr_t x,
                size_t n, uintptr_t y, bool bfloat16, const std::string& path) {
  require(gate.w.inputs == up.w.inputs && gate.w.rows == up.w.rows && gate.w.rows == down.w.inputs,
          "matrices do not go together");
  nb::gil_scoped_release release;
  gated(gate.w, up.w, down.w, a, b, reinterpret_cast<const void*>(x), n, reinterpret_cast<void*>(y), bfloat16,
        path_from(path));
}

void bind_restore(const PackedMatrix& matrix, size_t start, Matrix<float> out, const std::string& path) {
  require(out.shape(1) == matrix.w.digits, "out and the matrix differ in columns");
  require(start <= matrix.w.rows && out.shape(0) <= matrix.w.rows - start, "rows lie outside");
  nb::gil_scoped_release release;
  restore(matrix.w, start, nullptr, out.shape(0), out.data(), path_from(path));
}

void bind_look_up(const PackedMatrix& matrix, Vector<const int64_t> ids, Matrix<float> out) {
  require(out.shape(1) == matrix.w.digits && out.shape(0) == ids.size(), "out is not (ids, columns)");
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids.data()[i] < 0 || size_t(ids.data()[i]) >= matrix.w.rows)
      throw std::out_of_range("row " + std::to_string(ids.data()[i]) + " of " + std::to_string(matrix.w.rows));
  nb::gil_scoped_release release;
  restore(matrix.w, 0, ids.data(), ids.size(), out.data(), best_path());
}

// Tiles one after the other; sizes and checks: of each.
nb::bytes bind_encode_tiles(Vector<const uint8_t> symbols, size_t step, Vector<int64_t> sizes, Vector<int64_t> checks) {
  const size_t n = symbols.size();
  require(step > 0 && sizes.size() == n / step + (n % step != 0), "there is another number of tiles");
  require(checks.size() == sizes.size(), "sizes and checks differ in length");
  static thread_local std::vector<uint8_t> tiles;  // kept: its pages are expensive
  {
    nb::gil_scoped_release release;
    tiles.clear();
    for (size_t i = 0, at = 0; at < n; ++i, at += step) {
      const size_t size = encode_tile(symbols.data() + at, std::min(step, n - at), tiles);
      sizes.data()[i] = int64_t(size);
      checks.data()[i] = crc32(tiles.data() + tiles.size() - size, size, best_path());
    }
  }
  return nb::bytes(tiles.data(), tiles.size());
}

// Tiles of each plane, as bind_encode_tiles makes them, to elements. The plane and tile of the first damage, if any;
// the elements are undefined after it.
std::optional<std::pair<size_t, size_t>> bind_decode_window(
    const std::vector<Vector<const uint8_t>>& data, const std::vector<size_t>& steps,
    const std::vector<Vector<const int64_t>>& sizes, const std::vector<Vector<const int64_t>>& checks, bool rotate,
    Vector<uint8_t> elements, const std::string& path) {
  const size_t width = data.size();
  require(steps.size() == width && sizes.size() == width && checks.size() == width, "the planes differ in number");
  require(width > 0 && elements.size() % width == 0, "there is no whole number of elements");
  const size_t n = elements.size() / width;
  std::vector<CodedPlane> planes;
  for (size_t p = 0; p < width; ++p) {
    require(steps[p] > 0 && sizes[p].size() == n / steps[p] + (n % steps[p] != 0), "there is another number of tiles");
    require(checks[p].size() == sizes[p].size(), "sizes and checks differ in length");
    planes.push_back({{data[p].data(), data[p].size()}, steps[p], sizes[p].data(), checks[p].data()});
  }
  nb::gil_scoped_release release;
  const auto damage = decode_window(planes, n, rotate, elements.data(), path_from(path));
  if (!damage) return std::nullopt;
  return std::pair{damage->plane, damage->tile};
}

nb::bytes bind_encode_tile(Vector<const uint8_t> symbols) {
  std::vector<uint8_t> tile;
  {
    nb::gil_scoped_release release;
    encode_tile(symbols.data(), symbols.size(), tile);
  }
  return nb::bytes(tile.data(), tile.size());
}

void bind_decode_tile(Vector<const uint8_t> data, Vector<uint8_t> out) {
  nb::gil_scoped_release release;
  decode_tile({data.data(), data.size()}, out.data(), out.size());
}

uint32_t bind_crc32(Vector<const uint8_t> data, const std::string& path) {
  nb::gil_scoped_release release;
  return crc32(data.data(), data.size(), path_from(path));
}

double bind_tile_bytes(Vector<const uint8_t> symbols) {
  nb::gil_scoped_release release;
  return tile_bytes(symbols.data(), symbols.size());
}

void bind_split(Vector<const uint8_t> elements, bool rotate, Matrix<uint8_t> planes, const std::string& path) {
  const size_t width = planes.shape(0), n = planes.shape(1);
  require(elements.size() == width * n, "planes and elements differ in size");
  nb::gil_scoped_release release;
  split_planes(elements.data(), n, width, rotate, planes.data(), path_from(path));
}

void bind_join(Matrix<const uint8_t> planes, bool rotate, Vector<uint8_t> elements, const std::string& path) {
  const size_t width = planes.shape(0), n = planes.shape(1);
  require(elements.size() == width * n, "planes and elements differ in size");
  nb::gil_scoped_release release;
  std::vector<const uint8_t*> rows(width);
  for (size_t p = 0; p < width; ++p) rows[p] = planes.data() + p * n;
  join_planes(rows.data(), n, width, rotate, elements.data(), path_from(path));
}

// undo: `from` holds differences, else values.
void bind_difference(Vector<const uint8_t> from, Vector<const uint8_t> base, size_t width, int exponent, int mantissa,
                     bool xored, bool undo, Vector<uint8_t> out) {
  require(width > 0 && from.size() % width == 0, "there is no whole number of elements");
  require(from.size() == base.size() && from.size() == out.size(), "values, base and out differ in size");
  const Elements elements{from.size() / width, width, exponent, mantissa};
  nb::gil_scoped_release release;
  (undo ? undo_difference : take_difference)(elements, xored, from.data(), base.data(), out.data());
}

}  // namespace

NB_MODULE(_kernels, m) {
  nb::set_leak_warnings(false);  // networks that live until the process ends are no fault
  m.def("paths", path_names);
  m.def("histogram", bind_histogram, "symbols"_a, "out"_a);
  m.def("quantize_counts", bind_quantize, "counts"_a, "bits"_a, "out"_a);
  m.def("rans_encode", bind_encode, "symbols"_a, "freqs"_a, "bits"_a, "lanes"_a, "path"_a = "");
  m.def("rans_decode", bind_decode, "data"_a, "freqs"_a, "bits"_a, "lanes"_a, "out"_a, "path"_a = "");
  m.def("rans_encode_given", bind_encode_given, "symbols"_a, "given"_a, "freqs"_a, "bits"_a, "lanes"_a, "path"_a = "");
  m.def("rans_decode_given", bind_decode_given, "data"_a, "given"_a, "freqs"_a, "bits"_a, "lanes"_a, "out"_a,
        "path"_a = "");
  m.def("escape", bind_escape, "symbols"_a, "given"_a, "lost"_a, "escape"_a, "out"_a);
  m.def("histogram_given", bind_histogram_given, "symbols"_a, "given"_a, "counts"_a);
  m.def("huffman_encode", bind_huffman_encode, "symbols"_a, "lengths"_a);
  m.def("huffman_decode", bind_huffman_decode, "data"_a, "lengths"_a, "out"_a);
  m.def("context_encode", bind_context_encode, "symbols"_a, "depth"_a, "columns"_a);
  m.def("context_decode", bind_context_decode, "data"_a, "depth"_a, "columns"_a, "out"_a);
  m.def("dequantize_groups", bind_dequantize, "q"_a, "scale"_a, "zero"_a, "group"_a, "out"_a, "path"_a = "");
  m.def("dequantize_separable", bind_dequantize_separable<int8_t>, "q"_a.noconvert(), "rows"_a, "columns"_a,
        "points"_a, "out"_a, "path"_a = "");
  m.def("dequantize_separable", bind_dequantize_separable<int32_t>, "q"_a, "rows"_a, "columns"_a, "points"_a, "out"_a,
        "path"_a = "");
  m.def("round_block", bind_round_block, "weights"_a, "within"_a, "reciprocal"_a, "scales"_a, "steps"_a, "points"_a,
        "keep"_a.none(), "q"_a, "errors"_a, "left"_a.none(), "path"_a = "");
  nb::class_<PackedMatrix>(m, "PackedMatrix")
      .def(nb::init<int, size_t, size_t, size_t, bool, decltype(PackedMatrix::q), decltype(PackedMatrix::table),
                    decltype(PackedMatrix::steps), decltype(PackedMatrix::scales), decltype(PackedMatrix::shifts),
                    decltype(PackedMatrix::first), decltype(PackedMatrix::far), decltype(PackedMatrix::index),
                    decltype(PackedMatrix::columns)>(),
           "bits"_a, "inputs"_a, "digits"_a, "group"_a, "binary16"_a, "q"_a, "table"_a.none(), "steps"_a.none(),
           "scales"_a.none(), "shifts"_a.none(), "first"_a.none(), "far"_a.none(), "index"_a.none(),
           "columns"_a.none())
      .def("restore", bind_restore, "start"_a, "out"_a, "path"_a = "")
      .def("look_up", bind_look_up, "ids"_a, "out"_a);
  m.def("lay_out", bind_lay_out, "q"_a, "far"_a, "most"_a, "packed"_a, "first"_a);
  m.def("multiply", bind_multiply, "matrices"_a, "x"_a, "n"_a, "y"_a, "bfloat16"_a, "path"_a = "");
  m.def("attend", bind_attend, "q"_a, "n"_a, "heads"_a, "row"_a, "k"_a, "v"_a, "kept"_a, "count"_a, "size"_a, "scale"_a,
        "y"_a, "bfloat16"_a, "path"_a = "");
  m.def("gated", bind_gated, "gate"_a, "up"_a, "down"_a, "a"_a, "b"_a, "x"_a, "n"_a, "y"_a, "bfloat16"_a,
        "path"_a = "");
  m.def("rms_norm", bind_rms_norm, "x"_a, "n"_a, "width"_a, "w"_a, "offset"_a, "epsilon"_a, "y"_a, "bfloat16"_a);
  m.def("rotate", bind_rotate, "x"_a, "n"_a, "heads"_a, "count"_a, "size"_a, "cos"_a, "sin"_a, "bfloat16"_a);
  m.def("encode_tile", bind_encode_tile, "symbols"_a);
  m.def("encode_tiles", bind_encode_tiles, "symbols"_a, "step"_a, "sizes"_a, "checks"_a);
  m.def("decode_window", bind_decode_window, "data"_a, "steps"_a, "sizes"_a, "checks"_a, "rotate"_a, "elements"_a,
        "path"_a = "");
  m.def("decode_tile", bind_decode_tile, "data"_a, "out"_a);
  m.def("tile_bytes", bind_tile_bytes, "symbols"_a);
  m.def("crc32", bind_crc32, "data"_a, "path"_a = "");
  m.def("difference", bind_difference, "from_"_a, "base"_a, "width"_a, "exponent"_a, "mantissa"_a, "xored"_a,
        "undo"_a, "out"_a);
  m.def("split_planes", bind_split, "elements"_a, "rotate"_a, "planes"_a, "path"_a = "");
  m.def("join_planes", bind_join, "planes"_a, "rotate"_a, "elements"_a, "path"_a = "");
}

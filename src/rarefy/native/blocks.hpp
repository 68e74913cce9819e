#pragma once

#include <cstddef>

#include "cpu.hpp"
#include "products.hpp"

namespace rarefy {

// What a token meets between the products of a transformer's block. Tensors are contiguous, bfloat16 or float32, computed
// in float32 and rounded once.

// y (n, width) = x (w + offset) / sqrt(mean(x x) + epsilon), row by row. w (width).
void rms_norm(const void* x, size_t n, size_t width, const void* w, float offset, float epsilon, void* y, bool bfloat16);

// Turns the first `count` of the `heads` (n, heads, size) by angles (n, size), the halves of a head against each other:
// x cos + (-x2, x1) sin.
void rotate(void* x, size_t n, size_t heads, size_t count, size_t size, const void* cos, const void* sin, bool bfloat16);

// y (n, heads, size) = softmax(scale q k') v of each head. Rows of q are `row` heads apart; heads / kept of them that
// follow each other read the same k and v, (n, kept, count, size).
struct Heads {
  size_t n, heads, row, kept, count, size;
};
void attend(Heads of, const void* q, const void* k, const void* v, float scale, void* y, bool bfloat16, Path path);

// y = (s(x gate') * x up') down', with s(t) = t sigmoid(a t + b t^3).
void gated(const Packed& gate, const Packed& up, const Packed& down, float a, float b, const void* x, size_t n, void* y,
           bool bfloat16, Path path);

}  // namespace rarefy

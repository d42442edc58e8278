// Vectors of floats by the extensions of GCC and Clang, and exp, softplus and sigmoid of them.
#pragma once

#include <cstdint>
#include <cstring>

namespace my3dgen {

#ifdef __AVX512F__
constexpr int LANES = 16;
constexpr int TILE = 8;  // samples computed at a time: their sums, two vectors each, stay in registers
#elif defined __SSE2__ && !defined __AVX__
constexpr int LANES = 4;  // as wide as the registers: half the time of 8
constexpr int TILE = 4;
#else
constexpr int LANES = 8;
constexpr int TILE = 4;
#endif

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t VI __attribute__((vector_size(LANES * 4)));

#define INLINE inline __attribute__((always_inline))

INLINE V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

INLINE void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }

INLINE V all(float x) { return x - V{}; }  // the compiler removes x - 0, but not x + 0

INLINE V smaller(V a, V b) { return b < a ? b : a; }  // a where either is NaN: NaN in a is kept

INLINE V larger(V a, V b) { return b > a ? b : a; }

INLINE float sum(V v) {
  typedef float Quad __attribute__((vector_size(16)));
  Quad part[LANES / 4];
  std::memcpy(part, &v, sizeof v);
  for (int i = 1; i < LANES / 4; i++) part[0] += part[i];
  return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
}

// e^x to about one unit in the last place; x is clamped to the range of normal numbers.
INLINE V exp(V x) {
  x = smaller(larger(x, all(-87.0f)), all(88.0f));
  V whole = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
  whole = whole - 12582912.0f;
  const V r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const VI power = (__builtin_convertvector(whole, VI) + 127) << 23;
  V scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|); a Chebyshev fit of log1p(e) / e, relative error 5e-9 before rounding.
INLINE V softplus(V x) {
  const V e = exp(x > 0.0f ? -x : x);
  V p = e * -0.00325637847f + 0.0199071609f;
  p = p * e - 0.0570642008f;
  p = p * e + 0.106142647f;
  p = p * e - 0.153118631f;
  p = p * e + 0.196781173f;
  p = p * e - 0.249545589f;
  p = p * e + 0.33330004f;
  p = p * e - 0.49999904f;
  p = p * e + 0.999999995f;
  return p * e + larger(x, V{});
}

INLINE V sigmoid(V x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace my3dgen

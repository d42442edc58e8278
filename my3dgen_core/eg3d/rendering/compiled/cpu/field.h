// Radiance field at points: lookup in tri-planes, decoder, and the backward passes of both.
#pragma once

#include <cmath>

#include "simd.h"

namespace my3dgen {

constexpr int CHANNELS = 32, HIDDEN = 64, COLORS = 32;

// Planes of one scene: channel c of plane p at column x of row y is data[p * plane + y * row + x * column + c].
struct Planes {
  const float* data;
  int64_t plane, row, column;
  int height, width;
  float scale;  // 2 / box_warp
};

// Planes of several scenes, contiguous [scenes, 3, height, width, CHANNELS]; a single one is that of every camera.
struct Scenes {
  Planes first;
  int64_t size;  // of a scene, in numbers
  bool one;

  Scenes(const float* data, int64_t scenes, int64_t height, int64_t width, double box_warp)
      : first{data, height * width * CHANNELS, width * CHANNELS, CHANNELS, int(height), int(width), float(2 / box_warp)},
        size(3 * first.plane), one(scenes == 1) {}

  Planes operator[](int64_t scene) const {
    Planes planes = first;
    if (!one) planes.data += scene * size;
    return planes;
  }
};

// Decoder weights, also transposed, in the memory orders that products with rows of samples need.
struct Decoder {
  alignas(64) float w0[HIDDEN * CHANNELS], w0t[CHANNELS * HIDDEN], b0[HIDDEN];
  alignas(64) float w1[(1 + COLORS) * HIDDEN], w1t[HIDDEN * COLORS], b1[COLORS];  // w1t, b1: colors only
  float b_density;

  Decoder(const float* weight0, const float* bias0, const float* weight1, const float* bias1) {
    for (int h = 0; h < HIDDEN; h++) {
      b0[h] = bias0[h];
      for (int c = 0; c < CHANNELS; c++)
        w0[h * CHANNELS + c] = w0t[c * HIDDEN + h] = weight0[h * CHANNELS + c];
    }
    for (int i = 0; i < (1 + COLORS) * HIDDEN; i++) w1[i] = weight1[i];
    for (int c = 0; c < COLORS; c++) {
      b1[c] = bias1[1 + c];
      for (int h = 0; h < HIDDEN; h++) w1t[h * COLORS + c] = w1[(1 + c) * HIDDEN + h];
    }
    b_density = bias1[0];
  }
};

// Four texels around each of LANES points on one plane; texels outside have weight 0.
struct Taps {
  alignas(64) int32_t at[4][LANES];
  alignas(64) float weight[4][LANES];
};

// Locates points (u along the width, v along the height) on a plane, as torch's grid_sample does: bilinear,
// align_corners=False, zeros outside.
INLINE void locate(const Planes& planes, V u, V v, Taps& taps) {
  const float w = planes.width, h = planes.height;
  V x = ((u * planes.scale + 1.0f) * w - 1.0f) * 0.5f, y = ((v * planes.scale + 1.0f) * h - 1.0f) * 0.5f;
  // All weights are 0 this far outside; the limits keep the indices within integers. NaN becomes -2.
  x = x > -2.0f ? smaller(x, all(w + 1.0f)) : all(-2.0f);
  y = y > -2.0f ? smaller(y, all(h + 1.0f)) : all(-2.0f);
  VI left = __builtin_convertvector(x + 2.0f, VI) - 2, top = __builtin_convertvector(y + 2.0f, VI) - 2;
  const V right_part = x - __builtin_convertvector(left, V), bottom_part = y - __builtin_convertvector(top, V);
  for (int corner = 0; corner < 4; corner++) {
    const VI column = left + (corner & 1), row = top + (corner >> 1);
    const V weight = ((corner & 1) ? right_part : 1.0f - right_part) *
                     ((corner >> 1) ? bottom_part : 1.0f - bottom_part);
    const VI inside = (column >= 0) & (column < planes.width) & (row >= 0) & (row < planes.height);
    const V kept = inside ? weight : V{};
    const VI at = (row * int32_t(planes.row) + column * int32_t(planes.column)) & inside;
    std::memcpy(taps.at[corner], &at, sizeof at);
    std::memcpy(taps.weight[corner], &kept, sizeof kept);
  }
}

// Coordinates on plane p: XY, XZ and ZX, as in all released models.
INLINE void project(int p, const float* x, const float* y, const float* z, V& u, V& v) {
  u = load(p == 2 ? z : x);
  v = load(p == 0 ? y : p == 1 ? z : x);
}

// Mean plane features [n, CHANNELS] of n points; x, y, z and features are padded to a multiple of LANES.
inline void gather(const Planes& planes, const float* x, const float* y, const float* z, int n, float* features) {
  Taps taps[3];
  for (int i = 0; i < n; i += LANES) {
    for (int p = 0; p < 3; p++) {
      V u, v;
      project(p, x + i, y + i, z + i, u, v);
      locate(planes, u, v, taps[p]);
    }
    for (int l = 0; l < LANES; l++) {
      V total[CHANNELS / LANES] = {};
      for (int p = 0; p < 3; p++)
        for (int corner = 0; corner < 4; corner++) {
          const float* texel = planes.data + p * planes.plane + taps[p].at[corner][l];
          const V weight = all(taps[p].weight[corner][l]);
          for (int c = 0; c < CHANNELS / LANES; c++) total[c] += weight * load(texel + c * LANES);
        }
      for (int c = 0; c < CHANNELS / LANES; c++)
        store(features + (i + l) * CHANNELS + c * LANES, total[c] * (1.0f / 3.0f));
    }
  }
}

// Adds gradients [n, CHANNELS] of mean features to LANES channels of plane p: the backward pass of gather.
inline void scatter(
    const Planes& planes, int p, const float* x, const float* y, const float* z, int n, const float* gradient,
    float* out) {
  Taps taps;
  for (int i = 0; i < n; i += LANES) {
    V u, v;
    project(p, x + i, y + i, z + i, u, v);
    locate(planes, u, v, taps);
    for (int l = 0; l < LANES && i + l < n; l++) {
      const V part = load(gradient + (i + l) * CHANNELS) * (1.0f / 3.0f);
      for (int corner = 0; corner < 4; corner++) {
        float* texel = out + p * planes.plane + taps.at[corner][l];
        store(texel, load(texel) + part * taps.weight[corner][l]);
      }
    }
  }
}

// y [n, OUT] = x [n, IN] times w [IN, OUT] plus bias (null: none). Rows of x and y are padded to TILE.
template <int IN, int OUT>
inline void product(const float* x, int n, const float* w, const float* bias, float* y) {
  constexpr int PAIR = 2 * LANES;
  static_assert(OUT % PAIR == 0, "whole pairs of vectors");
  for (int i = 0; i < n; i += TILE)
    for (int o = 0; o < OUT; o += PAIR) {
      V total[TILE][2];
#pragma GCC unroll 8
      for (int t = 0; t < TILE; t++)
        for (int k = 0; k < 2; k++) total[t][k] = bias ? load(bias + o + k * LANES) : V{};
      for (int j = 0; j < IN; j++) {
        const V a = load(w + j * OUT + o), b = load(w + j * OUT + o + LANES);
#pragma GCC unroll 8
        for (int t = 0; t < TILE; t++) {
          const V factor = all(x[(i + t) * IN + j]);
          total[t][0] += factor * a;
          total[t][1] += factor * b;
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < TILE; t++)
        for (int k = 0; k < 2; k++) store(y + (i + t) * OUT + o + k * LANES, total[t][k]);
    }
}

// out [P, Q] += a [n, P] transposed times b [n, Q]: the gradient of a weight from n samples.
template <int P, int Q>
inline void outer(const float* a, const float* b, int n, float* out) {
  constexpr int PAIR = 2 * LANES;
  static_assert(P % TILE == 0 && Q % PAIR == 0, "whole tiles");
  for (int p = 0; p < P; p += TILE)
    for (int q = 0; q < Q; q += PAIR) {
      V total[TILE][2];
#pragma GCC unroll 8
      for (int t = 0; t < TILE; t++)
        for (int k = 0; k < 2; k++) total[t][k] = load(out + (p + t) * Q + q + k * LANES);
      for (int i = 0; i < n; i++) {
        const V first = load(b + i * Q + q), second = load(b + i * Q + q + LANES);
#pragma GCC unroll 8
        for (int t = 0; t < TILE; t++) {
          const V factor = all(a[i * P + p + t]);
          total[t][0] += factor * first;
          total[t][1] += factor * second;
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < TILE; t++)
        for (int k = 0; k < 2; k++) store(out + (p + t) * Q + q + k * LANES, total[t][k]);
    }
}

// Hidden units [n, HIDDEN] after softplus, and raw densities [n].
inline void decode(const Decoder& decoder, const float* features, int n, float* hidden, float* density) {
  product<CHANNELS, HIDDEN>(features, n, decoder.w0t, decoder.b0, hidden);
  for (int i = 0; i < n; i++) {
    V total = {};
    for (int h = 0; h < HIDDEN; h += LANES) {
      const V unit = softplus(load(hidden + i * HIDDEN + h));
      store(hidden + i * HIDDEN + h, unit);
      total += unit * load(decoder.w1 + h);
    }
    density[i] = sum(total) + decoder.b_density;
  }
}

// Colors [n, COLORS] of hidden units [n, HIDDEN].
inline void colorize(const Decoder& decoder, const float* hidden, int n, float* colors) {
  product<HIDDEN, COLORS>(hidden, n, decoder.w1t, decoder.b1, colors);
  for (int i = 0; i < n * COLORS; i += LANES)
    store(colors + i, sigmoid(load(colors + i)) * 1.002f - 0.001f);
}

}  // namespace my3dgen

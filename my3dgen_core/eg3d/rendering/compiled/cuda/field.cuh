// Radiance field at points: tri-planes are looked up by a whole warp, and decoded by one thread per point.
#pragma once

#include "render.h"

namespace my3dgen {

constexpr int WARP = 32;
constexpr int PITCH = CHANNELS + 4;        // of rows in shared memory: adjacent threads use different banks
constexpr int HIDDEN_PITCH = HIDDEN + 4;
constexpr unsigned ALL = 0xffffffffu;

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|); a Chebyshev fit of log1p(e) / e, relative error 5e-9 before rounding.
__device__ inline float softplus(float x) {
  const float e = expf(-fabsf(x));
  float p = e * -0.00325637847f + 0.0199071609f;
  p = p * e - 0.0570642008f;
  p = p * e + 0.106142647f;
  p = p * e - 0.153118631f;
  p = p * e + 0.196781173f;
  p = p * e - 0.249545589f;
  p = p * e + 0.33330004f;
  p = p * e - 0.49999904f;
  p = p * e + 0.999999995f;
  return p * e + fmaxf(x, 0.0f);
}

__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// Position of a sample, and the offset of its scene's planes.
struct Point {
  float x, y, z;
  int64_t scene;

  // A point outside the box, where all planes are zero.
  __device__ Point() : x(NAN), y(NAN), z(NAN), scene(0) {}

  __device__ Point(const Planes& planes, const Rays& rays, int64_t ray, float depth) {
    ray += rays.first;
    const float *o = rays.origins + 3 * ray, *d = rays.directions + 3 * ray;
    x = o[0] + depth * d[0], y = o[1] + depth * d[1], z = o[2] + depth * d[2];
    scene = ray / rays.per_scene * planes.scene;
  }

  // The point of another thread of the warp.
  __device__ Point from(int lane) const {
    Point p;
    p.x = __shfl_sync(ALL, x, lane), p.y = __shfl_sync(ALL, y, lane), p.z = __shfl_sync(ALL, z, lane);
    p.scene = __shfl_sync(ALL, scene, lane);
    return p;
  }
};

// Four texels around a point on plane p (XY, XZ and ZX, as in all released models), as in torch's grid_sample:
// bilinear, align_corners=False, zeros outside.
struct Taps {
  int64_t at[4];
  float weight[4];

  __device__ Taps(const Planes& planes, const Point& point, int p) {
    const float u = p == 2 ? point.z : point.x, v = p == 0 ? point.y : p == 1 ? point.z : point.x;
    float x = ((u * planes.scale + 1.0f) * planes.width - 1.0f) * 0.5f;
    float y = ((v * planes.scale + 1.0f) * planes.height - 1.0f) * 0.5f;
    // All weights are 0 this far outside; the limits keep the indices within integers. NaN becomes -2.
    x = x > -2.0f ? fminf(x, planes.width + 1.0f) : -2.0f;
    y = y > -2.0f ? fminf(y, planes.height + 1.0f) : -2.0f;
    const float left = floorf(x), top = floorf(y);
    const float part_x = x - left, part_y = y - top;
#pragma unroll
    for (int corner = 0; corner < 4; corner++) {
      const int column = int(left) + (corner & 1), row = int(top) + (corner >> 1);
      const bool inside = column >= 0 && column < planes.width && row >= 0 && row < planes.height;
      weight[corner] = inside ? (corner & 1 ? part_x : 1.0f - part_x) * (corner >> 1 ? part_y : 1.0f - part_y) : 0.0f;
      const int64_t texel = (int64_t(p) * planes.height + row) * planes.width + column;
      at[corner] = inside ? point.scene + texel * CHANNELS : -1;
    }
  }
};

// Mean plane features of the warp's 32 points, written to 32 rows; eight threads per point, four channels each.
__device__ inline void gather(const Planes& planes, const Point& own, float* rows) {
  const int lane = threadIdx.x % WARP, channel = lane % 8 * 4;
  __syncwarp();
  for (int step = 0; step < 8; step++) {
    const int row = step * 4 + lane / 8;
    const Point point = own.from(row);
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int p = 0; p < 3; p++) {
      const Taps taps(planes, point, p);
#pragma unroll
      for (int corner = 0; corner < 4; corner++)
        if (taps.at[corner] >= 0) {
          const float4 texel = *reinterpret_cast<const float4*>(planes.data + taps.at[corner] + channel);
          const float weight = taps.weight[corner];
          total.x += weight * texel.x, total.y += weight * texel.y;
          total.z += weight * texel.z, total.w += weight * texel.w;
        }
    }
    const float third = 1.0f / 3.0f;
    *reinterpret_cast<float4*>(rows + row * PITCH + channel) =
        make_float4(total.x * third, total.y * third, total.z * third, total.w * third);
  }
  __syncwarp();
}

// Adds the warp's 32 rows of gradients of mean features to the planes' gradient: the backward pass of gather.
__device__ inline void scatter(const Planes& planes, const Point& own, const float* rows, float* out) {
  const int lane = threadIdx.x % WARP;
  __syncwarp();
  for (int row = 0; row < WARP; row++) {
    const Point point = own.from(row);
    const float part = rows[row * PITCH + lane] * (1.0f / 3.0f);
#pragma unroll
    for (int p = 0; p < 3; p++) {
      const Taps taps(planes, point, p);
#pragma unroll
      for (int corner = 0; corner < 4; corner++)
        if (taps.at[corner] >= 0) atomicAdd(out + taps.at[corner] + lane, taps.weight[corner] * part);
    }
  }
}

// Decoder weights in shared memory: all threads read the same four adjacent numbers at a time.
struct alignas(16) SharedDecoder {
  float w0[HIDDEN][CHANNELS];
  float w1[HIDDEN][COLORS + 4];  // weights of a hidden unit for each color, then for the density
  float b0[HIDDEN], b1[COLORS + 4];

  __device__ void load(const Decoder& decoder) {
    for (int i = threadIdx.x; i < HIDDEN * CHANNELS; i += blockDim.x) w0[i / CHANNELS][i % CHANNELS] = decoder.w0[i];
    for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x) b0[i] = decoder.b0[i];
    for (int i = threadIdx.x; i < HIDDEN * (1 + COLORS); i += blockDim.x)
      w1[i % HIDDEN][(i / HIDDEN + COLORS) % (1 + COLORS)] = decoder.w1[i];
    for (int i = threadIdx.x; i < 1 + COLORS; i += blockDim.x) b1[(i + COLORS) % (1 + COLORS)] = decoder.b1[i];
    __syncthreads();
  }

  // Hidden units h to h + 3, after softplus, of features x.
  __device__ void hidden(const float (&x)[CHANNELS], int h, float (&units)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; j++) units[j] = b0[h + j];
#pragma unroll
    for (int c = 0; c < CHANNELS; c += 4)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float4 w = *reinterpret_cast<const float4*>(&w0[h + j][c]);
        units[j] = fmaf(x[c + 3], w.w, fmaf(x[c + 2], w.z, fmaf(x[c + 1], w.y, fmaf(x[c], w.x, units[j]))));
      }
#pragma unroll
    for (int j = 0; j < 4; j++) units[j] = softplus(units[j]);
  }

  // Adds the contribution of hidden unit h to the raw colors.
  __device__ void add_colors(int h, float unit, float (&colors)[COLORS]) const {
#pragma unroll
    for (int c = 0; c < COLORS; c += 4) {
      const float4 w = *reinterpret_cast<const float4*>(&w1[h][c]);
      colors[c] += unit * w.x, colors[c + 1] += unit * w.y, colors[c + 2] += unit * w.z, colors[c + 3] += unit * w.w;
    }
  }

  __device__ float density(const float (&x)[CHANNELS]) const {
    float total = b1[COLORS];
    for (int h = 0; h < HIDDEN; h += 4) {
      float units[4];
      hidden(x, h, units);
#pragma unroll
      for (int j = 0; j < 4; j++) total += units[j] * w1[h + j][COLORS];
    }
    return total;
  }

  // Sigmoids of the raw colors; also stores the hidden units in `kept`, if it is not null.
  __device__ void brightness(const float (&x)[CHANNELS], float (&bright)[COLORS], float* kept = nullptr) const {
#pragma unroll
    for (int c = 0; c < COLORS; c++) bright[c] = b1[c];
    for (int h = 0; h < HIDDEN; h += 4) {
      float units[4];
      hidden(x, h, units);
#pragma unroll
      for (int j = 0; j < 4; j++) add_colors(h + j, units[j], bright);
      if (kept) *reinterpret_cast<float4*>(kept + h) = make_float4(units[0], units[1], units[2], units[3]);
    }
#pragma unroll
    for (int c = 0; c < COLORS; c++) bright[c] = sigmoid(bright[c]);
  }

  // Gradient of hidden unit h before softplus, from its value and the gradients of raw colors and density; adds
  // its contribution to the gradient of the features.
  __device__ float unit_gradient(
      int h, float unit, const float (&by_color)[COLORS], float by_density, float (&by_x)[CHANNELS]) const {
    float g = by_density * w1[h][COLORS];
#pragma unroll
    for (int c = 0; c < COLORS; c += 4) {
      const float4 w = *reinterpret_cast<const float4*>(&w1[h][c]);
      g = fmaf(by_color[c + 3], w.w, fmaf(by_color[c + 2], w.z, fmaf(by_color[c + 1], w.y, fmaf(by_color[c], w.x, g))));
    }
    g *= 1.0f - expf(-unit);  // the derivative of softplus is a function of its value
#pragma unroll
    for (int c = 0; c < CHANNELS; c += 4) {
      const float4 w = *reinterpret_cast<const float4*>(&w0[h][c]);
      by_x[c] += g * w.x, by_x[c + 1] += g * w.y, by_x[c + 2] += g * w.z, by_x[c + 3] += g * w.w;
    }
    return g;
  }
};

__device__ inline void load_row(const float* row, float (&x)[CHANNELS]) {
#pragma unroll
  for (int c = 0; c < CHANNELS; c += 4) {
    const float4 v = *reinterpret_cast<const float4*>(row + c);
    x[c] = v.x, x[c + 1] = v.y, x[c + 2] = v.z, x[c + 3] = v.w;
  }
}

__device__ inline void store_row(float* row, const float (&x)[CHANNELS]) {
#pragma unroll
  for (int c = 0; c < CHANNELS; c += 4)
    *reinterpret_cast<float4*>(row + c) = make_float4(x[c], x[c + 1], x[c + 2], x[c + 3]);
}

}  // namespace my3dgen

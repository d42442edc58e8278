// What the CUDA kernels offer: plain pointers to float32 on one device, and work put on a stream.
//
// R rays lie one after the other, M to a scene; N samples a ray, from near to far.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace my3dgen {

constexpr int CHANNELS = 32, HIDDEN = 64, COLORS = 32;
constexpr int WEIGHTS = HIDDEN * CHANNELS + HIDDEN + (1 + COLORS) * HIDDEN + 1 + COLORS;  // of the decoder

// Planes [scenes, 3, height, width, CHANNELS] without gaps; `scene` is 0 where one scene serves all rays.
struct Planes {
  const float* data;
  int64_t scene;
  int height, width;
  float scale;  // 2 / box_warp
};

// The decoder's weights as `decoder_weights` gives them: [64, 32], [64], [33, 64], [33].
struct Decoder {
  const float *w0, *b0, *w1, *b1;
};

// `count` rays from number `first` of [R, 3] on; the scene of ray r of them all is r / per_scene. What is said of
// samples, below, is of these rays alone.
struct Rays {
  const float *origins, *directions;
  int64_t count, per_scene, first;
};

// Raw densities [R, n] at depths [R, n].
cudaError_t densities(
    const Planes&, const Decoder&, const Rays&, const float* depths, int n, float* raw, cudaStream_t);

// Fine depths [R, k] where the coarse weights lie; u [R, k] in [0, 1]; scratch [R, n].
cudaError_t place(
    int64_t rays, const float* depths, const float* raw, int n, const float* u, int k, float* scratch, float* fine,
    cudaStream_t);

// Both passes' depths and densities as one, [R, n + k], from near to far.
cudaError_t sort(
    int64_t rays, const float* depths, const float* raw, int n, const float* fine_depths, const float* fine_raw, int k,
    float* sorted_depths, float* sorted_raw, cudaStream_t);

// Depth [R], NaN where nothing was hit, weight [R], and what part of a pixel each sample is: shares [R, n].
cudaError_t composite(
    int64_t rays, const float* depths, const float* raw, int n, float* shares, float* depth, float* weight, cudaStream_t);

// Features [R, COLORS] in [-1, 1].
cudaError_t paint(
    const Planes&, const Decoder&, const Rays&, const float* depths, const float* shares, const float* weight, int n,
    bool white_back, float* features, cudaStream_t);

// Gradients of the outputs: features [R, COLORS], depth [R], weight [R].
struct Incoming {
  const float *features, *depth, *weight;
};

// Buffers of the backward pass, each [R, n].
struct Buffers {
  float *weights, *passed, *seen, *by_density;
  uint8_t* kind;
};

// Blocks that `backward` will use: each writes WEIGHTS numbers.
cudaError_t backward_blocks(int64_t rays, int n, int* blocks);

// Adds to the planes' gradient; writes the decoder's, in parts that are still to be summed: parts [blocks, WEIGHTS].
cudaError_t backward(
    const Planes&, const Decoder&, const Rays&, const float* depths, const float* raw, int n, const Incoming&,
    bool white_back, float floor, const Buffers&, float* planes_gradient, float* parts, int blocks, cudaStream_t);

}  // namespace my3dgen

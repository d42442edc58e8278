// Interface of the CUDA kernels: they take pointers to float32 on one device and run on a stream.
//
// Shapes: R rays of all scenes in one row, M per scene; n coarse and k fine samples a ray, from near to far.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace my3dgen {

constexpr int CHANNELS = 32, HIDDEN = 64, COLORS = 32;
constexpr int WEIGHTS = HIDDEN * CHANNELS + HIDDEN + (1 + COLORS) * HIDDEN + 1 + COLORS;  // numbers in the decoder

// Planes [scenes, 3, height, width, CHANNELS], contiguous; `scene`: stride of a scene, 0 if all rays share one.
struct Planes {
  const float* data;
  int64_t scene;
  int height, width;
  float scale;  // 2 / box_warp
};

// Decoder weights as in `Decoder.weights` of decoder.py: [64, 32], [64], [33, 64], [33].
struct Decoder {
  const float *w0, *b0, *w1, *b1;
};

// `count` rays of [R, 3], from number `first` on; ray r belongs to scene r / per_scene. Arrays of samples below
// hold these rays only.
struct Rays {
  const float *origins, *directions;
  int64_t count, per_scene, first;
};

// Computes raw densities [R, n] at depths [R, n].
cudaError_t densities(
    const Planes&, const Decoder&, const Rays&, const float* depths, int n, float* raw, cudaStream_t);

// Places fine depths [R, k] where the coarse weights are large; u [R, k] in [0, 1]; scratch [R, n].
cudaError_t place(
    int64_t rays, const float* depths, const float* raw, int n, const float* u, int k, float* scratch, float* fine,
    cudaStream_t);

// Merges depths and densities of both passes to [R, n + k], from near to far.
cudaError_t sort(
    int64_t rays, const float* depths, const float* raw, int n, const float* fine_depths, const float* fine_raw, int k,
    float* sorted_depths, float* sorted_raw, cudaStream_t);

// Computes depth [R] (NaN where nothing was hit), weight [R], and each sample's share of its pixel [R, n].
cudaError_t composite(
    int64_t rays, const float* depths, const float* raw, int n, float* shares, float* depth, float* weight, cudaStream_t);

// Decodes colors of visible samples and sums them to features [R, COLORS] in [-1, 1].
cudaError_t paint(
    const Planes&, const Decoder&, const Rays&, const float* depths, const float* shares, const float* weight, int n,
    bool white_back, float* features, cudaStream_t);

// Gradients of the outputs: features [R, COLORS], depth [R] and weight [R].
struct Incoming {
  const float *features, *depth, *weight;
};

// Buffers of the backward pass, each [R, n].
struct Buffers {
  float *weights, *passed, *seen, *by_density;
  uint8_t* kind;
};

// Computes the number of blocks of `backward`, each of which writes WEIGHTS numbers.
cudaError_t backward_blocks(int64_t rays, int n, int* blocks);

// Adds to the planes' gradient, and writes that of the decoder in parts [blocks, WEIGHTS] that the caller sums.
cudaError_t backward(
    const Planes&, const Decoder&, const Rays&, const float* depths, const float* raw, int n, const Incoming&,
    bool white_back, float floor, const Buffers&, float* planes_gradient, float* parts, int blocks, cudaStream_t);

}  // namespace my3dgen

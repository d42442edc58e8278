// Compiled renderer on the GPU, in steps: densities of all samples, compositing weights, then colors of the
// visible samples. Only depths, densities and shares of samples are stored; decoded values stay on the chip.

#include "render.h"

#include <algorithm>

#include "ray.cuh"

namespace my3dgen {
namespace {

constexpr int THREADS = 128;      // threads of a block, and samples that it decodes at a time
constexpr int TILE = 64;          // the same in the backward pass, which needs more shared memory
constexpr int GROUP = 16;         // maximum number of rays of a block
constexpr int LISTED = 1536;      // maximum number of their samples, unless one ray has more
constexpr int MARCHING = 64;      // rays of a block in kernels with one thread per ray

template <typename... Parameters, typename... Arguments>
cudaError_t launch(
    void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared, cudaStream_t stream, Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;
  kernel<<<unsigned(blocks), threads, shared, stream>>>(arguments...);
  return cudaGetLastError();
}

int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// Number of rays of a block.
int group_of(int n) { return std::max(1, std::min(GROUP, LISTED / n)); }

size_t list_bytes(int n) { return group_of(n) * n * sizeof(int); }

// Number of blocks that fill the device.
template <typename Kernel>
cudaError_t resident_blocks(Kernel kernel, int threads, size_t shared, int64_t* blocks) {
  int device = 0, processors = 0, each = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared);
  *blocks = int64_t(processors) * std::max(each, 1);
  return error;
}

// Writes the numbers in 0 .. count - 1 for which `wanted` is true, in order, and returns how many there are. All
// threads of the block must call it.
template <typename Wanted>
__device__ int pick(int* list, int count, Wanted wanted) {
  __shared__ int in_warp[THREADS / WARP];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int found = 0;
  for (int start = 0; start < count; start += blockDim.x) {
    const int i = start + threadIdx.x;
    const bool one = i < count && wanted(i);
    const unsigned votes = __ballot_sync(ALL, one);
    if (lane == 0) in_warp[warp] = __popc(votes);
    __syncthreads();
    int before = found + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < int(blockDim.x) / WARP; w++) {
      if (w < warp) before += in_warp[w];
      found += in_warp[w];
    }
    if (one) list[before] = i;
    __syncthreads();
  }
  return found;
}

__global__ void __launch_bounds__(THREADS) densities_kernel(
    Planes planes, Decoder decoder, Rays rays, const float* depths, int n, float* raw) {
  __shared__ SharedDecoder net;
  alignas(16) __shared__ float rows[THREADS * PITCH];
  net.load(decoder);
  const int64_t count = rays.count * n, step = int64_t(gridDim.x) * THREADS;
  for (int64_t start = int64_t(blockIdx.x) * THREADS; start < count; start += step) {
    const int64_t i = start + threadIdx.x;
    gather(planes, i < count ? Point(planes, rays, i / n, depths[i]) : Point(), rows + threadIdx.x / WARP * WARP * PITCH);
    float x[CHANNELS];
    load_row(rows + threadIdx.x * PITCH, x);
    const float density = net.density(x);
    if (i < count) raw[i] = density;
  }
}

__global__ void __launch_bounds__(THREADS) paint_kernel(
    Planes planes, Decoder decoder, Rays rays, const float* depths, const float* shares, const float* weight, int n,
    int group, bool white_back, float* features) {
  __shared__ SharedDecoder net;
  alignas(16) __shared__ float rows[THREADS * PITCH];
  __shared__ int bounds[GROUP + 1];
  extern __shared__ int list[];
  const int64_t first = int64_t(blockIdx.x) * group;
  const int many = int(min(int64_t(group), rays.count - first)), lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  depths += first * n, shares += first * n;
  net.load(decoder);
  const int found = pick(list, many * n, [&](int i) { return !(fabsf(shares[i]) < NOTHING); });
  if (threadIdx.x <= GROUP) {
    int low = 0, high = found;  // index of the first listed sample of this ray
    while (low < high) {
      const int at = (low + high) / 2;
      if (list[at] < int(threadIdx.x) * n)
        low = at + 1;
      else
        high = at;
    }
    bounds[threadIdx.x] = low;
  }
  __syncthreads();
  constexpr int WARPS = THREADS / WARP;
  float sums[GROUP / WARPS] = {};  // for rays warp, warp + WARPS, ... and the lane's channel
  for (int start = 0; start < found; start += THREADS) {
    const bool active = start + int(threadIdx.x) < found;
    const int i = active ? list[start + threadIdx.x] : 0;
    gather(planes, active ? Point(planes, rays, first + i / n, depths[i]) : Point(), rows + warp * WARP * PITCH);
    float x[CHANNELS], color[COLORS];
    load_row(rows + threadIdx.x * PITCH, x);
    net.brightness(x, color);
#pragma unroll
    for (int c = 0; c < COLORS; c++) color[c] = (color[c] * 1.002f - 0.001f) * shares[i];
    store_row(rows + threadIdx.x * PITCH, color);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < GROUP / WARPS; j++) {
      const int ray = warp + j * WARPS, to = min(bounds[ray + 1], start + THREADS);
      for (int entry = max(bounds[ray], start); entry < to; entry++) sums[j] += rows[(entry - start) * PITCH + lane];
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < GROUP / WARPS; j++) {
    const int ray = warp + j * WARPS;
    if (ray >= many) continue;
    const float behind = white_back ? 1 - weight[first + ray] : 0;
    features[(first + ray) * COLORS + lane] = (sums[j] + behind) * 2 - 1;
  }
}

// Products of the gradients of the features and each sample's colors; 0 for samples that are not needed.
__global__ void __launch_bounds__(THREADS) see_kernel(
    Planes planes, Decoder decoder, Rays rays, const float* depths, int n, int group, const float* features,
    const uint8_t* kind, float* seen) {
  __shared__ SharedDecoder net;
  alignas(16) __shared__ float rows[THREADS * PITCH];
  extern __shared__ int list[];
  const int64_t first = int64_t(blockIdx.x) * group;
  const int many = int(min(int64_t(group), rays.count - first)), warp = threadIdx.x / WARP;
  depths += first * n, kind += first * n, seen += first * n;
  net.load(decoder);
  for (int i = threadIdx.x; i < many * n; i += THREADS)
    if (kind[i] == IDLE) seen[i] = 0;
  const int found = pick(list, many * n, [&](int i) { return kind[i] != IDLE; });
  for (int start = 0; start < found; start += THREADS) {
    const bool active = start + int(threadIdx.x) < found;
    const int i = active ? list[start + threadIdx.x] : 0;
    const int64_t ray = first + i / n;
    gather(planes, active ? Point(planes, rays, ray, depths[i]) : Point(), rows + warp * WARP * PITCH);
    float x[CHANNELS], color[COLORS], total = 0;
    load_row(rows + threadIdx.x * PITCH, x);
    net.brightness(x, color);
#pragma unroll
    for (int c = 0; c < COLORS; c++) total += 2 * features[ray * COLORS + c] * (color[c] * 1.002f - 0.001f);
    if (active) seen[i] = total;
  }
}

// sum += wide [TILE, 64] transposed times narrow [TILE, 32]; each thread has 8 x 4 numbers of the result.
__device__ void outer(const float* wide, const float* narrow, float (&sum)[8][4]) {
  wide += threadIdx.x / 8 * 8, narrow += threadIdx.x % 8 * 4;
  for (int s = 0; s < TILE; s++) {
    const float4 b = *reinterpret_cast<const float4*>(narrow + s * PITCH);
#pragma unroll
    for (int half = 0; half < 8; half += 4) {
      const float4 a = *reinterpret_cast<const float4*>(wide + s * HIDDEN_PITCH + half);
      const float factors[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        sum[half + j][0] += factors[j] * b.x, sum[half + j][1] += factors[j] * b.y;
        sum[half + j][2] += factors[j] * b.z, sum[half + j][3] += factors[j] * b.w;
      }
    }
  }
}

// Shared memory of the backward pass; the list of samples follows it.
struct alignas(16) Bench {
  SharedDecoder net;
  float x[TILE * PITCH];              // features, then their gradients
  float colors[TILE * PITCH];         // gradients of raw colors, then of the raw density
  float hidden[TILE * HIDDEN_PITCH];  // hidden units, then their gradients
};

__global__ void __launch_bounds__(TILE) decode_backward_kernel(
    Planes planes, Decoder decoder, Rays rays, const float* depths, int n, int group, const float* features,
    Buffers buffers, float* planes_gradient, float* parts) {
  static_assert(TILE == HIDDEN && CHANNELS == COLORS, "a thread a hidden unit; outer() serves both layers");
  extern __shared__ float4 memory[];
  Bench& bench = *reinterpret_cast<Bench*>(memory);
  int* list = reinterpret_cast<int*>(&bench + 1);
  const SharedDecoder& net = bench.net;
  const int self = threadIdx.x, warp = self / WARP;
  float *rows = bench.x + warp * WARP * PITCH, *x_row = bench.x + self * PITCH;
  float *color_row = bench.colors + self * PITCH, *hidden_row = bench.hidden + self * HIDDEN_PITCH;
  float d0[8][4] = {}, d1[8][4] = {}, by_density = 0, e0 = 0, e1 = 0, e_density = 0;
  bench.net.load(decoder);
  for (int64_t first = int64_t(blockIdx.x) * group; first < rays.count; first += int64_t(gridDim.x) * group) {
    const int many = int(min(int64_t(group), rays.count - first));
    const int64_t offset = first * n;
    const int found = pick(list, many * n, [&](int i) { return buffers.kind[offset + i] == KEPT; });
    for (int start = 0; start < found; start += TILE) {
      const bool active = start + self < found;
      const int i = active ? list[start + self] : 0;
      const int64_t ray = first + i / n;
      Point point = active ? Point(planes, rays, ray, depths[offset + i]) : Point();
      gather(planes, point, rows);
      float by_color[COLORS];
      {
        float x[CHANNELS];
        load_row(x_row, x);
        net.brightness(x, by_color, hidden_row);
      }
      const float before = i % n == 0 ? 0 : buffers.weights[offset + i - 1];
      const float share = active ? (before + buffers.weights[offset + i]) / 2 : 0;
      const float density = active ? buffers.by_density[offset + i] : 0;
#pragma unroll
      for (int c = 0; c < COLORS; c++)
        by_color[c] = 2 * features[ray * COLORS + c] * share * 1.002f * by_color[c] * (1 - by_color[c]);
      store_row(color_row, by_color);
      color_row[COLORS] = density;
      __syncthreads();
      outer(bench.hidden, bench.colors, d1);
      for (int s = 0; s < TILE; s++) {
        const float row_density = bench.colors[s * PITCH + COLORS];
        by_density += row_density * bench.hidden[s * HIDDEN_PITCH + self];
        e_density += row_density;
        if (self < COLORS) e1 += bench.colors[s * PITCH + self];
      }
      __syncthreads();
      float by_x[CHANNELS] = {};
      for (int h = 0; h < HIDDEN; h += 4) {
        const float4 unit = *reinterpret_cast<const float4*>(hidden_row + h);
        float g[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
        for (int j = 0; j < 4; j++) g[j] = net.unit_gradient(h + j, g[j], by_color, density, by_x);
        *reinterpret_cast<float4*>(hidden_row + h) = make_float4(g[0], g[1], g[2], g[3]);
      }
      __syncthreads();
      outer(bench.hidden, bench.x, d0);
      for (int s = 0; s < TILE; s++) e0 += bench.hidden[s * HIDDEN_PITCH + self];
      __syncthreads();
      store_row(x_row, by_x);
      // Each scene has its own gradient, also where all share the planes of one.
      point.scene = (rays.first + ray) / rays.per_scene * (3LL * planes.height * planes.width * CHANNELS);
      scatter(planes, point, rows, planes_gradient);
    }
  }
  float* part = parts + int64_t(blockIdx.x) * WEIGHTS;
  const int h = self / 8 * 8, c = self % 8 * 4;
  float *w0 = part, *b0 = w0 + HIDDEN * CHANNELS, *w1 = b0 + HIDDEN, *b1 = w1 + HIDDEN * (1 + COLORS);
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int q = 0; q < 4; q++) {
      w0[(h + j) * CHANNELS + c + q] = d0[j][q];
      w1[(1 + c + q) * HIDDEN + h + j] = d1[j][q];
    }
  b0[self] = e0;
  w1[self] = by_density;
  if (self < COLORS) b1[1 + self] = e1;
  if (self == 0) b1[0] = e_density;
}

size_t bench_bytes(int n) { return sizeof(Bench) + list_bytes(n); }

}  // namespace

cudaError_t densities(
    const Planes& planes, const Decoder& decoder, const Rays& rays, const float* depths, int n, float* raw,
    cudaStream_t stream) {
  int64_t blocks = 0;
  const cudaError_t error = resident_blocks(densities_kernel, THREADS, 0, &blocks);
  if (error != cudaSuccess) return error;
  blocks = std::min(blocks, parts(rays.count * n, THREADS));
  return launch(densities_kernel, blocks, THREADS, 0, stream, planes, decoder, rays, depths, n, raw);
}

cudaError_t place(
    int64_t rays, const float* depths, const float* raw, int n, const float* u, int k, float* scratch, float* fine,
    cudaStream_t stream) {
  return launch(
      place_kernel, parts(rays, MARCHING), MARCHING, 0, stream, rays, depths, raw, n, u, k, scratch, fine);
}

cudaError_t sort(
    int64_t rays, const float* depths, const float* raw, int n, const float* fine_depths, const float* fine_raw, int k,
    float* sorted_depths, float* sorted_raw, cudaStream_t stream) {
  return launch(
      sort_kernel, parts(rays, THREADS / WARP), THREADS, 0, stream, rays, depths, raw, n, fine_depths, fine_raw, k,
      sorted_depths, sorted_raw);
}

cudaError_t composite(
    int64_t rays, const float* depths, const float* raw, int n, float* shares, float* depth, float* weight,
    cudaStream_t stream) {
  return launch(
      composite_kernel, parts(rays, MARCHING), MARCHING, 0, stream, rays, depths, raw, n, shares, depth, weight);
}

cudaError_t paint(
    const Planes& planes, const Decoder& decoder, const Rays& rays, const float* depths, const float* shares,
    const float* weight, int n, bool white_back, float* features, cudaStream_t stream) {
  const int group = group_of(n);
  return launch(
      paint_kernel, parts(rays.count, group), THREADS, list_bytes(n), stream, planes, decoder, rays, depths, shares,
      weight, n, group, white_back, features);
}

cudaError_t backward_blocks(int64_t rays, int n, int* blocks) {
  const size_t shared = bench_bytes(n);
  cudaError_t error =
      cudaFuncSetAttribute(decode_backward_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
  int64_t most = 0;
  if (error == cudaSuccess) error = resident_blocks(decode_backward_kernel, TILE, shared, &most);
  *blocks = int(std::min(most, parts(rays, group_of(n))));
  return error;
}

cudaError_t backward(
    const Planes& planes, const Decoder& decoder, const Rays& rays, const float* depths, const float* raw, int n,
    const Incoming& in, bool white_back, float floor, const Buffers& buffers, float* planes_gradient, float* parts_,
    int blocks, cudaStream_t stream) {
  const int group = group_of(n);
  const int64_t marching = parts(rays.count, MARCHING);
  cudaError_t error = launch(
      sift_kernel, marching, MARCHING, 0, stream, rays.count, depths, raw, n, floor, buffers.weights, buffers.passed,
      buffers.kind);
  if (error == cudaSuccess)
    error = launch(
        see_kernel, parts(rays.count, group), THREADS, list_bytes(n), stream, planes, decoder, rays, depths, n, group,
        in.features, buffers.kind, buffers.seen);
  if (error == cudaSuccess)
    error = launch(
        march_backward_kernel, marching, MARCHING, 0, stream, rays.count, depths, raw, n, in, white_back, buffers);
  if (error == cudaSuccess)
    error = launch(
        decode_backward_kernel, blocks, TILE, bench_bytes(n), stream, planes, decoder, rays, depths, n, group,
        in.features, buffers, planes_gradient, parts_);
  return error;
}

}  // namespace my3dgen

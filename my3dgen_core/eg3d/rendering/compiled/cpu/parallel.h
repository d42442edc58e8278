// Work shared among threads by OpenMP, and the border to C: no exception leaves the library.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <new>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace my3dgen {

// Calls work(first, last) for equal contiguous parts of [0, count), one for each of up to `threads` threads.
template <class Work>
void parallel(int64_t count, int64_t threads, const Work& work) {
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(int(std::max<int64_t>(1, std::min(count, threads))))
  {
    const int64_t team = omp_get_num_threads(), size = (count + team - 1) / team;
    const int64_t first = omp_get_thread_num() * size, last = std::min(first + size, count);
    try {
      if (first < last) work(first, last);
    } catch (const std::exception&) {
      failed = true;
    }
  }
  if (failed) throw std::bad_alloc();
}

// Runs a function; returns 0, or 1 where memory runs out: nothing else here throws.
template <class Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // namespace my3dgen

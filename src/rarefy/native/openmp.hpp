#pragma once

#include <cstddef>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace rarefy {

// OpenMP's runtime, if the process has one whose symbols all may see. Threads of our own would wait for those of torch,
// which keep a processor busy for a while after each of its products.
struct OpenMP {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*most)() = nullptr;
  int (*threads)() = nullptr;
  int (*thread)() = nullptr;

  OpenMP() {
#if defined(__unix__) || defined(__APPLE__)
    parallel = reinterpret_cast<decltype(parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    most = reinterpret_cast<decltype(most)>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
    threads = reinterpret_cast<decltype(threads)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
    thread = reinterpret_cast<decltype(thread)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
#endif
  }
  bool there() const { return parallel && most && threads && thread; }
};

inline const OpenMP& openmp() {
  static const OpenMP found;
  return found;
}

constexpr size_t kShared = 1 << 16;  // products below which one thread is faster than several

// work(begin, end) on all of `count` pieces, shared among threads where they come to so many products.
template <class Work>
void shared(size_t count, size_t products, const Work& work) {
  struct Job {
    const Work& work;
    size_t count;
  } job{work, count};
  if (products <= kShared || !openmp().there() || openmp().most() < 2) return work(0, count);
  const auto share = [](void* with) {
    const Job& mine = *static_cast<const Job*>(with);
    const size_t me = size_t(openmp().thread()), all = size_t(openmp().threads());
    mine.work(mine.count * me / all, mine.count * (me + 1) / all);
  };
  openmp().parallel(share, &job, unsigned(openmp().most()), 0);
}

}  // namespace rarefy

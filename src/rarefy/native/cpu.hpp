// Which instruction sets this machine may use; the same results on every path.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define RAREFY_X86 1
#define RAREFY_AVX2 __attribute__((target("avx2,popcnt")))
#define RAREFY_FMA __attribute__((target("avx2,fma")))
#define RAREFY_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,popcnt")))
#else
#define RAREFY_X86 0
#endif
// Into functions of several targets, each of which then decides the vector width.
#if defined(__GNUC__) || defined(__clang__)
#define RAREFY_INLINE inline __attribute__((always_inline))
#else
#define RAREFY_INLINE inline
#endif

namespace rarefy {

enum class Path { scalar, avx2, avx512 };

inline Path best_path() {
#if RAREFY_X86
  static const Path best = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("popcnt")) return Path::scalar;
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512cd");
    return avx512 ? Path::avx512 : Path::avx2;
  }();
  return best;
#else
  return Path::scalar;
#endif
}

// Whether a path may go by RAREFY_FMA.
inline bool has_fma(Path path) {
#if RAREFY_X86
  return path >= Path::avx2 && __builtin_cpu_supports("fma");
#else
  (void)path;
  return false;
#endif
}

inline std::vector<std::string> path_names() {
  std::vector<std::string> names{"scalar"};
  if (best_path() >= Path::avx2) names.emplace_back("avx2");
  if (best_path() >= Path::avx512) names.emplace_back("avx512");
  return names;
}

inline Path path_from(const std::string& name) {
  if (name.empty()) return best_path();
  const auto names = path_names();
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<Path>(i);
  throw std::invalid_argument("path '" + name + "' is not available on this machine");
}

}  // namespace rarefy

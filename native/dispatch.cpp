// Picks the kernels that this CPU runs.
#include <cstring>

#include "kernels.h"

namespace everloop {

const Kernels* find_kernels(const char* name) {
  const Kernels* found[4];
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    if (__builtin_cpu_supports("avx512bf16")) found[count++] = &avx512bf16::kernels;
    found[count++] = &avx512vnni::kernels;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    found[count++] = &avx2::kernels;
#endif
  found[count++] = &portable::kernels;
  if (!name || !*name) return found[0];
  for (int i = 0; i < count; ++i)
    if (!std::strcmp(found[i]->name, name)) return found[i];
  return nullptr;
}

}  // namespace everloop

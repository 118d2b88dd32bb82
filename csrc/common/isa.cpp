#include "common/isa.hpp"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#if defined(METAFAST_X86_LEVELS)
#include <cpuid.h>
#endif

namespace metafast {
namespace {

#if defined(METAFAST_X86_LEVELS)

bool has_bits(std::uint32_t word, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(word >> bit & 1u)) return false;
  return true;
}

// cpuid and xgetbv by hand (Intel SDM volume 1, chapter 13): a level needs the processor's instructions and an
// operating system that saves the registers they use.
Isa detect() {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::x86_64_v2;
  // FMA, MOVBE, OSXSAVE, AVX, F16C
  if (!has_bits(c, {12, 22, 27, 28, 29})) return Isa::x86_64_v2;
  std::uint32_t xcr0 = 0, xcr0_high = 0;
  __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
  if (!has_bits(xcr0, {1, 2})) return Isa::x86_64_v2;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::x86_64_v2;
  const std::uint32_t leaf7 = b;
  // BMI1, AVX2, BMI2, and LZCNT from the extended leaf
  std::uint32_t extended = 0;
  if (!__get_cpuid(0x80000001, &a, &b, &extended, &d)) return Isa::x86_64_v2;
  if (!has_bits(leaf7, {3, 5, 8}) || !has_bits(extended, {5})) return Isa::x86_64_v2;
  // AVX-512 F, DQ, CD, BW, VL, and their register state
  if (!has_bits(leaf7, {16, 17, 28, 30, 31}) || !has_bits(xcr0, {5, 6, 7})) return Isa::x86_64_v3;
  return Isa::x86_64_v4;
}

constexpr Isa kLevels[] = {Isa::x86_64_v4, Isa::x86_64_v3, Isa::x86_64_v2};

#else

Isa detect() { return Isa::baseline; }
constexpr Isa kLevels[] = {Isa::baseline};

#endif

constexpr int kLevelCount = sizeof(kLevels) / sizeof(kLevels[0]);

const Isa kDetected = detect();
std::atomic<Isa> g_current{kDetected};

}  // namespace

Isa current_isa() noexcept { return g_current.load(std::memory_order_relaxed); }

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::x86_64_v4:
      return "x86-64-v4";
    case Isa::x86_64_v3:
      return "x86-64-v3";
    case Isa::x86_64_v2:
      return "x86-64-v2";
    default:
      return "baseline";
  }
}

const Isa* supported_isas(int& count) noexcept {
  int first = 0;
  while (kLevels[first] != kDetected) ++first;
  count = kLevelCount - first;
  return kLevels + first;
}

bool force_isa(const char* name) noexcept {
  int count = 0;
  const Isa* levels = supported_isas(count);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(isa_name(levels[i]), name) == 0) {
      g_current.store(levels[i], std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace metafast

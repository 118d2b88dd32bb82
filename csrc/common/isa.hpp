// Run-time choice between the copies of a kernel table, one per instruction-set level.
//
// A room declares a struct of function pointers (its kernel table) and writes METAFAST_DISPATCH(Table, table) in its
// header. Its kernel file, compiled once per level, defines `table` inside METAFAST_ISA_NAMESPACE. Callers use
// `metafast::table()`, which returns the copy for the level in force.
#pragma once

namespace metafast {

enum class Isa { baseline, x86_64_v2, x86_64_v3, x86_64_v4 };

// The level in force: the best that this processor and operating system support, or the one that METAFAST_ISA or
// force_isa names.
Isa current_isa() noexcept;

const char* isa_name(Isa isa) noexcept;

// The levels this machine can run, best first; `count` receives how many.
const Isa* supported_isas(int& count) noexcept;

// Returns false, and changes nothing, where `name` is not a level that this machine can run.
bool force_isa(const char* name) noexcept;

}  // namespace metafast

#if defined(METAFAST_X86_LEVELS)
#define METAFAST_DISPATCH(Table, table)       \
  namespace isa_v2 {                          \
  extern const Table table;                   \
  }                                           \
  namespace isa_v3 {                          \
  extern const Table table;                   \
  }                                           \
  namespace isa_v4 {                          \
  extern const Table table;                   \
  }                                           \
  static inline const Table& table() noexcept {      \
    switch (current_isa()) {                  \
      case Isa::x86_64_v4:                    \
        return isa_v4::table;                 \
      case Isa::x86_64_v3:                    \
        return isa_v3::table;                 \
      default:                                \
        return isa_v2::table;                 \
    }                                         \
  }
#else
#define METAFAST_DISPATCH(Table, table)  \
  namespace isa_baseline {               \
  extern const Table table;              \
  }                                      \
  static inline const Table& table() noexcept { return isa_baseline::table; }
#endif

// The slice scheduler: one process-wide pool of threads that share out numbered slices of a piece of work.
//
// The caller cuts its work into slices by size alone, never by the number of threads, so a result has the same bits
// for any thread count. Every thread, the caller included, claims unclaimed slices, its own share of them first, until
// none is left. The caller waits only for slices that another thread has begun: a helper that never gets a core (because another
// process, or the spinning worker of another library, holds it) costs nothing.
//
// A helper that still watches from a call a moment ago joins at once, for well under a microsecond; to wake a sleeping
// one costs the caller 5 to 15 us, and it comes after 20 to 60. Work shorter than that is better called with
// max_threads = 1.
#pragma once

#include <cstdint>

namespace metafast {

// May not throw: there is nobody to catch it in another thread.
using SliceFunction = void (*)(void* context, std::int64_t slice);

// Called by the caller's thread between its slices, a few times a second; returns true to give up the rest.
using InterruptCheck = bool (*)();

constexpr int kMaxNumThreads = 1024;

// The number of threads a call may use, the caller's own included, in [1, kMaxNumThreads]. The default is the number
// of cores that this process may run on.
int get_num_threads() noexcept;
void set_num_threads(int num_threads) noexcept;

// Runs function(context, slice) once for every slice in [0, num_slices). Uses at most `max_threads` threads (0: no
// limit but get_num_threads). Returns false where `interrupted` ended it early; the slices begun are then finished.
// A call made while the pool serves another, from another thread or from inside a slice, runs in its caller alone.
bool run_slices(SliceFunction function, void* context, std::int64_t num_slices, int max_threads = 0,
                InterruptCheck interrupted = nullptr);

template <class Function>
bool for_each_slice(std::int64_t num_slices, const Function& function, int max_threads = 0,
                    InterruptCheck interrupted = nullptr) {
  const auto call = [](void* context, std::int64_t slice) { (*static_cast<const Function*>(context))(slice); };
  return run_slices(call, const_cast<Function*>(&function), num_slices, max_threads, interrupted);
}

}  // namespace metafast

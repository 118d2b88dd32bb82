#include "common/scheduler.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <thread>
#include <vector>

namespace metafast {
namespace {

using Clock = std::chrono::steady_clock;

// How long an idle worker watches for the next call before it sleeps: the gap between two steps of a training loop,
// short enough that a neighbour on the same core loses nothing it would notice.
constexpr auto kWorkerPatience = std::chrono::microseconds(20);
// How long the caller watches for the slices that helpers have begun before it sleeps.
constexpr auto kCallerPatience = std::chrono::microseconds(50);
constexpr auto kInterruptPeriod = std::chrono::milliseconds(50);

#if defined(__linux__)
using CoreSet = cpu_set_t;
#else
struct CoreSet {};
#endif

inline void pause_core() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// A thread of the batch class has its full share of time, but on waking never drives another off its core: neither
// the caller that wakes it nor a busy neighbour. Where every core is taken, the caller then just does all the work,
// instead of waiting for a helper that was driven off again in the middle of a slice.
void yield_to_others() noexcept {
#if defined(__linux__)
  const sched_param priority{};
  if (sched_getscheduler(0) == SCHED_OTHER) sched_setscheduler(0, SCHED_BATCH, &priority);
#endif
}

// Polls `ready` for at most `patience`; the clock is read once every few dozen polls.
template <class Ready>
bool watch(Ready&& ready, Clock::duration patience) {
  const auto deadline = Clock::now() + patience;
  do {
    for (int poll = 0; poll < 32; ++poll) {
      if (ready()) return true;
      pause_core();
    }
  } while (Clock::now() < deadline);
  return false;
}

// True in a thread that is running a slice: a call made from there would wait for threads that wait for it.
thread_local bool t_inside_slice = false;

constexpr int kMaxShares = 16;

// A contiguous run of slices that one thread claims from first.
struct alignas(64) Share {
  std::atomic<std::int64_t> next_slice{0};
  std::int64_t end = 0;
};

// Lives on the stack of the caller, which leaves only when `helpers` is 0 and nobody can join any more.
//
// The slices are dealt out in one share per thread, and a thread that has emptied its own goes on to the others'. In a
// loop of equal calls a thread thus meets the slices it had before, whose memory is still in its core's cache.
struct Job {
  SliceFunction function;
  void* context;
  int num_shares;
  int seats = 0;  // helpers that may still join; guarded by Pool::mutex_
  std::atomic<int> helpers{0};
  Share shares[kMaxShares];

  Job(SliceFunction function, void* context, std::int64_t num_slices, int num_threads)
      : function(function), context(context), num_shares(std::min(num_threads, kMaxShares)) {
    for (int i = 0; i < num_shares; ++i) {
      shares[i].next_slice.store(num_slices * i / num_shares, std::memory_order_relaxed);
      shares[i].end = num_slices * (i + 1) / num_shares;
    }
  }

  // Claims a slice, from share `home` first; -1 where none is left.
  std::int64_t claim(int home) {
    for (int i = 0; i < num_shares; ++i) {
      Share& share = shares[(home + i) % num_shares];
      if (share.next_slice.load(std::memory_order_relaxed) >= share.end) continue;
      const std::int64_t slice = share.next_slice.fetch_add(1, std::memory_order_relaxed);
      if (slice < share.end) return slice;
    }
    return -1;
  }

  void cancel() {
    for (int i = 0; i < num_shares; ++i) shares[i].next_slice.store(shares[i].end, std::memory_order_relaxed);
  }

  // Claims and runs slices until none is left.
  void work(int home) {
    for (std::int64_t slice = claim(home); slice >= 0; slice = claim(home)) function(context, slice);
  }

  // The same for the caller, which also looks out for an interrupt. Returns false where there was one.
  bool work(InterruptCheck interrupted) {
    auto next_check = Clock::now() + kInterruptPeriod;
    for (std::int64_t slice = claim(0); slice >= 0; slice = claim(0)) {
      function(context, slice);
      if (Clock::now() < next_check) continue;
      if (interrupted()) {
        cancel();
        return false;
      }
      next_check = Clock::now() + kInterruptPeriod;
    }
    return true;
  }

  bool work_as_caller(InterruptCheck interrupted) {
    const bool outer = t_inside_slice;
    t_inside_slice = true;
    const bool completed = interrupted != nullptr ? work(interrupted) : (work(0), true);
    t_inside_slice = outer;
    return completed;
  }
};

class Pool {
 public:
  // Returns true where a job was run (its outcome in `completed`), false where the pool is serving somebody else.
  bool try_run(Job& job, int num_threads, InterruptCheck interrupted, bool& completed) {
    int to_wake;
    {
      std::lock_guard<std::mutex> lock(mutex_);  // nobody holds it for longer than a few instructions
      if (job_ != nullptr) return false;
      while (static_cast<int>(workers_.size()) < num_threads - 1 && start_worker()) {
      }
      job.seats = num_threads - 1;
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_relaxed);
      to_wake = std::min(sleepers_, job.seats);
      if (to_wake > 0) steer_workers_from_this_core();
    }
    // Outside the lock, so that those who wake do not at once wait for it.
    for (int i = 0; i < to_wake; ++i) wake_.notify_one();
    completed = job.work_as_caller(interrupted);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = nullptr;  // nobody joins any more, and the pool is free for the next caller
    }
    const auto done = [&job] { return job.helpers.load(std::memory_order_acquire) == 0; };
    if (!done() && !watch(done, kCallerPatience)) {
      std::unique_lock<std::mutex> lock(mutex_);
      finished_.wait(lock, done);
    }
    return true;
  }

 private:
  // Returns false where the system has no thread to give; the work then goes on with those there are.
  bool start_worker() {
    // Signals, Ctrl-C among them, belong to the threads of the program; faults stay with the thread that makes them.
    sigset_t blocked, previous;
    sigfillset(&blocked);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) sigdelset(&blocked, fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &previous);
    bool started = true;
    try {
      workers_.reserve(workers_.size() + 1);  // may throw, and must not once the thread runs
      std::thread worker([this, home = static_cast<int>(workers_.size()) + 1] { serve(home); });
      workers_.push_back(worker.native_handle());
      worker.detach();
      steered_to_ = {};
    } catch (const std::exception&) {
      started = false;
    }
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    return started;
  }

  // Lets the workers run on the caller's cores but for the one it is on. A thread that wakes tends to be queued on the
  // core where it last slept; where that is the caller's own, it comes only milliseconds later, when the kernel next
  // balances its queues, though another core is idle (measured: 2.9 ms against 40 us).
  void steer_workers_from_this_core() {
#if defined(__linux__)
    CoreSet others;
    if (sched_getaffinity(0, sizeof(others), &others) != 0) return;
    CPU_CLR(sched_getcpu(), &others);
    if (CPU_COUNT(&others) == 0 || CPU_EQUAL(&others, &steered_to_)) return;
    for (pthread_t worker : workers_) pthread_setaffinity_np(worker, sizeof(others), &others);
    steered_to_ = others;
#endif
  }

  void serve(int home) {
    t_inside_slice = true;
    yield_to_others();
    std::uint64_t seen = 0;
    for (;;) {
      watch([&] { return generation_.load(std::memory_order_relaxed) != seen; }, kWorkerPatience);
      if (Job* job = join(seen)) {
        job->work(home);
        leave(*job);
      }
    }
  }

  // Sleeps until there has been a job since `seen`, then takes a seat in it, or returns null where it is over or full.
  Job* join(std::uint64_t& seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto called = [&] { return generation_.load(std::memory_order_relaxed) != seen; };
    if (!called()) {
      ++sleepers_;
      wake_.wait(lock, called);
      --sleepers_;
    }
    seen = generation_.load(std::memory_order_relaxed);
    if (job_ == nullptr || job_->seats == 0) return nullptr;
    --job_->seats;
    job_->helpers.fetch_add(1, std::memory_order_relaxed);
    return job_;
  }

  void leave(Job& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    // From here on the job may be gone. Several callers may be waiting, each for its own helpers: wake them all.
    if (job.helpers.fetch_sub(1, std::memory_order_release) == 1) finished_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  std::atomic<std::uint64_t> generation_{0};  // changed under mutex_, watched without it
  Job* job_ = nullptr;
  int sleepers_ = 0;
  std::vector<pthread_t> workers_;  // they never end
  CoreSet steered_to_{};
};

int default_num_threads() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return std::clamp(CPU_COUNT(&allowed), 1, kMaxNumThreads);
#endif
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxNumThreads);
}

std::atomic<int> g_num_threads{default_num_threads()};

// The pool is made at first use and never destroyed: its threads may be asleep in it when the process exits.
std::atomic<Pool*> g_pool{nullptr};

// In a forked child none of the pool's threads exist and its mutex may be held for ever, so the child drops it
// (leaking a few hundred bytes) and makes its own at first use.
[[maybe_unused]] const int g_fork_handler = pthread_atfork(nullptr, nullptr, [] { g_pool.store(nullptr); });

Pool& pool() {
  Pool* existing = g_pool.load(std::memory_order_acquire);
  if (existing != nullptr) return *existing;
  Pool* fresh = new Pool();
  if (g_pool.compare_exchange_strong(existing, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *existing;
}

}  // namespace

int get_num_threads() noexcept { return g_num_threads.load(std::memory_order_relaxed); }

void set_num_threads(int num_threads) noexcept {
  g_num_threads.store(std::clamp(num_threads, 1, kMaxNumThreads), std::memory_order_relaxed);
}

bool run_slices(SliceFunction function, void* context, std::int64_t num_slices, int max_threads,
                InterruptCheck interrupted) {
  int num_threads = get_num_threads();
  if (max_threads > 0) num_threads = std::min(num_threads, max_threads);
  num_threads = static_cast<int>(std::min<std::int64_t>(num_threads, num_slices));
  Job job(function, context, num_slices, num_threads);
  bool completed = true;
  if (num_threads > 1 && !t_inside_slice && pool().try_run(job, num_threads, interrupted, completed)) return completed;
  return job.work_as_caller(interrupted);
}

}  // namespace metafast

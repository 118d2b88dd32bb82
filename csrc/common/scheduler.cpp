#include "common/scheduler.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace metafast {
namespace {

using Clock = std::chrono::steady_clock;

// How long an idle worker watches for the next call before it sleeps: the gap between two steps of a training loop,
// short enough that a neighbour on the same core loses nothing it would notice.
constexpr auto kWorkerPatience = std::chrono::microseconds(20);
// How long the caller watches for the slices that helpers have begun before it sleeps.
constexpr auto kCallerPatience = std::chrono::microseconds(50);
constexpr auto kInterruptPeriod = std::chrono::milliseconds(50);

inline void pause_core() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
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

struct Job {
  SliceFunction function;
  void* context;
  std::int64_t num_slices;
  int seats;  // helpers that may still join; guarded by Pool::mutex
  std::atomic<std::int64_t> next_slice{0};

  // Claims and runs slices until none is left.
  void work() {
    for (;;) {
      const std::int64_t slice = next_slice.fetch_add(1, std::memory_order_relaxed);
      if (slice >= num_slices) return;
      function(context, slice);
    }
  }

  // The same for the caller, which also looks out for an interrupt. Returns false where there was one.
  bool work(InterruptCheck interrupted) {
    auto next_check = Clock::now() + kInterruptPeriod;
    for (;;) {
      const std::int64_t slice = next_slice.fetch_add(1, std::memory_order_relaxed);
      if (slice >= num_slices) return true;
      function(context, slice);
      if (Clock::now() < next_check) continue;
      if (interrupted()) {
        next_slice.store(num_slices, std::memory_order_relaxed);
        return false;
      }
      next_check = Clock::now() + kInterruptPeriod;
    }
  }
};

class Pool {
 public:
  // Returns true where a job was run (its outcome in `completed`), false where the pool is serving somebody else.
  bool try_run(Job& job, int num_threads, InterruptCheck interrupted, bool& completed) {
    {
      std::lock_guard<std::mutex> lock(mutex_);  // nobody holds it for longer than a few instructions
      if (job_ != nullptr) return false;
      while (num_workers_ < num_threads - 1 && start_worker()) {
      }
      job.seats = num_threads - 1;
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
      if (sleepers_ > 0) wake_.notify_all();
    }
    completed = interrupted ? job.work(interrupted) : (job.work(), true);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = nullptr;  // nobody joins any more
    }
    const auto idle = [this] { return active_.load(std::memory_order_acquire) == 0; };
    if (!idle() && !watch(idle, kCallerPatience)) {
      std::unique_lock<std::mutex> lock(mutex_);
      finished_.wait(lock, idle);
    }
    return true;
  }

 private:
  // Returns false where the system has no thread to give; the work then goes on with those there are.
  bool start_worker() {
    // Signals, Ctrl-C among them, belong to the threads of the program.
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    bool started = true;
    try {
      std::thread([this] { serve(); }).detach();
      ++num_workers_;
    } catch (const std::system_error&) {
      started = false;
    }
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    return started;
  }

  void serve() {
    std::uint64_t seen = 0;
    for (;;) {
      watch([&] { return generation_.load(std::memory_order_acquire) != seen; }, kWorkerPatience);
      Job* job = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        if (generation_.load(std::memory_order_relaxed) == seen) {
          ++sleepers_;
          wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
          --sleepers_;
        }
        seen = generation_.load(std::memory_order_relaxed);
        if (job_ != nullptr && job_->seats > 0) {
          --job_->seats;
          job = job_;
          active_.fetch_add(1, std::memory_order_relaxed);
        }
      }
      if (job == nullptr) continue;
      job->work();
      std::lock_guard<std::mutex> lock(mutex_);
      if (active_.fetch_sub(1, std::memory_order_release) == 1) finished_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> active_{0};
  Job* job_ = nullptr;
  int sleepers_ = 0;
  int num_workers_ = 0;
};

int default_num_threads() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
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
  Job job{function, context, num_slices, 0};
  bool completed = true;
  if (num_threads > 1 && pool().try_run(job, num_threads, interrupted, completed)) return completed;
  if (interrupted) return job.work(interrupted);
  job.work();
  return true;
}

}  // namespace metafast

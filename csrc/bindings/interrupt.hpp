// Ctrl-C in a long native call that runs without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "common/scheduler.hpp"

namespace metafast {

// The scheduler's InterruptCheck: lets Python run its signal handlers, and says whether one raised.
inline bool python_interrupted() {
  pybind11::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

// for_each_slice without the GIL; throws what a signal handler raised (KeyboardInterrupt). Call with the GIL held.
template <class Function>
void for_each_slice_interruptibly(std::int64_t num_slices, const Function& function, int max_threads = 0) {
  bool completed;
  {
    pybind11::gil_scoped_release release;
    completed = for_each_slice(num_slices, function, max_threads, python_interrupted);
  }
  if (!completed) throw pybind11::error_already_set();
}

}  // namespace metafast

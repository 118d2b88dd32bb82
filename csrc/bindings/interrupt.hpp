// Ctrl-C in a long call: what the scheduler asks between slices, and what the binding does about the answer.
#pragma once

#include <pybind11/pybind11.h>

namespace metafast {

// Runs Python's signal handlers; true where one raised (the error is then set). Called without the GIL.
inline bool python_interrupted() {
  pybind11::gil_scoped_acquire held;
  return PyErr_CheckSignals() != 0;
}

}  // namespace metafast

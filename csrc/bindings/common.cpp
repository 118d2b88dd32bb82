// Threads, instruction-set level, and the hooks through which tests and benchmarks reach the common room's kernels.
#include <pthread.h>

#include <pybind11/numpy.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "bindings/interrupt.hpp"
#include "bindings/register.hpp"
#include "common/isa.hpp"
#include "common/scheduler.hpp"
#include "common/vector_math_kernels.hpp"

namespace metafast {
namespace {

std::string supported_names() {
  int count = 0;
  const Isa* levels = supported_isas(count);
  std::string names;
  for (int i = 0; i < count; ++i) names += std::string(i ? ", " : "") + isa_name(levels[i]);
  return names;
}

void checked_force_isa(const std::string& name, const char* source) {
  if (!force_isa(name.c_str()))
    throw py::value_error(std::string(source) + " is '" + name + "', but this machine runs only: " + supported_names());
}

void checked_set_num_threads(long num_threads, const char* source) {
  if (num_threads < 1 || num_threads > kMaxNumThreads)
    throw py::value_error(std::string(source) + " must be between 1 and " + std::to_string(kMaxNumThreads) + ", not " +
                          std::to_string(num_threads));
  set_num_threads(static_cast<int>(num_threads));
}

void read_environment() {
  if (const char* name = std::getenv("METAFAST_ISA")) checked_force_isa(name, "METAFAST_ISA");
  if (const char* text = std::getenv("METAFAST_NUM_THREADS")) {
    char* end = nullptr;
    const long num_threads = std::strtol(text, &end, 10);
    if (end == text || *end != '\0')
      throw py::value_error(std::string("METAFAST_NUM_THREADS must be a whole number, not '") + text + "'");
    checked_set_num_threads(num_threads, "METAFAST_NUM_THREADS");
  }
}

// A C-contiguous, aligned array of exactly this type: nothing is converted or copied on the way to a kernel.
template <class T>
py::array_t<T> checked_array(const py::array& array, const char* name, bool written) {
  if (!py::isinstance<py::array_t<T>>(array))
    throw py::type_error(std::string(name) + " must have dtype " + std::string(py::str(py::dtype::of<T>())) + ", not " +
                         std::string(py::str(array.dtype())));
  constexpr int required = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & required) != required)
    throw py::value_error(std::string(name) + " must be C-contiguous and aligned");
  if (written && !array.writeable()) throw py::value_error(std::string(name) + " must be writeable");
  return py::reinterpret_borrow<py::array_t<T>>(array);
}

void check_apart(const py::array& a, const py::array& b, const char* name) {
  const auto* a_first = static_cast<const char*>(a.data());
  const auto* b_first = static_cast<const char*>(b.data());
  if (a_first < b_first + b.nbytes() && b_first < a_first + a.nbytes())
    throw py::value_error(std::string(name) + " must not overlap the other arrays");
}

void check_size(const py::array& array, py::ssize_t size, const char* name) {
  if (array.size() != size)
    throw py::value_error(std::string(name) + " must have " + std::to_string(size) + " elements, not " +
                          std::to_string(array.size()));
}

template <class Real>
void apply_vector_math(const VectorFunctions<Real>& functions, const std::string& function, const py::array& x,
                       const py::array& out) {
  const auto input = checked_array<Real>(x, "x", false);
  auto output = checked_array<Real>(out, "out", true);
  check_size(out, x.size(), "out");
  check_apart(x, out, "out");
  const auto kernel = function == "sin"    ? functions.sin
                      : function == "cos"  ? functions.cos
                      : function == "exp"  ? functions.exp
                      : function == "tanh" ? functions.tanh
                      : function == "log"  ? functions.log
                                           : nullptr;
  if (kernel == nullptr) throw py::value_error("function must be sin, cos, exp, tanh or log, not '" + function + "'");
  const Real* source = input.data();
  Real* target = output.mutable_data();
  py::gil_scoped_release release;
  kernel(source, target, input.size());
}

template <class Real>
void apply_sincos(const VectorFunctions<Real>& functions, const py::array& x, const py::array& sine,
                  const py::array& cosine) {
  const auto input = checked_array<Real>(x, "x", false);
  auto sine_output = checked_array<Real>(sine, "sine", true);
  auto cosine_output = checked_array<Real>(cosine, "cosine", true);
  check_size(sine, x.size(), "sine");
  check_size(cosine, x.size(), "cosine");
  check_apart(x, sine, "sine");
  check_apart(x, cosine, "cosine");
  check_apart(sine, cosine, "cosine");
  functions.sincos(input.data(), sine_output.mutable_data(), cosine_output.mutable_data(), input.size());
}

void vector_math(const std::string& function, const py::array& x, const py::array& out) {
  if (py::isinstance<py::array_t<float>>(x)) return apply_vector_math(vector_math_kernels().float32, function, x, out);
  apply_vector_math(vector_math_kernels().float64, function, x, out);
}

void vector_sincos_arrays(const py::array& x, const py::array& sine, const py::array& cosine) {
  if (py::isinstance<py::array_t<float>>(x)) return apply_sincos(vector_math_kernels().float32, x, sine, cosine);
  apply_sincos(vector_math_kernels().float64, x, sine, cosine);
}

py::array_t<std::uint32_t> philox(const py::array& counters, const py::array& keys) {
  const auto counter_rows = checked_array<std::uint32_t>(counters, "counters", false);
  const auto key_rows = checked_array<std::uint32_t>(keys, "keys", false);
  if (counters.ndim() != 2 || counters.shape(1) != 4) throw py::value_error("counters must have shape [rows, 4]");
  if (keys.ndim() != 2 || keys.shape(1) != 2 || keys.shape(0) != counters.shape(0))
    throw py::value_error("keys must have shape [rows, 2], with the rows of counters");
  py::array_t<std::uint32_t> words({counters.shape(0), py::ssize_t{4}});
  vector_math_kernels().philox(counter_rows.data(), key_rows.data(), words.mutable_data(), counters.shape(0));
  return words;
}

py::array_t<double> uniform(const py::array& words) {
  const auto pairs = checked_array<std::uint32_t>(words, "words", false);
  if (words.ndim() != 2 || words.shape(1) != 2) throw py::value_error("words must have shape [count, 2]");
  py::array_t<double> result(words.shape(0));
  vector_math_kernels().uniform(pairs.data(), result.mutable_data(), words.shape(0));
  return result;
}

// Runs slices that only keep a core busy, each cut again into `num_inner` slices by a second call from inside it once
// the other threads may have left. Returns how often each inner slice ran and in which thread (by Python's
// threading.get_ident), both [num_slices, num_inner].
py::tuple run_busy_slices(std::int64_t num_slices, std::int64_t nanoseconds, std::int64_t num_inner, int max_threads) {
  if (num_slices < 0 || num_inner < 1) throw py::value_error("num_slices must be at least 0 and num_inner at least 1");
  using Clock = std::chrono::steady_clock;
  py::array_t<std::int32_t> counts({num_slices, num_inner});
  py::array_t<std::uint64_t> threads({num_slices, num_inner});
  std::vector<std::atomic<std::int32_t>> runs(num_slices * num_inner);
  std::vector<std::atomic<std::uint64_t>> runners(num_slices * num_inner);
  for_each_slice_interruptibly(
      num_slices,
      [&](std::int64_t slice) {
        const auto end = Clock::now() + std::chrono::nanoseconds(nanoseconds);
        while (Clock::now() < end) {
        }
        for_each_slice(num_inner, [&](std::int64_t inner) {
          runs[slice * num_inner + inner].fetch_add(1, std::memory_order_relaxed);
          runners[slice * num_inner + inner].store(static_cast<std::uint64_t>(pthread_self()),
                                                   std::memory_order_relaxed);
        });
      },
      max_threads);
  for (std::int64_t i = 0; i < num_slices * num_inner; ++i) {
    counts.mutable_data()[i] = runs[i].load();
    threads.mutable_data()[i] = runners[i].load();
  }
  return py::make_tuple(counts, threads);
}

// What a call costs when its slices are empty: `calls` calls of `num_slices` slices, without the GIL.
void run_empty_slices(std::int64_t calls, std::int64_t num_slices) {
  py::gil_scoped_release release;
  for (std::int64_t call = 0; call < calls; ++call) for_each_slice(num_slices, [](std::int64_t) {});
}

}  // namespace

void register_common(py::module_& module) {
  read_environment();
  module.attr("__version__") = METAFAST_VERSION;
  module.def("get_num_threads", &get_num_threads);
  module.def(
      "set_num_threads", [](long num_threads) { checked_set_num_threads(num_threads, "num_threads"); },
      py::arg("num_threads"));
  module.def("isa", [] { return isa_name(current_isa()); });
  module.def("force_isa", [](const std::string& name) { checked_force_isa(name, "isa"); }, py::arg("isa"));
  module.def("supported_isas", [] {
    int count = 0;
    const Isa* levels = supported_isas(count);
    py::tuple names(count);
    for (int i = 0; i < count; ++i) names[i] = isa_name(levels[i]);
    return names;
  });
  module.def("vector_math", &vector_math, py::arg("function"), py::arg("x"), py::arg("out"));
  module.def("vector_sincos", &vector_sincos_arrays, py::arg("x"), py::arg("sine"), py::arg("cosine"));
  module.def("philox", &philox, py::arg("counters"), py::arg("keys"));
  module.def("uniform", &uniform, py::arg("words"));
  module.def("run_busy_slices", &run_busy_slices, py::arg("num_slices"), py::arg("nanoseconds"),
             py::arg("num_inner") = 1, py::arg("max_threads") = 0);
  module.def("run_empty_slices", &run_empty_slices, py::arg("calls"), py::arg("num_slices"));
}

}  // namespace metafast

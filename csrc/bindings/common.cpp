// Threads, instruction-set level and the scheduler's own test hook.
#include <cstdlib>
#include <string>

#include "bindings/register.hpp"
#include "common/isa.hpp"
#include "common/scheduler.hpp"

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
}

}  // namespace metafast

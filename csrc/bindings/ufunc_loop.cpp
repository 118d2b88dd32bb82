// The inner loops of NumPy's ufuncs, for kernels that must give NumPy's own bits.
#include <pybind11/numpy.h>

#include <cstdint>
#include <utility>

#include "bindings/register.hpp"

namespace metafast {
namespace {

// The head of NumPy's PyUFuncObject, which its C API documents: loop k is functions[k], takes data[k], and is for the
// types types[k * nargs], ..., as NumPy numbers them.
struct Ufunc {
  PyObject_HEAD int nin, nout, nargs;
  int identity;
  void** functions;
  void** data;
  int ntypes;
  int reserved;
  const char* name;
  const char* types;
};

// The addresses of the loop of a function of one number of `type`, and of what the loop wants as its data.
std::pair<std::uintptr_t, std::uintptr_t> ufunc_loop(const py::object& function, const py::dtype& type) {
  if (!py::isinstance(function, py::module_::import("numpy").attr("ufunc")))
    throw py::type_error("function must be a numpy ufunc");
  const auto* ufunc = reinterpret_cast<const Ufunc*>(function.ptr());
  if (ufunc->nin == 1 && ufunc->nout == 1) {
    for (int k = 0; k < ufunc->ntypes; ++k) {
      if (ufunc->types[2 * k] != type.num() || ufunc->types[2 * k + 1] != type.num()) continue;
      return {reinterpret_cast<std::uintptr_t>(ufunc->functions[k]),
              reinterpret_cast<std::uintptr_t>(ufunc->data[k])};
    }
  }
  throw py::value_error("function has no loop from one number of this dtype to another");
}

}  // namespace

void register_ufunc_loop(py::module_& module) {
  module.def("ufunc_loop", &ufunc_loop, py::arg("function"), py::arg("dtype"));
}

}  // namespace metafast

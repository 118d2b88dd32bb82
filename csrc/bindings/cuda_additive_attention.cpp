// Additive attention on CUDA devices: tuples of addresses and strides, which metafast/attention/_additive_cuda.py has
// checked, to the arguments of the kernels.
#include <pybind11/stl.h>

#include <array>
#include <tuple>
#include <utility>

#include "attention/additive_device.hpp"
#include "bindings/cuda_register.hpp"

namespace metafast {
namespace {

using namespace attention;

// (address, batch stride, head stride, row stride), strides in elements; or None.
template <class T>
View<const T> as_view(const py::handle& rows) {
  if (rows.is_none()) return {};
  const auto [address, batch, head, row] =
      rows.cast<std::tuple<std::uintptr_t, std::int64_t, std::int64_t, std::int64_t>>();
  return {as_pointer<const T>(address), batch, head, row};
}

template <class T>
T* as_memory(const py::handle& address) {
  return address.is_none() ? nullptr : as_pointer<T>(address.cast<std::uintptr_t>());
}

// (extents, key, value, score weights, key mask, key lengths, memory of the prepared keys).
template <class T>
DeviceAdditive<T> as_problem(const py::tuple& problem) {
  DeviceAdditive<T> arguments;
  const auto extents = problem[0].cast<std::array<std::int64_t, 6>>();
  arguments.extents = {extents[0], extents[1], extents[2], extents[3], extents[4], extents[5]};
  arguments.key = as_view<T>(problem[1]);
  arguments.value = as_view<T>(problem[2]);
  arguments.score_weight = as_view<T>(problem[3]);
  if (!problem[4].is_none()) {
    const auto [mask, stride] = problem[4].cast<std::pair<std::uintptr_t, std::int64_t>>();
    arguments.selection.mask = as_pointer<const std::uint8_t>(mask);
    arguments.selection.mask_stride = stride;
  }
  arguments.selection.lengths = as_memory<const std::int64_t>(problem[5]);
  const auto memory = problem[6].cast<std::array<std::uintptr_t, 9>>();
  arguments.keys = {as_pointer<T>(memory[0]), as_pointer<T>(memory[1]), as_pointer<T>(memory[2]),
                    as_pointer<T>(memory[3]), as_pointer<T>(memory[4]), as_pointer<T>(memory[5]),
                    as_pointer<std::int32_t>(memory[6]), as_pointer<std::int32_t>(memory[7]),
                    as_pointer<DeviceForm>(memory[8])};
  return arguments;
}

// Calls `function` with a zero of the type of the floats.
template <class Function>
void with_type(bool is_double, const Function& function) {
  if (is_double)
    function(double());
  else
    function(float());
}

void prepare(bool is_double, const py::tuple& problem, int pass, const py::tuple& stream) {
  with_type(is_double, [&](auto zero) {
    const auto arguments = as_problem<decltype(zero)>(problem);
    const Stream queue = as_stream(stream);
    const py::gil_scoped_release released;
    prepare_keys(arguments, static_cast<DevicePass>(pass), queue);
  });
}

void forward(bool is_double, const py::tuple& problem, const py::object& query, const py::object& query_rows,
             const py::object& context, const py::object& weights, const py::tuple& stream) {
  with_type(is_double, [&](auto zero) {
    using T = decltype(zero);
    DeviceAdditiveForward<T> arguments{as_problem<T>(problem)};
    arguments.query = as_view<T>(query);
    arguments.query_rows = as_memory<T>(query_rows);
    arguments.context = as_memory<T>(context);
    arguments.weights = as_memory<T>(weights);
    const Stream queue = as_stream(stream);
    const py::gil_scoped_release released;
    attend(arguments, queue);
  });
}

// `given`: weights, context_gradient, weights_gradient; `scratch`: query rows, scores, key sums, weight sums, and how
// many parts the queries are cut into; `results`: gradients of query, key, value, score_weight.
template <class T>
void fill_backward(DeviceAdditiveBackward<T>& arguments, const py::object& query, const py::tuple& given,
                   const py::tuple& scratch, const py::tuple& results) {
  arguments.query = as_view<T>(query);
  arguments.weights = as_view<T>(given[0]);
  arguments.context_gradient = as_view<T>(given[1]);
  arguments.weights_gradient = as_view<T>(given[2]);
  arguments.query_rows = as_memory<T>(scratch[0]);
  arguments.scores = as_memory<T>(scratch[1]);
  arguments.key_sums = as_memory<T>(scratch[2]);
  arguments.weight_sums = as_memory<T>(scratch[3]);
  arguments.splits = scratch[4].cast<std::int64_t>();
  arguments.query_gradient = as_memory<T>(results[0]);
  arguments.key_gradient = as_memory<T>(results[1]);
  arguments.value_gradient = as_memory<T>(results[2]);
  arguments.score_weight_gradient = as_memory<T>(results[3]);
}

void backward(bool is_double, const py::tuple& problem, const py::object& query, const py::tuple& given,
              const py::tuple& scratch, const py::tuple& results, const py::tuple& stream) {
  with_type(is_double, [&](auto zero) {
    using T = decltype(zero);
    DeviceAdditiveBackward<T> arguments{as_problem<T>(problem)};
    fill_backward(arguments, query, given, scratch, results);
    const Stream queue = as_stream(stream);
    const py::gil_scoped_release released;
    differentiate(arguments, queue);
  });
}

// `cotangents`: of query, key, value, score_weight; `scratch` has p and u too, `results` the gradient of
// context_gradient.
void double_backward(bool is_double, const py::tuple& problem, const py::object& query, const py::tuple& given,
                     const py::tuple& cotangents, const py::tuple& scratch, const py::tuple& results,
                     const py::tuple& stream) {
  with_type(is_double, [&](auto zero) {
    using T = decltype(zero);
    DeviceAdditiveDoubleBackward<T> arguments{{as_problem<T>(problem)}};
    fill_backward(arguments, query, given, scratch, results);
    arguments.query_cotangent = as_view<T>(cotangents[0]);
    arguments.key_cotangent = as_view<T>(cotangents[1]);
    arguments.value_cotangent = as_view<T>(cotangents[2]);
    arguments.score_weight_cotangent = as_view<T>(cotangents[3]);
    arguments.products = as_memory<T>(scratch[5]);
    arguments.inner = as_memory<T>(scratch[6]);
    arguments.context_gradient_gradient = as_memory<T>(results[4]);
    const Stream queue = as_stream(stream);
    const py::gil_scoped_release released;
    differentiate_twice(arguments, queue);
  });
}

}  // namespace

void register_cuda_attention(py::module_& module) {
  using py::arg;
  module.attr("ADDITIVE_CONTEXT_COLUMNS") = kContextColumns;
  module.def("additive_prepare", &prepare, arg("is_double"), arg("problem"), arg("pass_"), arg("stream"));
  module.def("additive_forward", &forward, arg("is_double"), arg("problem"), arg("query"), arg("query_rows"),
             arg("context"), arg("weights"), arg("stream"));
  module.def("additive_backward", &backward, arg("is_double"), arg("problem"), arg("query"), arg("given"),
             arg("scratch"), arg("results"), arg("stream"));
  module.def("additive_double_backward", &double_backward, arg("is_double"), arg("problem"), arg("query"),
             arg("given"), arg("cotangents"), arg("scratch"), arg("results"), arg("stream"));
}

}  // namespace metafast

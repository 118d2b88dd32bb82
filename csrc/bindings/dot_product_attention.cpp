// Dot-product attention: checks arguments, allocates results and scratch memory, runs the kernels' slices.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "attention/dot_product.hpp"
#include "bindings/attention_arrays.hpp"
#include "bindings/interrupt.hpp"

namespace metafast {
namespace {

// Products of a query's and a key's elements, and of a weight and a value's. Below the first number a call takes a few
// microseconds: less than handing the GIL to and fro can cost; below the second, waking a second thread costs more
// than it saves.
constexpr double kProductsWorthReleasing = 1 << 18;
constexpr double kProductsWorthThreads = 1 << 22;
// Turning to the next problem takes as long as this many of them.
constexpr double kProductsPerProblem = 256;

// Scratch memory of the thread that runs a slice, kept for its next one up to a size.
class ScratchMemory {
 public:
  void* of_bytes(std::size_t bytes) {
    if (bytes > bytes_) {
      memory_.reset();
      bytes_ = 0;
      constexpr std::size_t alignment = attention::kScratchAlignment;
      memory_.reset(std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment));
      if (memory_) bytes_ = bytes;
    }
    return memory_.get();
  }
  void release_beyond(std::size_t bytes) {
    if (bytes_ <= bytes) return;
    memory_.reset();
    bytes_ = 0;
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t bytes_ = 0;
};

constexpr std::size_t kScratchBytesKept = std::size_t{4} << 20;
constexpr std::int64_t kMostScratchElements = std::int64_t{1} << 58;  // whose bytes can be counted

// Runs kernel(arguments, slice, scratch) over all slices. A slice may not throw, so memory that runs out is remembered.
template <class T, class Arguments>
void run(void (*kernel)(const Arguments&, std::int64_t, T*), const Arguments& arguments, std::int64_t num_slices,
         std::int64_t scratch_elements) {
  const attention::Extents& e = arguments.extents;
  if (num_slices == 0) return;
  if (scratch_elements > kMostScratchElements) throw std::bad_alloc();
  const double products = static_cast<double>(e.problems()) *
                          (kProductsPerProblem + static_cast<double>(e.queries + 1) * static_cast<double>(e.keys + 1) *
                                                     static_cast<double>(e.width + e.value_width + 1));
  std::atomic<bool> out_of_memory{false};
  const auto solve = [&](std::int64_t slice) {
    thread_local ScratchMemory memory;
    void* scratch = memory.of_bytes(static_cast<std::size_t>(scratch_elements) * sizeof(T) + 1);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    kernel(arguments, slice, static_cast<T*>(scratch));
    memory.release_beyond(kScratchBytesKept);
  };
  if (products < kProductsWorthReleasing) {
    for (std::int64_t slice = 0; slice < num_slices; ++slice) solve(slice);
  } else {
    for_each_slice_interruptibly(num_slices, solve, products < kProductsWorthThreads ? 1 : 0);
  }
  if (out_of_memory) throw std::bad_alloc();
}

py::array query_array(py::handle value) {
  const py::array query = attention_array(value, "query", no_array(), "", {kAny, kAny, kAny, kAny});
  with_float_type(query, "query", [](auto) {});  // before the other arguments are compared with it
  return query;
}

// Query, key, value and which keys take part, checked against one another.
struct Inputs {
  py::array query, key, value;
  py::array mask = no_array(), lengths = no_array();
  attention::Extents extents;
  attention::KeySelection selection;

  Inputs(py::handle query_in, py::handle key_in, py::handle value_in, py::handle mask_in, py::handle lengths_in)
      : query(query_array(query_in)),
        key(attention_array(key_in, "key", query, "query", {query.shape(0), query.shape(1), kAny, query.shape(3)})),
        value(attention_array(value_in, "value", query, "query", {query.shape(0), query.shape(1), key.shape(2), kAny})),
        extents{query.shape(0), query.shape(1), query.shape(2), key.shape(2), query.shape(3), value.shape(3)},
        selection(key_selection(mask_in, lengths_in, extents.batch, extents.keys, mask, lengths)) {}

  template <class Arguments>
  void fill(Arguments& arguments, bool causal, double scale) const {
    using T = decltype(arguments.scale);
    arguments.extents = extents;
    arguments.query = attention_view<T>(query);
    arguments.key = attention_view<T>(key);
    arguments.value = attention_view<T>(value);
    arguments.selection = selection;
    arguments.causal = causal;
    arguments.scale = static_cast<T>(scale);
  }
  py::array empty(std::int64_t rows, std::int64_t columns) const {
    return py::array(query.dtype(), {extents.batch, extents.heads, rows, columns});
  }
  py::array matching(py::handle array, const char* name, std::int64_t rows, std::int64_t columns) const {
    return attention_array(array, name, query, "query", {extents.batch, extents.heads, rows, columns});
  }
};

// The context, or a tuple of it and of the statistics and the weights as far as they are asked for.
py::object forward(py::handle query, py::handle key, py::handle value, py::handle key_mask, py::handle key_lengths,
                   bool causal, double scale, bool return_weights, bool return_statistics) {
  const Inputs inputs(query, key, value, key_mask, key_lengths);
  return with_float_type(inputs.query, "query", [&](auto zero) -> py::object {
    using T = decltype(zero);
    const attention::Extents& extents = inputs.extents;
    attention::DotProduct<T> arguments;
    inputs.fill(arguments, causal, scale);
    py::array context = inputs.empty(extents.queries, extents.value_width), statistics = no_array(),
              weights = no_array();
    arguments.context = attention_result<T>(context);
    if (return_statistics) {
      statistics = inputs.empty(extents.queries, 2);
      arguments.statistics = attention_result<T>(statistics);
    }
    if (return_weights) {
      weights = inputs.empty(extents.queries, extents.keys);
      arguments.weights = attention_result<T>(weights);
    }
    // Without queries every result is empty, however many problems there are.
    const std::int64_t num_slices = extents.queries > 0 ? attention::cut(extents).num_slices : 0;
    const std::int64_t scratch = attention::scratch_elements(extents);
    if constexpr (sizeof(T) == sizeof(float))
      run<T>(dot_product_kernels().forward_float, arguments, num_slices, scratch);
    else
      run<T>(dot_product_kernels().forward_double, arguments, num_slices, scratch);
    if (!return_weights && !return_statistics) return std::move(context);
    if (!return_statistics) return py::make_tuple(context, weights);
    if (!return_weights) return py::make_tuple(context, statistics);
    return py::make_tuple(context, statistics, weights);
  });
}

py::tuple backward(py::handle query, py::handle key, py::handle value, py::handle key_mask, py::handle key_lengths,
                   bool causal, double scale, py::handle context_in, py::handle statistics_in, py::handle weights_in,
                   py::handle context_gradient_in, py::handle weights_gradient_in) {
  const Inputs inputs(query, key, value, key_mask, key_lengths);
  return with_float_type(inputs.query, "query", [&](auto zero) {
    using T = decltype(zero);
    const attention::Extents& extents = inputs.extents;
    attention::DotProductGradient<T> arguments;
    inputs.fill(arguments, causal, scale);
    const py::array context = inputs.matching(context_in, "context", extents.queries, extents.value_width);
    const py::array statistics = inputs.matching(statistics_in, "statistics", extents.queries, 2);
    const py::array context_gradient =
        inputs.matching(context_gradient_in, "context_gradient", extents.queries, extents.value_width);
    py::array weights = no_array(), weights_gradient = no_array();
    arguments.context = attention_view<T>(context);
    arguments.statistics = attention_view<T>(statistics);
    arguments.context_gradient = attention_view<T>(context_gradient);
    if (given(weights_gradient_in)) {
      weights = inputs.matching(weights_in, "weights", extents.queries, extents.keys);
      weights_gradient = inputs.matching(weights_gradient_in, "weights_gradient", extents.queries, extents.keys);
      arguments.weights = attention_view<T>(weights);
      arguments.weights_gradient = attention_view<T>(weights_gradient);
    }
    py::array query_gradient = inputs.empty(extents.queries, extents.width);
    py::array key_gradient = inputs.empty(extents.keys, extents.width);
    py::array value_gradient = inputs.empty(extents.keys, extents.value_width);
    arguments.query_gradient = attention_result<T>(query_gradient);
    arguments.key_gradient = attention_result<T>(key_gradient);
    arguments.value_gradient = attention_result<T>(value_gradient);
    const bool empty = extents.queries == 0 && extents.keys == 0;
    const std::int64_t num_slices = empty ? 0 : attention::cut_gradient(extents).num_slices;
    const std::int64_t scratch = attention::gradient_scratch_elements(extents);
    if constexpr (sizeof(T) == sizeof(float))
      run<T>(dot_product_kernels().backward_float, arguments, num_slices, scratch);
    else
      run<T>(dot_product_kernels().backward_double, arguments, num_slices, scratch);
    return py::make_tuple(query_gradient, key_gradient, value_gradient);
  });
}

}  // namespace

void register_dot_product_attention(py::module_& module) {
  using py::arg;
  module.def("dot_product_attention", &forward, arg("query"), arg("key"), arg("value"), arg("key_mask"),
             arg("key_lengths"), arg("causal"), arg("scale"), arg("return_weights"), arg("return_statistics"));
  module.def("dot_product_attention_gradient", &backward, arg("query"), arg("key"), arg("value"), arg("key_mask"),
             arg("key_lengths"), arg("causal"), arg("scale"), arg("context"), arg("statistics"), arg("weights"),
             arg("context_gradient"), arg("weights_gradient"));
}

}  // namespace metafast

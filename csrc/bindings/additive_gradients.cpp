// The backward and the double backward pass of additive attention: sums for every block of queries, added up in order.
#include "bindings/additive_call.hpp"

namespace metafast {
namespace {

using namespace additive;

// How the queries of a backward pass are cut: every block but one of a problem holds sums of the size of its keys and
// values, so there are only as many as keep a few cores busy.
struct GradientCut {
  std::int64_t queries_per_block;
  std::int64_t blocks;
  std::int64_t problems_per_slice;

  GradientCut(const Extents& extents, std::int64_t sums_bytes) {
    constexpr std::int64_t slices = 16, least_queries = 32, most_bytes = std::int64_t{8} << 20;
    const std::int64_t problems = std::max<std::int64_t>(1, extents.problems());
    const std::int64_t queries = std::max<std::int64_t>(1, extents.queries);
    const double per_query = products_per_query(extents);
    const std::int64_t wanted =
        std::max<std::int64_t>(1, std::min({slices / problems, most_bytes / problems / sums_bytes,
                                            as_many_as(per_query * queries, kProductsPerSlice, slices)}));
    queries_per_block = (queries + wanted - 1) / wanted;
    if (wanted > 1) queries_per_block = (queries_per_block + least_queries - 1) / least_queries * least_queries;
    blocks = (queries + queries_per_block - 1) / queries_per_block;
    problems_per_slice = as_many_as(kProductsPerSlice / 8, per_query * queries, problems);
  }
};

// Runs kernel(problem, begin, end, keys, sums, weight sums, scratch) over all blocks and finishes every problem, then
// adds up the gradient of the score weights.
template <class T, class Kernel>
void run_gradients(const AdditiveBackward<T>& arguments, std::int64_t scratch_bytes, bool times_weights,
                   py::array& score_weight_gradient, const Kernel& kernel) {
  const Extents& extents = arguments.extents;
  const std::int64_t problems = extents.problems(), width = padded<T>(extents.width);
  const std::int64_t sums_bytes = std::max<std::int64_t>(kCacheLine, sums_size<T>(extents) * sizeof(T));
  const std::int64_t key_bytes = prepared_bytes<T>(extents);
  const GradientCut cut(extents, sums_bytes);
  const int threads = num_threads(extents);
  const AdditiveKernels<T>& kernels = additive_table().of<T>();
  const Form form = extents.queries == 1 ? Form::direct : Form::narrow;
  const AlignedMemory weight_memory(problems * cut.blocks * width * sizeof(T));
  const auto weight_sums = [&](std::int64_t slice) {
    return reinterpret_cast<T*>(weight_memory.get()) + slice * width;
  };
  if (cut.blocks == 1) {
    ScratchBlocks scratch(key_bytes + sums_bytes + scratch_bytes, threads);
    const std::int64_t slices = (problems + cut.problems_per_slice - 1) / cut.problems_per_slice;
    for_each_slice_interruptibly(
        slices,
        [&](std::int64_t slice) {
          const ScratchBlocks::Block own(scratch);
          const PreparedKeys<T> keys = place_keys<T>(extents, own.get());
          T* sums = reinterpret_cast<T*>(own.get() + key_bytes);
          const std::int64_t end = std::min(problems, (slice + 1) * cut.problems_per_slice);
          for (std::int64_t problem = slice * cut.problems_per_slice; problem < end; ++problem) {
            kernels.prepare(arguments, problem, form, keys);
            kernel(problem, 0, extents.queries, keys, sums, weight_sums(problem), own.get() + key_bytes + sums_bytes);
            kernels.finish(arguments, problem, keys, sums, 0, 1, times_weights);
          }
        },
        threads);
  } else {
    const AlignedMemory key_memory(problems * key_bytes), sums_memory(problems * cut.blocks * sums_bytes);
    ScratchBlocks scratch(scratch_bytes, threads);
    const auto keys = [&](std::int64_t problem) {
      return place_keys<T>(extents, key_memory.get() + problem * key_bytes);
    };
    const auto sums = [&](std::int64_t slice) { return reinterpret_cast<T*>(sums_memory.get() + slice * sums_bytes); };
    for_each_slice_interruptibly(
        problems, [&](std::int64_t problem) { kernels.prepare(arguments, problem, form, keys(problem)); }, threads);
    for_each_slice_interruptibly(
        problems * cut.blocks,
        [&](std::int64_t slice) {
          const ScratchBlocks::Block own(scratch);
          const std::int64_t problem = slice / cut.blocks, begin = slice % cut.blocks * cut.queries_per_block;
          kernel(problem, begin, std::min(extents.queries, begin + cut.queries_per_block), keys(problem), sums(slice),
                 weight_sums(slice), own.get());
        },
        threads);
    for_each_slice_interruptibly(
        problems,
        [&](std::int64_t problem) {
          kernels.finish(arguments, problem, keys(problem), sums(problem * cut.blocks), sums_bytes / sizeof(T),
                         cut.blocks, times_weights);
        },
        threads);
  }
  T* gradient = static_cast<T*>(score_weight_gradient.mutable_data());
  for (std::int64_t head = 0; head < extents.heads; ++head)
    for (std::int64_t h = 0; h < extents.width; ++h) {
      double sum = 0;
      for (std::int64_t entry = 0; entry < extents.batch; ++entry)
        for (std::int64_t block = 0; block < cut.blocks; ++block)
          sum += weight_sums((entry * extents.heads + head) * cut.blocks + block)[h];
      gradient[head * extents.width + h] = static_cast<T>(sum);
    }
}

// What the backward passes have in common: the forward pass's weights, the gradients of its results, and the new
// arrays for those of its arguments.
template <class T>
struct GradientCall {
  Call<T> call;
  py::array weights, context_gradient, weights_gradient = no_array();
  py::array query_gradient, key_gradient, value_gradient, score_weight_gradient;

  GradientCall(py::handle query, py::handle key, py::handle value, py::handle score_weight, py::handle key_mask,
               py::handle key_lengths, py::handle weights_in, py::handle context_gradient_in,
               py::handle weights_gradient_in, AdditiveBackward<T>& arguments)
      : call(query, key, value, score_weight, key_mask, key_lengths, arguments) {
    const Extents& extents = arguments.extents;
    const std::array<py::ssize_t, 4> square = {extents.batch, extents.heads, extents.queries, extents.keys};
    weights = attention_array(weights_in, "weights", call.query, "query", square, call.ndim);
    context_gradient = attention_array(context_gradient_in, "context_gradient", call.query, "query",
                                       {extents.batch, extents.heads, extents.queries, extents.value_width}, call.ndim);
    arguments.weights = attention_view<T>(weights);
    arguments.context_gradient = attention_view<T>(context_gradient);
    if (given(weights_gradient_in)) {
      weights_gradient =
          attention_array(weights_gradient_in, "weights_gradient", call.query, "query", square, call.ndim);
      arguments.weights_gradient = attention_view<T>(weights_gradient);
    }
    query_gradient = new_attention_array(call.query, {extents.batch, extents.heads, extents.queries, extents.width});
    key_gradient = new_attention_array(call.query, {extents.batch, extents.heads, extents.keys, extents.width});
    value_gradient = new_attention_array(call.query, {extents.batch, extents.heads, extents.keys, extents.value_width});
    score_weight_gradient = py::array(
        call.query.dtype(),
        std::vector<py::ssize_t>(call.score_weight.shape(), call.score_weight.shape() + call.score_weight.ndim()));
    arguments.query_gradient = attention_result<T>(query_gradient);
    arguments.key_gradient = attention_result<T>(key_gradient);
    arguments.value_gradient = attention_result<T>(value_gradient);
  }
};

py::tuple additive_attention_backward(py::handle query, py::handle key, py::handle value, py::handle score_weight,
                                      py::handle key_mask, py::handle key_lengths, py::handle weights,
                                      py::handle context_gradient, py::handle weights_gradient) {
  const py::array first = plain_array(query, "query");
  return with_float_type(first, "query", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    AdditiveBackward<T> arguments;
    GradientCall<T> call(query, key, value, score_weight, key_mask, key_lengths, weights, context_gradient,
                         weights_gradient, arguments);
    const AdditiveKernels<T>& kernels = additive_table().of<T>();
    run_gradients(arguments, kernels.backward_scratch(arguments.extents), true, call.score_weight_gradient,
                  [&](std::int64_t problem, std::int64_t begin, std::int64_t end, const PreparedKeys<T>& keys, T* sums,
                      T* weight_sums, void* scratch) {
                    kernels.backward(arguments, problem, begin, end, keys, sums, weight_sums, scratch);
                  });
    return py::make_tuple(call.query_gradient, call.key_gradient, call.value_gradient, call.score_weight_gradient);
  });
}

py::tuple additive_attention_double_backward(py::handle query, py::handle key, py::handle value,
                                             py::handle score_weight, py::handle key_mask, py::handle key_lengths,
                                             py::handle weights, py::handle context_gradient,
                                             py::handle weights_gradient, py::handle query_cotangent_in,
                                             py::handle key_cotangent_in, py::handle value_cotangent_in,
                                             py::handle score_weight_cotangent_in) {
  const py::array first = plain_array(query, "query");
  return with_float_type(first, "query", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    AdditiveDoubleBackward<T> arguments;
    GradientCall<T> call(query, key, value, score_weight, key_mask, key_lengths, weights, context_gradient,
                         weights_gradient, arguments);
    const Extents& extents = arguments.extents;
    py::array cotangents[3] = {no_array(), no_array(), no_array()}, weight_cotangent = no_array();
    const auto cotangent = [&](py::handle value_in, const char* name, py::array& keep,
                               std::array<py::ssize_t, 4> shape) -> View<const T> {
      if (!given(value_in)) return {};
      keep = attention_array(value_in, name, call.call.query, "query", shape, call.call.ndim);
      return attention_view<T>(keep);
    };
    arguments.query_cotangent = cotangent(query_cotangent_in, "query_cotangent", cotangents[0],
                                          {extents.batch, extents.heads, extents.queries, extents.width});
    arguments.key_cotangent = cotangent(key_cotangent_in, "key_cotangent", cotangents[1],
                                        {extents.batch, extents.heads, extents.keys, extents.width});
    arguments.value_cotangent = cotangent(value_cotangent_in, "value_cotangent", cotangents[2],
                                          {extents.batch, extents.heads, extents.keys, extents.value_width});
    if (given(score_weight_cotangent_in)) {
      weight_cotangent = weight_array(score_weight_cotangent_in, "score_weight_cotangent", call.call.query,
                                      extents.heads, extents.width);
      arguments.score_weight_cotangent = weight_view<T>(weight_cotangent);
    }
    py::array context_result =
        new_attention_array(call.call.query, {extents.batch, extents.heads, extents.queries, extents.value_width});
    arguments.context_gradient_gradient = attention_result<T>(context_result);
    py::object weights_result = py::none();
    if (arguments.weights_gradient) {
      py::array array =
          new_attention_array(call.call.query, {extents.batch, extents.heads, extents.queries, extents.keys});
      arguments.weights_gradient_gradient = attention_result<T>(array);
      weights_result = array;
    }
    const AdditiveKernels<T>& kernels = additive_table().of<T>();
    run_gradients(arguments, kernels.double_backward_scratch(extents), false, call.score_weight_gradient,
                  [&](std::int64_t problem, std::int64_t begin, std::int64_t end, const PreparedKeys<T>& keys, T* sums,
                      T* weight_sums, void* scratch) {
                    kernels.double_backward(arguments, problem, begin, end, keys, sums, weight_sums, scratch);
                  });
    return py::make_tuple(call.query_gradient, call.key_gradient, call.value_gradient, call.score_weight_gradient,
                          context_result, weights_result);
  });
}

}  // namespace

void register_additive_gradients(py::module_& module) {
  using py::arg;
  module.def("additive_attention_backward", &additive_attention_backward, arg("query"), arg("key"), arg("value"),
             arg("score_weight"), arg("key_mask"), arg("key_lengths"), arg("weights"), arg("context_gradient"),
             arg("weights_gradient"));
  module.def("additive_attention_double_backward", &additive_attention_double_backward, arg("query"), arg("key"),
             arg("value"), arg("score_weight"), arg("key_mask"), arg("key_lengths"), arg("weights"),
             arg("context_gradient"), arg("weights_gradient"), arg("query_cotangent"), arg("key_cotangent"),
             arg("value_cotangent"), arg("score_weight_cotangent"));
}

}  // namespace metafast

// Additive attention: checks arguments, allocates results, runs the kernels' slices.
#include <algorithm>
#include <vector>

#include "attention/additive.hpp"
#include "bindings/attention_arrays.hpp"
#include "bindings/interrupt.hpp"
#include "bindings/scratch.hpp"

namespace metafast {
namespace {

using namespace attention;

// Below this many products of a query, a key and a column, waking a second thread costs more than it saves.
constexpr std::int64_t kProductsWorthThreads = 1 << 18;
// Slices of so many products take about a tenth of a millisecond.
constexpr std::int64_t kProductsPerSlice = 1 << 20;
// Keys of so many bytes are prepared before the queries of all their problems are scored.
constexpr std::int64_t kPreparedBytes = std::int64_t{4} << 20;

std::int64_t products_per_query(const Extents& extents) {
  return std::max<std::int64_t>(1, extents.keys * (extents.width + extents.value_width / 4));
}

// Work is cut by its extents alone, so that a result does not depend on the number of threads.
struct Cut {
  std::int64_t queries_per_block;
  std::int64_t blocks;              // of one problem
  std::int64_t problems_per_slice;  // where a problem is one block

  explicit Cut(const Extents& extents) {
    const std::int64_t per_query = products_per_query(extents), queries = std::max<std::int64_t>(1, extents.queries);
    // At most about 64 slices, and none smaller than is worth it.
    queries_per_block = std::max(kProductsPerSlice / per_query, extents.problems() * queries / 64);
    queries_per_block = (queries_per_block + 11) / 12 * 12;
    if (2 * queries_per_block > queries) queries_per_block = queries;
    blocks = (queries + queries_per_block - 1) / queries_per_block;
    problems_per_slice = std::max<std::int64_t>(1, kProductsPerSlice / 4 / (per_query * queries));
  }
};

int max_threads(const Extents& extents) {
  return extents.problems() * extents.queries * products_per_query(extents) < kProductsWorthThreads ? 1 : 0;
}

// The arrays of one call, checked, and the tables of the score weights.
template <class T>
struct Call {
  py::array query, key, value, score_weight;
  py::array mask = no_array(), lengths = no_array();
  AlignedMemory tables;

  Call(py::handle query_in, py::handle key_in, py::handle value_in, py::handle score_weight_in, py::handle key_mask,
       py::handle key_lengths, Additive<T>& arguments)
      : query(attention_array(query_in, "query", no_array(), "", {kAny, kAny, kAny, kAny})),
        key(attention_array(key_in, "key", query, "query", {query.shape(0), query.shape(1), kAny, query.shape(3)})),
        value(attention_array(value_in, "value", query, "query", {query.shape(0), query.shape(1), key.shape(2), kAny})),
        score_weight(
            attention_array(score_weight_in, "score_weight", query, "query", {1, query.shape(1), 1, query.shape(3)})) {
    Extents& extents = arguments.extents;
    extents = {query.shape(0), query.shape(1), query.shape(2), key.shape(2), query.shape(3), value.shape(3)};
    if (extents.keys >= std::int64_t{1} << 31)
      throw py::value_error("key has " + std::to_string(extents.keys) + " keys; fewer than 2**31 are taken");
    arguments.query = attention_view<T>(query);
    arguments.key = attention_view<T>(key);
    arguments.value = attention_view<T>(value);
    arguments.score_weight = attention_view<T>(score_weight);
    arguments.score_weight.batch_stride = 0;
    arguments.selection = key_selection(key_mask, key_lengths, query.shape(0), key.shape(2), mask, lengths);
    fill_tables(arguments);
  }

 private:
  void fill_tables(Additive<T>& arguments) {
    const std::int64_t heads = arguments.extents.heads, width = padded<T>(arguments.extents.width);
    tables = AlignedMemory(heads * ((3 * width + 1) * sizeof(T) + 1));
    T* score_weights = reinterpret_cast<T*>(tables.get());
    T* weights = score_weights + heads * width;
    T* floors = weights + heads * width;
    T* factors = floors + heads * width;
    bool* foldable = reinterpret_cast<bool*>(factors + heads);
    additive_table().of<T>().weigh(arguments, score_weights, weights, floors, factors, foldable);
    arguments.table = {score_weights, weights, floors, factors, foldable};
  }
};

py::array new_array(const py::array& like, std::array<py::ssize_t, 4> shape) {
  return py::array(like.dtype(), std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

// Calls block(prepared keys, problem, block of queries, scratch) for every block of every problem, with the keys of its
// problem prepared; the GIL is released meanwhile.
template <class T, class Block>
void for_each_block(const Additive<T>& arguments, std::int64_t scratch_bytes, const Block& block) {
  const Extents& extents = arguments.extents;
  const std::int64_t problems = extents.problems();
  if (problems == 0) return;
  const Cut cut(extents);
  const int threads = max_threads(extents);
  const int scratch_blocks = threads == 1 ? 1 : get_num_threads();
  const std::int64_t key_bytes = prepared_bytes<T>(extents);
  const auto prepare = additive_table().of<T>().prepare;
  const Form form = extents.queries == 1 ? Form::direct : extents.queries < 4 ? Form::separate : Form::folded;
  if (cut.blocks == 1) {
    ScratchBlocks scratch(key_bytes + scratch_bytes, scratch_blocks);
    const std::int64_t slices = (problems + cut.problems_per_slice - 1) / cut.problems_per_slice;
    for_each_slice_interruptibly(
        slices,
        [&](std::int64_t slice) {
          const ScratchBlocks::Block own(scratch);
          const PreparedKeys<T> prepared = place_keys<T>(extents, own.get());
          const std::int64_t end = std::min(problems, (slice + 1) * cut.problems_per_slice);
          for (std::int64_t problem = slice * cut.problems_per_slice; problem < end; ++problem) {
            prepare(arguments, problem, form, prepared);
            block(prepared, problem, 0, 0, extents.queries, own.get() + key_bytes);
          }
        },
        threads);
    return;
  }
  const std::int64_t together = std::min(problems, std::max<std::int64_t>(1, kPreparedBytes / key_bytes));
  const AlignedMemory keys(together * key_bytes);
  ScratchBlocks scratch(scratch_bytes, scratch_blocks);
  for (std::int64_t first = 0; first < problems; first += together) {
    const std::int64_t count = std::min(together, problems - first);
    const auto prepared = [&](std::int64_t index) { return place_keys<T>(extents, keys.get() + index * key_bytes); };
    for_each_slice_interruptibly(
        count, [&](std::int64_t index) { prepare(arguments, first + index, form, prepared(index)); }, threads);
    for_each_slice_interruptibly(
        count * cut.blocks,
        [&](std::int64_t slice) {
          const ScratchBlocks::Block own(scratch);
          const std::int64_t index = slice / cut.blocks, number = slice % cut.blocks;
          const std::int64_t begin = number * cut.queries_per_block;
          const std::int64_t end = std::min(extents.queries, begin + cut.queries_per_block);
          block(prepared(index), first + index, number, begin, end, own.get());
        },
        threads);
  }
}

// How the queries of a backward pass are cut: every block but one of a problem holds sums of the size of its keys and
// values, so there are only as many as keep a few cores busy.
struct GradientCut {
  std::int64_t queries_per_block;
  std::int64_t blocks;
  std::int64_t problems_per_slice;

  GradientCut(const Extents& extents, std::int64_t sums_bytes) {
    constexpr std::int64_t slices = 16, least_queries = 32, most_bytes = std::int64_t{8} << 20;
    const std::int64_t problems = std::max<std::int64_t>(1, extents.problems());
    const std::int64_t queries = std::max<std::int64_t>(1, extents.queries), per_query = products_per_query(extents);
    std::int64_t wanted = std::min({slices / problems, queries * per_query / kProductsPerSlice, most_bytes / (problems * sums_bytes)});
    wanted = std::max<std::int64_t>(1, wanted);
    queries_per_block = (queries + wanted - 1) / wanted;
    queries_per_block = wanted == 1 ? queries : (queries_per_block + least_queries - 1) / least_queries * least_queries;
    blocks = (queries + queries_per_block - 1) / queries_per_block;
    problems_per_slice = std::max<std::int64_t>(1, kProductsPerSlice / 8 / (per_query * queries));
  }
};

// Runs kernel(problem, begin, end, keys, sums, weight sums, scratch) over all blocks and finishes every problem, then
// adds up the gradient of the score weights [1, heads, 1, width].
template <class T, class Kernel>
void run_gradients(const AdditiveBackward<T>& arguments, std::int64_t scratch_bytes, bool times_weights,
                   py::array& score_weight_gradient, const Kernel& kernel) {
  const Extents& extents = arguments.extents;
  const std::int64_t problems = extents.problems(), width = padded<T>(extents.width);
  const std::int64_t sums_bytes = std::max<std::int64_t>(kCacheLine, sums_size<T>(extents) * sizeof(T));
  const std::int64_t key_bytes = prepared_bytes<T>(extents);
  const GradientCut cut(extents, sums_bytes);
  const int threads = max_threads(extents);
  const int scratch_blocks = threads == 1 ? 1 : get_num_threads();
  const AdditiveKernels<T>& kernels = additive_table().of<T>();
  const Form form = extents.queries == 1 ? Form::direct : Form::separate;
  const AlignedMemory weight_memory(problems * cut.blocks * width * sizeof(T));
  const auto weight_sums = [&](std::int64_t slice) { return reinterpret_cast<T*>(weight_memory.get()) + slice * width; };
  if (cut.blocks == 1) {
    ScratchBlocks scratch(key_bytes + sums_bytes + scratch_bytes, scratch_blocks);
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
    ScratchBlocks scratch(scratch_bytes, scratch_blocks);
    const auto keys = [&](std::int64_t problem) { return place_keys<T>(extents, key_memory.get() + problem * key_bytes); };
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
          kernels.finish(arguments, problem, keys(problem), sums(problem * cut.blocks), sums_bytes / sizeof(T), cut.blocks,
                         times_weights);
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
    weights = attention_array(weights_in, "weights", call.query, "query", square);
    context_gradient = attention_array(context_gradient_in, "context_gradient", call.query, "query",
                                       {extents.batch, extents.heads, extents.queries, extents.value_width});
    arguments.weights = attention_view<T>(weights);
    arguments.context_gradient = attention_view<T>(context_gradient);
    if (given(weights_gradient_in)) {
      weights_gradient = attention_array(weights_gradient_in, "weights_gradient", call.query, "query", square);
      arguments.weights_gradient = attention_view<T>(weights_gradient);
    }
    query_gradient = new_array(call.query, {extents.batch, extents.heads, extents.queries, extents.width});
    key_gradient = new_array(call.query, {extents.batch, extents.heads, extents.keys, extents.width});
    value_gradient = new_array(call.query, {extents.batch, extents.heads, extents.keys, extents.value_width});
    score_weight_gradient = new_array(call.query, {1, extents.heads, 1, extents.width});
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

py::tuple additive_attention_double_backward(py::handle query, py::handle key, py::handle value, py::handle score_weight,
                                             py::handle key_mask, py::handle key_lengths, py::handle weights,
                                             py::handle context_gradient, py::handle weights_gradient,
                                             py::handle query_cotangent_in, py::handle key_cotangent_in,
                                             py::handle value_cotangent_in, py::handle score_weight_cotangent_in) {
  const py::array first = plain_array(query, "query");
  return with_float_type(first, "query", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    AdditiveDoubleBackward<T> arguments;
    GradientCall<T> call(query, key, value, score_weight, key_mask, key_lengths, weights, context_gradient,
                         weights_gradient, arguments);
    const Extents& extents = arguments.extents;
    py::array cotangents[4] = {no_array(), no_array(), no_array(), no_array()};
    const auto cotangent = [&](py::handle value_in, const char* name, py::array& keep,
                               std::array<py::ssize_t, 4> shape) -> View<const T> {
      if (!given(value_in)) return {};
      keep = attention_array(value_in, name, call.call.query, "query", shape);
      return attention_view<T>(keep);
    };
    arguments.query_cotangent = cotangent(query_cotangent_in, "query_cotangent", cotangents[0],
                                          {extents.batch, extents.heads, extents.queries, extents.width});
    arguments.key_cotangent = cotangent(key_cotangent_in, "key_cotangent", cotangents[1],
                                        {extents.batch, extents.heads, extents.keys, extents.width});
    arguments.value_cotangent = cotangent(value_cotangent_in, "value_cotangent", cotangents[2],
                                          {extents.batch, extents.heads, extents.keys, extents.value_width});
    arguments.score_weight_cotangent =
        cotangent(score_weight_cotangent_in, "score_weight_cotangent", cotangents[3], {1, extents.heads, 1, extents.width});
    arguments.score_weight_cotangent.batch_stride = 0;
    py::array context_result = new_array(call.call.query, {extents.batch, extents.heads, extents.queries, extents.value_width});
    arguments.context_gradient_gradient = attention_result<T>(context_result);
    py::object weights_result = py::none();
    if (arguments.weights_gradient) {
      py::array array = new_array(call.call.query, {extents.batch, extents.heads, extents.queries, extents.keys});
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

py::tuple additive_attention(py::handle query, py::handle key, py::handle value, py::handle score_weight,
                             py::handle key_mask, py::handle key_lengths, bool return_weights) {
  const py::array first = plain_array(query, "query");
  return with_float_type(first, "query", [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    AdditiveForward<T> arguments;
    Call<T> call(query, key, value, score_weight, key_mask, key_lengths, arguments);
    const Extents& extents = arguments.extents;
    py::array context = new_array(call.query, {extents.batch, extents.heads, extents.queries, extents.value_width});
    arguments.context = attention_result<T>(context);
    py::object weights = py::none();
    if (return_weights) {
      py::array array = new_array(call.query, {extents.batch, extents.heads, extents.queries, extents.keys});
      arguments.weights = attention_result<T>(array);
      weights = array;
    }
    const AdditiveKernels<T>& kernels = additive_table().of<T>();
    for_each_block(arguments, kernels.forward_scratch(extents),
                   [&](const PreparedKeys<T>& keys, std::int64_t problem, std::int64_t, std::int64_t begin,
                       std::int64_t end, void* scratch) { kernels.forward(arguments, problem, begin, end, keys, scratch); });
    return py::make_tuple(context, weights);
  });
}

}  // namespace

void register_additive_attention(py::module_& module) {
  using py::arg;
  module.def("additive_attention", &additive_attention, arg("query"), arg("key"), arg("value"), arg("score_weight"),
             arg("key_mask"), arg("key_lengths"), arg("return_weights"));
  module.def("additive_attention_backward", &additive_attention_backward, arg("query"), arg("key"), arg("value"),
             arg("score_weight"), arg("key_mask"), arg("key_lengths"), arg("weights"), arg("context_gradient"),
             arg("weights_gradient"));
  module.def("additive_attention_double_backward", &additive_attention_double_backward, arg("query"), arg("key"),
             arg("value"), arg("score_weight"), arg("key_mask"), arg("key_lengths"), arg("weights"),
             arg("context_gradient"), arg("weights_gradient"), arg("query_cotangent"), arg("key_cotangent"),
             arg("value_cotangent"), arg("score_weight_cotangent"));
}

}  // namespace metafast

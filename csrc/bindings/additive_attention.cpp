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
    tables = AlignedMemory(heads * (2 * width + 2) * sizeof(T) + heads);
    T* weights = reinterpret_cast<T*>(tables.get());
    T* floors = weights + heads * width;
    T* factors = floors + heads * width;
    bool* foldable = reinterpret_cast<bool*>(factors + heads);
    additive_table().of<T>().weigh(arguments, weights, floors, factors, foldable);
    arguments.table = {weights, floors, factors, foldable};
  }
};

py::array new_array(const py::array& like, std::array<py::ssize_t, 4> shape) {
  return py::array(like.dtype(), std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

// Calls block(prepared keys, problem, block of queries, scratch) for every block of every problem, with the keys of its
// problem prepared; the GIL is released meanwhile.
template <class T, class Block>
void for_each_block(const Additive<T>& arguments, bool fold, std::int64_t scratch_bytes, const Block& block) {
  const Extents& extents = arguments.extents;
  const std::int64_t problems = extents.problems();
  if (problems == 0) return;
  const Cut cut(extents);
  const int threads = max_threads(extents);
  const int scratch_blocks = threads == 1 ? 1 : get_num_threads();
  const std::int64_t key_bytes = prepared_bytes<T>(extents);
  const auto prepare = additive_table().of<T>().prepare;
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
            prepare(arguments, problem, fold, prepared);
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
        count, [&](std::int64_t index) { prepare(arguments, first + index, fold, prepared(index)); }, threads);
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
    for_each_block(arguments, true, kernels.forward_scratch(extents),
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
}

}  // namespace metafast

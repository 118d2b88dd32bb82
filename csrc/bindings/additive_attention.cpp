// Additive attention forward: at once, and with keys prepared beforehand.
#include <memory>
#include <variant>

#include "bindings/additive_call.hpp"

namespace metafast {
namespace {

using namespace additive;

// Keys of so many bytes are prepared before the queries of all their problems are scored.
constexpr std::int64_t kPreparedBytes = std::int64_t{4} << 20;

// Work is cut by its extents alone, so that a result does not depend on the number of threads.
struct Cut {
  std::int64_t queries_per_block;
  std::int64_t blocks;              // of one problem
  std::int64_t problems_per_slice;  // where a problem is one block

  explicit Cut(const Extents& extents) {
    const double per_query = products_per_query(extents);
    const std::int64_t queries = std::max<std::int64_t>(1, extents.queries);
    // At most about 64 slices, and none smaller than is worth it.
    queries_per_block = std::max(as_many_as(kProductsPerSlice, per_query, queries), extents.problems() * queries / 64);
    queries_per_block = (queries_per_block + kQueryTile - 1) / kQueryTile * kQueryTile;
    if (2 * queries_per_block > queries) queries_per_block = queries;
    blocks = (queries + queries_per_block - 1) / queries_per_block;
    problems_per_slice = as_many_as(kProductsPerSlice / 4, per_query * queries, extents.problems());
  }
};

// The new arrays (context, weights or None), which the arguments are made to point to.
template <class T>
py::tuple new_results(const py::array& query, bool return_weights, AdditiveForward<T>& arguments) {
  const Extents& extents = arguments.extents;
  py::array context = new_attention_array(query, {extents.batch, extents.heads, extents.queries, extents.value_width});
  arguments.context = attention_result<T>(context);
  if (!return_weights) return py::make_tuple(context, py::none());
  py::array weights = new_attention_array(query, {extents.batch, extents.heads, extents.queries, extents.keys});
  arguments.weights = attention_result<T>(weights);
  return py::make_tuple(context, weights);
}

// The block numbered `number` of a problem.
template <class T>
void run_block(const AdditiveForward<T>& arguments, const Cut& cut, std::int64_t problem, std::int64_t number,
               const PreparedKeys<T>& keys, void* scratch) {
  const std::int64_t begin = number * cut.queries_per_block;
  const std::int64_t end = std::min(arguments.extents.queries, begin + cut.queries_per_block);
  additive_table().of<T>().forward(arguments, problem, begin, end, keys, scratch);
}

// Prepares the keys of every problem and scores its queries, without the GIL.
template <class T>
void prepare_and_run(const AdditiveForward<T>& arguments) {
  const Extents& extents = arguments.extents;
  const std::int64_t problems = extents.problems();
  if (problems == 0) return;
  const Cut cut(extents);
  const int threads = num_threads(extents);
  const std::int64_t key_bytes = prepared_bytes<T>(extents);
  const auto prepare = additive_table().of<T>().prepare;
  const std::int64_t scratch_bytes = additive_table().of<T>().forward_scratch(extents);
  const Form form = extents.queries == 1 ? Form::direct : extents.queries < 4 ? Form::separate : Form::folded;
  if (cut.blocks == 1) {
    ScratchBlocks scratch(key_bytes + scratch_bytes, threads);
    const std::int64_t slices = (problems + cut.problems_per_slice - 1) / cut.problems_per_slice;
    for_each_slice_interruptibly(
        slices,
        [&](std::int64_t slice) {
          const ScratchBlocks::Block own(scratch);
          const PreparedKeys<T> prepared = place_keys<T>(extents, own.get());
          const std::int64_t end = std::min(problems, (slice + 1) * cut.problems_per_slice);
          for (std::int64_t problem = slice * cut.problems_per_slice; problem < end; ++problem) {
            prepare(arguments, problem, form, prepared);
            run_block(arguments, cut, problem, 0, prepared, own.get() + key_bytes);
          }
        },
        threads);
    return;
  }
  const std::int64_t together = std::min(problems, std::max<std::int64_t>(1, kPreparedBytes / key_bytes));
  const AlignedMemory keys(together * key_bytes);
  ScratchBlocks scratch(scratch_bytes, threads);
  for (std::int64_t first = 0; first < problems; first += together) {
    const std::int64_t count = std::min(together, problems - first);
    const auto prepared = [&](std::int64_t index) { return place_keys<T>(extents, keys.get() + index * key_bytes); };
    for_each_slice_interruptibly(
        count, [&](std::int64_t index) { prepare(arguments, first + index, form, prepared(index)); }, threads);
    for_each_slice_interruptibly(
        count * cut.blocks,
        [&](std::int64_t slice) {
          const ScratchBlocks::Block own(scratch);
          const std::int64_t index = slice / cut.blocks;
          run_block(arguments, cut, first + index, slice % cut.blocks, prepared(index), own.get());
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
    const py::tuple results = new_results(call.query, return_weights, arguments);
    prepare_and_run(arguments);
    return results;
  });
}

// Keys that were prepared once, for queries that come one after another. Nothing of the caller's is kept but copies.
template <class T>
class CachedKeys {
 public:
  // Until a query comes, the keys stand for it.
  CachedKeys(py::handle key, py::handle value, py::handle score_weight, py::handle key_mask, py::handle key_lengths)
      : call_(key, key, value, score_weight, key_mask, key_lengths, arguments_),
        value_(call_.value.attr("copy")("C").template cast<py::array>()),
        bytes_(prepared_bytes<T>(arguments_.extents)),
        memory_(std::max<std::int64_t>(1, arguments_.extents.problems()) * bytes_) {
    arguments_.value = attention_view<T>(value_);
    for_each_slice_interruptibly(arguments_.extents.problems(), [&](std::int64_t problem) {
      additive_table().of<T>().prepare(arguments_, problem, Form::folded, keys(problem));
    });
    // Of the caller's arrays nothing is needed any more.
    arguments_.selection = {};
    call_.query = call_.key = call_.value = call_.score_weight = call_.mask = call_.lengths = no_array();
  }

  py::tuple attend(py::handle query_in, bool return_weights) const {
    AdditiveForward<T> arguments;
    static_cast<Additive<T>&>(arguments) = arguments_;
    Extents& extents = arguments.extents;
    const py::array query = attention_array(query_in, "query", value_, "key",
                                            {extents.batch, extents.heads, kAny, extents.width}, call_.ndim);
    extents.queries = query.shape(call_.ndim - 2);
    arguments.query = attention_view<T>(query);
    const py::tuple results = new_results(query, return_weights, arguments);
    const Cut cut(extents);
    check_sizes(extents);
    const int threads = num_threads(extents);
    const std::int64_t blocks = extents.problems() * cut.blocks;
    const std::int64_t slices = (blocks + cut.problems_per_slice - 1) / cut.problems_per_slice;
    ScratchBlocks scratch(additive_table().of<T>().forward_scratch(extents), threads);
    for_each_slice_interruptibly(
        slices,
        [&](std::int64_t slice) {
          const ScratchBlocks::Block own(scratch);
          const std::int64_t end = std::min(blocks, (slice + 1) * cut.problems_per_slice);
          for (std::int64_t block = slice * cut.problems_per_slice; block < end; ++block)
            run_block(arguments, cut, block / cut.blocks, block % cut.blocks, keys(block / cut.blocks), own.get());
        },
        threads);
    return results;
  }

 private:
  PreparedKeys<T> keys(std::int64_t problem) const {
    return place_keys<T>(arguments_.extents, memory_.get() + problem * bytes_);
  }

  Additive<T> arguments_;
  Call<T> call_;
  py::array value_;
  std::int64_t bytes_;
  AlignedMemory memory_;
};

// The same for either floating type.
class PreparedAdditiveKeys {
 public:
  PreparedAdditiveKeys(py::handle key, py::handle value, py::handle score_weight, py::handle key_mask,
                       py::handle key_lengths) {
    with_float_type(first_array(key, "key"), "key", [&](auto zero) {
      keys_ = std::make_unique<CachedKeys<decltype(zero)>>(key, value, score_weight, key_mask, key_lengths);
    });
  }
  py::tuple attend(py::handle query, bool return_weights) const {
    return std::visit([&](const auto& keys) { return keys->attend(query, return_weights); }, keys_);
  }

 private:
  std::variant<std::unique_ptr<CachedKeys<float>>, std::unique_ptr<CachedKeys<double>>> keys_;
};

}  // namespace

void register_additive_attention(py::module_& module) {
  using py::arg;
  module.def("additive_attention", &additive_attention, arg("query"), arg("key"), arg("value"), arg("score_weight"),
             arg("key_mask"), arg("key_lengths"), arg("return_weights"));
  py::class_<PreparedAdditiveKeys>(module, "PreparedAdditiveKeys")
      .def(py::init<py::handle, py::handle, py::handle, py::handle, py::handle>(), arg("key"), arg("value"),
           arg("score_weight"), arg("key_mask"), arg("key_lengths"))
      .def("attend", &PreparedAdditiveKeys::attend, arg("query"), arg("return_weights"));
}

}  // namespace metafast

// Memory, arguments and results of a batch; the kernels do the work.
#include "bindings/env_batch.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <stdexcept>

#include "common/scheduler.hpp"

namespace metafast {
namespace {

// A slice is about this much work, and less than three of them stay in their caller: a helper that loses its core in the
// middle of a slice would cost more than two threads save.
constexpr double kSliceNanoseconds = 10'000;
constexpr double kThreadedNanoseconds = 3 * kSliceNanoseconds;

// For less than this the GIL is kept: giving it back costs as much, and to wait for it again, behind a busy Python
// thread, up to the 5 ms of its switch interval.
constexpr double kReleaseGilNanoseconds = 5'000;

// How many calls are timed before threads are considered.
constexpr int kMeasuredCalls = 4;

// Environments in a slice of a reset, which is rare.
constexpr std::int64_t kResetSlice = 2048;
static_assert(kResetSlice % kTile == 0, "a slice is made of whole tiles");

constexpr std::size_t kAlignment = 64;

// py::array's constructors go through vectors of shape and strides; at one environment that is a third of a step.
py::object new_array(const py::dtype& type, int ndim, const py::ssize_t* shape) {
  auto& numpy = py::detail::npy_api::get();
  py::object owned = type;  // PyArray_NewFromDescr steals the reference
  PyObject* array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, owned.release().ptr(), ndim,
                                                const_cast<Py_intptr_t*>(shape), nullptr, nullptr, 0, nullptr);
  if (array == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(array);
}

template <class Scalar>
Scalar* data_of(const py::object& array) {
  return reinterpret_cast<Scalar*>(py::detail::array_proxy(array.ptr())->data);
}

// An array that numpy cannot move: its owner is another array, so that resize() refuses.
py::object pinned(const py::object& array) { return array.attr("view")(); }

template <class Scalar>
py::array_t<Scalar> copy_of(const std::vector<Scalar>& values) {
  return py::array_t<Scalar>(static_cast<py::ssize_t>(values.size()), values.data());
}

// Keeps the number of the first environment that failed, whichever thread comes first; -1 stands for none.
void keep_first(std::atomic<std::int64_t>& first, std::int64_t failed) {
  std::int64_t known = first.load(std::memory_order_relaxed);
  while (failed >= 0 && (known < 0 || failed < known))
    if (first.compare_exchange_weak(known, failed, std::memory_order_relaxed)) return;
}

std::int64_t product(const std::vector<py::ssize_t>& shape) {
  std::int64_t size = 1;
  for (const py::ssize_t extent : shape) size *= extent;
  return size;
}

// Counts the forks that this process descends from: who forked while another thread was stepping holds a claim that
// nobody will give back.
std::atomic<unsigned> g_forks{0};
[[maybe_unused]] const int g_fork_handler = pthread_atfork(nullptr, nullptr, [] { ++g_forks; });

}  // namespace

EnvBatch::Claim::Claim(EnvBatch& batch) : claim_(batch.claim_) {
  const unsigned mine = 1 + g_forks.load(std::memory_order_relaxed);
  unsigned found = 0;
  if (claim_.compare_exchange_strong(found, mine, std::memory_order_acquire)) return;
  if (found == mine || !claim_.compare_exchange_strong(found, mine, std::memory_order_acquire))
    throw std::runtime_error(
        "this vector environment is being used by another thread: step, reset, rollout, get_state and set_state of "
        "one environment must not overlap; give each thread its own environment");
  batch.was_reset_ = false;  // the step that the fork cut off may have reached a part of the environments
}

EnvBatch::Claim::~Claim() { claim_.store(0, std::memory_order_release); }

EnvBatch::EnvBatch(EnvironmentLayout layout, std::int64_t num_envs, AutoresetMode autoreset_mode,
                   std::int32_t max_episode_steps, int num_threads, bool copy, bool undoable)
    : layout_(std::move(layout)),
      num_envs_(num_envs),
      autoreset_mode_(autoreset_mode),
      max_episode_steps_(max_episode_steps),
      num_threads_(num_threads),
      copy_(copy),
      observation_bytes_(product(layout_.observation_shape) * layout_.observation_type.itemsize()),
      action_size_(product(layout_.action_shape)),
      observations_shape_(layout_.observation_shape) {
  observations_shape_.insert(observations_shape_.begin(), num_envs);
  const auto size = static_cast<std::size_t>(num_envs);
  state_ = tiles_of_state();
  elapsed_steps_.assign(size, 0);
  ended_.assign(size, 0);
  seeds_.assign(size, 0);
  episodes_.assign(size, 0);
  if (layout_.streams) streams_.assign(4 * size, 0);
  if (undoable) {
    saved_state_ = tiles_of_state();
    saved_elapsed_steps_ = elapsed_steps_;
    saved_ended_ = ended_;
    saved_episodes_ = episodes_;
  }
  actions_.resize(size * static_cast<std::size_t>(action_size_ * layout_.action_type.itemsize()));
  if (autoreset_mode_ == AutoresetMode::same_step) {
    const py::object buffer = fresh_observations();
    std::memset(data_of<std::byte>(buffer), 0, size * static_cast<std::size_t>(observation_bytes_));
    final_observations_ = pinned(buffer);
  }
  if (!copy_) {
    const Arrays arrays = fresh_arrays();
    kept_ = {pinned(arrays.observations), pinned(arrays.rewards), pinned(arrays.terminated), pinned(arrays.truncated)};
  }
}

EnvBatch::Memory EnvBatch::tiles_of_state() const {
  const std::int64_t padded = (num_envs_ + kTile - 1) / kTile * kTile;
  std::int64_t bytes;
  if (__builtin_mul_overflow(padded, layout_.state_bytes, &bytes)) throw std::bad_alloc();
  Memory memory(static_cast<std::byte*>(std::aligned_alloc(kAlignment, static_cast<std::size_t>(bytes))));
  if (!memory) throw std::bad_alloc();
  std::memset(memory.get(), 0, static_cast<std::size_t>(bytes));
  return memory;
}

Batch EnvBatch::view() {
  Batch batch = {};
  batch.autoreset_mode = autoreset_mode_;
  batch.max_episode_steps = max_episode_steps_;
  batch.phases = layout_.phases;
  batch.parameters = layout_.parameters.data();
  batch.state = state_.get();
  batch.state_bytes = layout_.state_bytes;
  batch.observation_bytes = observation_bytes_;
  batch.reward_bytes = layout_.reward_type.itemsize();
  batch.elapsed_steps = elapsed_steps_.data();
  batch.ended = ended_.data();
  batch.seeds = seeds_.data();
  batch.episodes = episodes_.data();
  batch.streams = layout_.streams ? streams_.data() : nullptr;
  batch.begin_before_step = layout_.users;
  if (saved_state_) {
    batch.saved_state = saved_state_.get();
    batch.field_bytes = layout_.field_bytes.data();
    batch.num_fields = static_cast<std::int64_t>(layout_.field_bytes.size());
    batch.saved_elapsed_steps = saved_elapsed_steps_.data();
    batch.saved_ended = saved_ended_.data();
    batch.saved_episodes = saved_episodes_.data();
  }
  return batch;
}

template <class Function>
void EnvBatch::for_each_range(Function&& function) {
  const auto size = static_cast<double>(num_envs_);
  if (measured_calls_ < kMeasuredCalls) {
    ++measured_calls_;
    const py::gil_scoped_release released;
    const auto start = std::chrono::steady_clock::now();
    function(std::int64_t{0}, num_envs_);
    const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
    cost_ = std::min(cost_, elapsed.count() / size);
    return;
  }
  const double nanoseconds = cost_ * size;
  if (nanoseconds < kReleaseGilNanoseconds) return function(std::int64_t{0}, num_envs_);
  const py::gil_scoped_release released;
  if (nanoseconds < kThreadedNanoseconds) return function(std::int64_t{0}, num_envs_);
  const auto tiles_of_slice = static_cast<std::int64_t>(kSliceNanoseconds / (cost_ * kTile));
  const std::int64_t slice_size = std::max<std::int64_t>(1, tiles_of_slice) * kTile;
  // The last slice takes the remainder too.
  const std::int64_t num_slices = std::max<std::int64_t>(1, num_envs_ / slice_size);
  for_each_slice(
      num_slices,
      [&](std::int64_t slice) {
        function(slice * slice_size, slice + 1 == num_slices ? num_envs_ : (slice + 1) * slice_size);
      },
      num_threads_);
}

py::object EnvBatch::fresh_observations() const {
  return new_array(layout_.observation_type, static_cast<int>(observations_shape_.size()), observations_shape_.data());
}

EnvBatch::Arrays EnvBatch::fresh_arrays() const {
  const py::ssize_t shape[1] = {num_envs_};
  return {fresh_observations(), new_array(layout_.reward_type, 1, shape), new_array(bool_type_, 1, shape),
          new_array(bool_type_, 1, shape)};
}

void EnvBatch::refuse_action(std::int64_t position, const std::string& value) const {
  std::string index = std::to_string(position / action_size_);
  if (!layout_.action_shape.empty()) index += ", " + std::to_string(position % action_size_);
  const std::string found = "but actions[" + index + "] is " + value + "; no environment was stepped";
  if (layout_.action_low.empty()) throw py::value_error("actions must be finite, " + found);
  const auto column = static_cast<std::size_t>(position % action_size_);
  throw py::value_error("actions must lie in [" + std::to_string(layout_.action_low[column]) + ", " +
                        std::to_string(layout_.action_high[column]) + "), " + found);
}

bool EnvBatch::take_actions(py::handle actions) {
  // Exactly ndarray: a subclass may mean something else by its numbers (a masked array does).
  auto& numpy = py::detail::npy_api::get();
  if (reinterpret_cast<PyObject*>(Py_TYPE(actions.ptr())) != reinterpret_cast<PyObject*>(numpy.PyArray_Type_))
    return false;
  const auto* proxy = py::detail::array_proxy(actions.ptr());
  constexpr int kPlain = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  const auto& shape = layout_.action_shape;
  if (proxy->nd != static_cast<int>(shape.size()) + 1 || proxy->dimensions[0] != num_envs_ ||
      !std::equal(shape.begin(), shape.end(), proxy->dimensions + 1) || (proxy->flags & kPlain) != kPlain)
    return false;
  const auto* descriptor = py::detail::array_descriptor_proxy(proxy->descr);
  if (descriptor->byteorder != '=') return false;

  const EnvsKernels& table = envs_kernels();
  const int type = descriptor->type_num;
  if (layout_.action_low.empty()) {
    if (type != layout_.action_type.num()) return false;
    const std::int64_t count = num_envs_ * action_size_;
    const auto take = [&](auto function, auto* values) {
      using Real = std::remove_cv_t<std::remove_pointer_t<decltype(values)>>;
      const std::int64_t bad = function(values, count, reinterpret_cast<Real*>(actions_.data()));
      if (bad >= 0) refuse_action(bad, py::str(py::float_(values[bad])));
      return true;
    };
    if (type == py::dtype::num_of<float>())
      return take(table.take_float32, reinterpret_cast<const float*>(proxy->data));
    if (type == py::dtype::num_of<double>())
      return take(table.take_float64, reinterpret_cast<const double*>(proxy->data));
    return false;
  }
  const auto take = [&](auto function, const auto* values) {
    const std::int64_t bad = function(values, num_envs_, action_size_, layout_.action_low.data(),
                                      layout_.action_high.data(), actions_.data(),
                                      static_cast<int>(layout_.action_type.itemsize()));
    if (bad >= 0) refuse_action(bad, std::to_string(values[bad]));
    return true;
  };
  if (type == py::dtype::num_of<std::int64_t>())
    return take(table.take_int64, reinterpret_cast<const std::int64_t*>(proxy->data));
  if (type == py::dtype::num_of<std::int32_t>())
    return take(table.take_int32, reinterpret_cast<const std::int32_t*>(proxy->data));
  return false;
}

void EnvBatch::save() {
  if (!saved_state_) return;
  for (std::int64_t first = 0; first < num_envs_; first += kTile) {
    const std::int64_t offset = first * layout_.state_bytes;
    copy_tile(saved_state_.get() + offset, state_.get() + offset, std::min<std::int64_t>(kTile, num_envs_ - first),
              layout_.field_bytes.data(), static_cast<std::int64_t>(layout_.field_bytes.size()));
  }
  saved_elapsed_steps_ = elapsed_steps_;
  saved_ended_ = ended_;
  saved_episodes_ = episodes_;
}

py::object EnvBatch::undone(std::int64_t failed) {
  if (saved_state_) {
    std::swap(state_, saved_state_);
    elapsed_steps_.swap(saved_elapsed_steps_);
    ended_.swap(saved_ended_);
    episodes_.swap(saved_episodes_);
  }
  return py::int_(failed);
}

py::object EnvBatch::step(py::handle actions) {
  const Claim claim(*this);
  if (!was_reset_ || !take_actions(actions)) return py::none();
  if (autoreset_mode_ == AutoresetMode::disabled) {
    const std::int64_t index = envs_kernels().find_ended(ended_.data(), num_envs_);
    if (index >= 0)
      throw py::value_error("the episode of environment " + std::to_string(index) +
                            " has ended, and with autoreset_mode='disabled' it must be reset before the next step: "
                            "reset(options={'reset_mask': terminated | truncated}); no environment was stepped");
  }

  const Arrays arrays = copy_ ? fresh_arrays() : kept_;
  const StepResult result = {actions_.data(),
                             action_size_ * layout_.action_type.itemsize(),
                             data_of<std::byte>(arrays.observations),
                             data_of<std::byte>(arrays.rewards),
                             data_of<std::uint8_t>(arrays.terminated),
                             data_of<std::uint8_t>(arrays.truncated),
                             final_observations_ ? data_of<std::byte>(final_observations_) : nullptr};
  const Batch batch = view();
  const auto step_range = envs_kernels().step;
  std::atomic<std::int64_t> num_final{0}, failed{-1};
  for_each_range([&](std::int64_t begin, std::int64_t end) {
    const Outcome outcome = step_range(batch, result, begin, end);
    num_final.fetch_add(outcome.num_final, std::memory_order_relaxed);
    keep_first(failed, outcome.failed);
  });
  if (failed >= 0) return undone(failed);
  py::dict infos;
  if (num_final.load(std::memory_order_relaxed) > 0) add_final_infos(infos, result.terminated, result.truncated);
  return py::make_tuple(arrays.observations, arrays.rewards, arrays.terminated, arrays.truncated, infos);
}

void EnvBatch::add_final_infos(py::dict& infos, const std::uint8_t* terminated, const std::uint8_t* truncated) const {
  const py::ssize_t batch_shape[1] = {num_envs_};
  const py::object rows = new_array(object_type_, 1, batch_shape);
  const py::object ended = new_array(bool_type_, 1, batch_shape);
  auto* const flags = data_of<std::uint8_t>(ended);
  for (std::int64_t i = 0; i < num_envs_; ++i) flags[i] = terminated[i] | truncated[i];
  PyObject** const row_pointers = data_of<PyObject*>(rows);  // all null in a fresh array
  const std::vector<py::ssize_t>& shape = layout_.observation_shape;
  for (std::int64_t i = 0; i < num_envs_; ++i) {
    if (!flags[i]) {
      Py_INCREF(Py_None);
      row_pointers[i] = Py_None;
      continue;
    }
    py::object row;
    if (shape.empty()) {
      row = final_observations_[py::int_(i)];  // a NumPy scalar, as of a Discrete space
    } else {
      row = new_array(layout_.observation_type, static_cast<int>(shape.size()), shape.data());
      std::copy_n(data_of<std::byte>(final_observations_) + i * observation_bytes_, observation_bytes_,
                  data_of<std::byte>(row));
    }
    row_pointers[i] = row.release().ptr();
  }
  infos["final_obs"] = rows;
  infos["_final_obs"] = ended;
  infos["final_info"] = py::dict();
  infos["_final_info"] = ended.attr("copy")();
}

py::object EnvBatch::observed() {
  py::object observations = copy_ ? fresh_observations() : kept_.observations;
  const Batch batch = view();
  const std::int64_t failed =
      envs_kernels().observe(batch, data_of<std::byte>(observations), 0, num_envs_);
  if (failed >= 0) return py::int_(failed);
  return observations;
}

py::object EnvBatch::reset(const std::uint8_t* mask, const std::uint64_t* seeds, const std::uint8_t* seeded,
                           const std::uint64_t* streams) {
  const Claim claim(*this);
  const std::vector<std::uint64_t> earlier_seeds = seeds == nullptr ? std::vector<std::uint64_t>() : seeds_;
  const std::vector<std::uint64_t> earlier_episodes = seeds == nullptr ? std::vector<std::uint64_t>() : episodes_;
  for (std::int64_t i = 0; seeds != nullptr && i < num_envs_; ++i) {
    if (!seeded[i] || (mask != nullptr && !mask[i])) continue;
    seeds_[i] = seeds[i];
    episodes_[i] = 0;
    if (streams != nullptr) std::copy_n(streams + 4 * i, 4, streams_.data() + 4 * i);
  }
  const Batch batch = view();
  save();  // the driver saves only the tiles that a mask does not leave out
  std::atomic<std::int64_t> failed{-1};
  const auto reset_range = envs_kernels().reset;
  {
    const py::gil_scoped_release released;
    const std::int64_t num_slices = (num_envs_ + kResetSlice - 1) / kResetSlice;
    for_each_slice(
        num_slices,
        [&](std::int64_t slice) {
          const std::int64_t begin = slice * kResetSlice;
          const std::int64_t index = reset_range(batch, mask, begin, std::min(begin + kResetSlice, num_envs_));
          keep_first(failed, index);
        },
        num_threads_);
  }
  py::object observations = failed >= 0 ? py::int_(failed.load()) : observed();
  if (PyLong_Check(observations.ptr())) {
    py::object index = undone(observations.cast<std::int64_t>());
    if (seeds != nullptr) {
      seeds_ = earlier_seeds;
      episodes_ = earlier_episodes;
    }
    return index;
  }
  was_reset_ = true;
  return observations;
}

py::object EnvBatch::final_observations() {
  if (autoreset_mode_ == AutoresetMode::same_step) return final_observations_;
  const Claim claim(*this);
  py::object observations = fresh_observations();
  const std::int64_t failed = envs_kernels().observe(view(), data_of<std::byte>(observations), 0, num_envs_);
  if (failed >= 0) return py::int_(failed);
  return observations;
}

template <class Copy>
void EnvBatch::for_each_field(const Copy& copy) {
  for (std::int64_t i = 0; i < num_envs_; ++i) {
    const std::int64_t first = i / kTile * kTile;
    std::byte* tile = state_.get() + first * layout_.state_bytes;
    std::int64_t offset = 0;
    for (const std::int64_t bytes : layout_.field_bytes) {
      copy(i * layout_.state_bytes + offset, tile + (i - first) * bytes, bytes);
      tile += kTile * bytes;
      offset += bytes;
    }
  }
}

py::dict EnvBatch::get_state() {
  const Claim claim(*this);
  py::array_t<std::uint8_t> state({static_cast<py::ssize_t>(num_envs_), static_cast<py::ssize_t>(state_bytes())});
  std::uint8_t* const records = state.mutable_data();
  for_each_field([&](std::int64_t offset, const std::byte* field, std::int64_t bytes) {
    std::memcpy(records + offset, field, static_cast<std::size_t>(bytes));
  });
  py::dict result;
  result["state"] = state;
  result["elapsed_steps"] = copy_of(elapsed_steps_);
  result["ended"] = copy_of(ended_).attr("view")(bool_type_);
  result["seeds"] = copy_of(seeds_);
  result["episodes"] = copy_of(episodes_);
  if (layout_.streams)
    result["streams"] = copy_of(streams_).attr("reshape")(py::make_tuple(num_envs_, 4));
  return result;
}

void EnvBatch::set_state(const std::uint8_t* state, const std::int32_t* elapsed_steps, const std::uint8_t* ended,
                         const std::uint64_t* seeds, const std::uint64_t* episodes, const std::uint64_t* streams) {
  const Claim claim(*this);
  for_each_field([&](std::int64_t offset, std::byte* field, std::int64_t bytes) {
    std::memcpy(field, state + offset, static_cast<std::size_t>(bytes));
  });
  std::copy_n(elapsed_steps, num_envs_, elapsed_steps_.begin());
  std::copy_n(ended, num_envs_, ended_.begin());
  std::copy_n(seeds, num_envs_, seeds_.begin());
  std::copy_n(episodes, num_envs_, episodes_.begin());
  if (layout_.streams) std::copy_n(streams, 4 * num_envs_, streams_.begin());
  was_reset_ = true;
}

}  // namespace metafast

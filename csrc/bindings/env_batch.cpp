// Memory, arguments and results of a batch; the kernels do the work.
#include "bindings/env_batch.hpp"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

#include "common/scheduler.hpp"

namespace metafast {
namespace {

// Environments per slice, about 10 us of CartPole.
constexpr std::int64_t kSlice = 2048;
// Below this size, 40 us of CartPole, a batch is one slice and stays in its caller: a helper that loses its core in the
// middle of a slice would cost more than two threads save.
constexpr std::int64_t kThreaded = 8192;
static_assert(kSlice % kTile == 0, "a slice is made of whole tiles");

// Below this size a step takes a few microseconds: giving the GIL back costs as much, and to wait for it again, behind
// a busy Python thread, up to the 5 ms of its switch interval.
constexpr std::int64_t kReleaseGil = 1024;

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

// Counts the forks that this process descends from: who forked while another thread was stepping holds a claim that
// nobody will give back.
std::atomic<unsigned> g_forks{0};
[[maybe_unused]] const int g_fork_handler = pthread_atfork(nullptr, nullptr, [] { ++g_forks; });

}  // namespace

// Marks the batch as in use; a second user would race with the first.
class EnvBatch::Claim {
 public:
  explicit Claim(EnvBatch& batch) : claim_(batch.claim_) {
    const unsigned mine = 1 + g_forks.load(std::memory_order_relaxed);
    unsigned found = 0;
    if (claim_.compare_exchange_strong(found, mine, std::memory_order_acquire)) return;
    if (found == mine || !claim_.compare_exchange_strong(found, mine, std::memory_order_acquire))
      throw std::runtime_error(
          "this vector environment is being used by another thread: step, reset, get_state and set_state of one "
          "environment must not overlap; give each thread its own environment");
    batch.was_reset_ = false;  // the step that the fork cut off may have reached a part of the environments
  }
  ~Claim() { claim_.store(0, std::memory_order_release); }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  std::atomic<unsigned>& claim_;
};

EnvBatch::EnvBatch(Kernels kernels, std::int64_t num_envs, std::vector<double> parameters, std::int32_t num_actions,
                   AutoresetMode autoreset_mode, std::int32_t max_episode_steps, int num_threads, bool copy)
    : kernels_(kernels),
      num_envs_(num_envs),
      parameters_(std::move(parameters)),
      num_actions_(num_actions),
      autoreset_mode_(autoreset_mode),
      max_episode_steps_(max_episode_steps),
      num_threads_(num_threads),
      copy_(copy) {
  const auto size = static_cast<std::size_t>(num_envs);
  const std::size_t padded = (size + kTile - 1) / kTile * kTile;
  const std::size_t state_bytes = padded * static_cast<std::size_t>(state_size()) * sizeof(double);
  state_.reset(static_cast<double*>(std::aligned_alloc(kAlignment, state_bytes)));
  if (!state_) throw std::bad_alloc();
  std::memset(state_.get(), 0, state_bytes);
  elapsed_steps_.assign(size, 0);
  ended_.assign(size, 0);
  seeds_.assign(size, 0);
  episodes_.assign(size, 0);
  actions_.assign(size, 0);
  if (autoreset_mode_ == AutoresetMode::same_step) {
    const py::ssize_t shape[2] = {num_envs_, this->kernels().observation_size};
    const py::object buffer = new_array(float_type_, 2, shape);
    std::fill_n(data_of<float>(buffer), num_envs_ * this->kernels().observation_size, 0.0f);
    final_observations_ = pinned(buffer);
  }
  if (!copy_) {
    const Arrays arrays = fresh_arrays();
    kept_ = {pinned(arrays.observations), pinned(arrays.rewards), pinned(arrays.terminated), pinned(arrays.truncated)};
  }
}

Batch EnvBatch::view() {
  return {autoreset_mode_,       max_episode_steps_, parameters_.data(), state_.get(),
          elapsed_steps_.data(), ended_.data(),      seeds_.data(),      episodes_.data()};
}

template <class Function>
void EnvBatch::for_each_range(Function&& function) {
  const std::int64_t num_slices = num_envs_ < kThreaded ? 1 : num_envs_ / kSlice;
  for_each_slice(
      num_slices,
      [&](std::int64_t slice) {
        // The last slice takes the remainder too.
        function(slice * kSlice, slice + 1 == num_slices ? num_envs_ : (slice + 1) * kSlice);
      },
      num_threads_);
}

template <class Function>
void EnvBatch::without_gil(const Function& function) const {
  if (num_envs_ < kReleaseGil) return function();
  const py::gil_scoped_release released;
  function();
}

EnvBatch::Arrays EnvBatch::fresh_arrays() const {
  const py::ssize_t shape[2] = {num_envs_, kernels().observation_size};
  return {new_array(float_type_, 2, shape), new_array(float_type_, 1, shape), new_array(bool_type_, 1, shape),
          new_array(bool_type_, 1, shape)};
}

bool EnvBatch::take_actions(py::handle actions) {
  // Exactly ndarray: a subclass may mean something else by its numbers (a masked array does).
  auto& numpy = py::detail::npy_api::get();
  if (reinterpret_cast<PyObject*>(Py_TYPE(actions.ptr())) != reinterpret_cast<PyObject*>(numpy.PyArray_Type_))
    return false;
  const auto* proxy = py::detail::array_proxy(actions.ptr());
  constexpr int kPlain = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if (proxy->nd != 1 || proxy->dimensions[0] != num_envs_ || (proxy->flags & kPlain) != kPlain) return false;
  const auto* descriptor = py::detail::array_descriptor_proxy(proxy->descr);
  if (descriptor->kind != 'i' || descriptor->byteorder != '=') return false;

  const EnvsKernels& table = envs_kernels();
  const int type = descriptor->type_num;
  std::int64_t bad = -1;
  std::int64_t value = 0;
  if (type == py::dtype::num_of<std::int64_t>()) {
    const auto* values = reinterpret_cast<const std::int64_t*>(proxy->data);
    bad = table.take_actions_int64(values, num_envs_, num_actions_, actions_.data());
    if (bad >= 0) value = values[bad];
  } else if (type == py::dtype::num_of<std::int32_t>()) {
    const auto* values = reinterpret_cast<const std::int32_t*>(proxy->data);
    bad = table.take_actions_int32(values, num_envs_, num_actions_, actions_.data());
    if (bad >= 0) value = values[bad];
  } else {
    return false;
  }
  if (bad >= 0)
    throw py::value_error("actions must lie in [0, " + std::to_string(num_actions_) + "), but actions[" +
                          std::to_string(bad) + "] is " + std::to_string(value) + "; no environment was stepped");
  return true;
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
  const StepResult result = {data_of<float>(arrays.observations), data_of<float>(arrays.rewards),
                             data_of<bool>(arrays.terminated), data_of<bool>(arrays.truncated),
                             final_observations_.size() ? data_of<float>(final_observations_) : nullptr};
  const Batch batch = view();
  const auto step_range = kernels().step;
  std::atomic<std::int64_t> num_final{0};
  const auto step_all = [&] {
    for_each_range([&](std::int64_t begin, std::int64_t end) {
      num_final.fetch_add(step_range(batch, actions_.data(), result, begin, end), std::memory_order_relaxed);
    });
  };
  without_gil(step_all);
  py::dict infos;
  if (num_final.load(std::memory_order_relaxed) > 0) add_final_infos(infos, result.terminated, result.truncated);
  return py::make_tuple(arrays.observations, arrays.rewards, arrays.terminated, arrays.truncated, infos);
}

void EnvBatch::add_final_infos(py::dict& infos, const bool* terminated, const bool* truncated) const {
  const py::ssize_t batch_shape[1] = {num_envs_};
  const py::ssize_t row_shape[1] = {kernels().observation_size};
  const py::object rows = new_array(object_type_, 1, batch_shape);
  const py::object ended = new_array(bool_type_, 1, batch_shape);
  bool* const flags = data_of<bool>(ended);
  for (std::int64_t i = 0; i < num_envs_; ++i) flags[i] = terminated[i] | truncated[i];
  PyObject** const row_pointers = data_of<PyObject*>(rows);  // all null in a fresh array
  for (std::int64_t i = 0; i < num_envs_; ++i) {
    if (!flags[i]) {
      Py_INCREF(Py_None);
      row_pointers[i] = Py_None;
      continue;
    }
    py::object row = new_array(float_type_, 1, row_shape);
    std::copy_n(data_of<float>(final_observations_) + i * row_shape[0], row_shape[0], data_of<float>(row));
    row_pointers[i] = row.release().ptr();
  }
  infos["final_obs"] = rows;
  infos["_final_obs"] = ended;
  infos["final_info"] = py::dict();
  infos["_final_info"] = ended.attr("copy")();
}

py::object EnvBatch::observed() {
  const py::ssize_t shape[2] = {num_envs_, kernels().observation_size};
  py::object observations = copy_ ? new_array(float_type_, 2, shape) : kept_.observations;
  const Batch batch = view();
  without_gil([&] {
    for_each_range([&](std::int64_t begin, std::int64_t end) {
      kernels().observe(batch, data_of<float>(observations), begin, end);
    });
  });
  return observations;
}

py::object EnvBatch::reset(const std::uint8_t* mask, const std::uint64_t* seeds, const std::uint8_t* seeded) {
  const Claim claim(*this);
  for (std::int64_t i = 0; seeds != nullptr && i < num_envs_; ++i) {
    if (!seeded[i] || (mask != nullptr && !mask[i])) continue;
    seeds_[i] = seeds[i];
    episodes_[i] = 0;
  }
  const Batch batch = view();
  without_gil([&] {
    for_each_range([&](std::int64_t begin, std::int64_t end) { kernels().reset(batch, mask, begin, end); });
  });
  was_reset_ = true;
  return observed();
}

py::array EnvBatch::final_observations() {
  if (autoreset_mode_ == AutoresetMode::same_step) return final_observations_;
  const Claim claim(*this);
  const py::ssize_t shape[2] = {num_envs_, kernels().observation_size};
  py::object observations = new_array(float_type_, 2, shape);
  kernels().observe(view(), data_of<float>(observations), 0, num_envs_);
  return observations;
}

py::dict EnvBatch::get_state() {
  const Claim claim(*this);
  py::array_t<double> state({static_cast<py::ssize_t>(num_envs_), static_cast<py::ssize_t>(state_size())});
  for (std::int64_t i = 0; i < num_envs_; ++i)
    for (int k = 0; k < state_size(); ++k) state.mutable_at(i, k) = state_component(i, k);
  py::dict result;
  result["state"] = state;
  result["elapsed_steps"] = copy_of(elapsed_steps_);
  result["ended"] = copy_of(ended_).attr("view")(bool_type_);
  result["seeds"] = copy_of(seeds_);
  result["episodes"] = copy_of(episodes_);
  return result;
}

void EnvBatch::set_state(const double* state, const std::int32_t* elapsed_steps, const std::uint8_t* ended,
                         const std::uint64_t* seeds, const std::uint64_t* episodes) {
  const Claim claim(*this);
  for (std::int64_t i = 0; i < num_envs_; ++i)
    for (int k = 0; k < state_size(); ++k) state_component(i, k) = state[i * state_size() + k];
  std::copy_n(elapsed_steps, num_envs_, elapsed_steps_.begin());
  std::copy_n(ended, num_envs_, ended_.begin());
  std::copy_n(seeds, num_envs_, seeds_.begin());
  std::copy_n(episodes, num_envs_, episodes_.begin());
  was_reset_ = true;
}

}  // namespace metafast

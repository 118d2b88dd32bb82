// The batch of environments that a Python VectorEnv drives: it owns the memory and calls the kernels.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "envs/batch.hpp"

namespace py = pybind11;

namespace metafast {

class EnvBatch {
 public:
  using Kernels = const EnvironmentKernels EnvsKernels::*;

  EnvBatch(Kernels kernels, std::int64_t num_envs, std::vector<double> parameters, std::int32_t num_actions,
           AutoresetMode autoreset_mode, std::int32_t max_episode_steps, int num_threads, bool copy);

  // Steps every environment: (observations, rewards, terminated, truncated, infos), or None where the batch was never
  // reset or `actions` is not a plain int32 or int64 array of the right shape (the caller then looks closer).
  py::object step(py::handle actions);

  // Begins an episode in the environments of `mask` (all where it is null); those of them that `seeded` marks first
  // take their seed and start its stream anew. Returns the observations of the whole batch.
  py::object reset(const std::uint8_t* mask, const std::uint64_t* seeds, const std::uint8_t* seeded);

  // Where the last step ended episodes in same_step mode: the buffer it wrote their last observations to. In the other
  // modes the last observations are those of the state.
  py::array final_observations();

  py::dict get_state();
  void set_state(const double* state, const std::int32_t* elapsed_steps, const std::uint8_t* ended,
                 const std::uint64_t* seeds, const std::uint64_t* episodes);

  std::int64_t num_envs() const { return num_envs_; }
  int state_size() const { return kernels().state_size; }
  bool was_reset() const { return was_reset_; }

 private:
  class Claim;
  struct Arrays {
    py::object observations, rewards, terminated, truncated;
  };

  const EnvironmentKernels& kernels() const { return envs_kernels().*kernels_; }
  Batch view();
  template <class Function>
  void for_each_range(Function&& function);
  // Runs function() with the GIL released, where the batch is large enough to be worth it.
  template <class Function>
  void without_gil(const Function& function) const;
  Arrays fresh_arrays() const;
  py::object observed();
  // Adds what gymnasium's SyncVectorEnv tells in same_step mode of the episodes that ended.
  void add_final_infos(py::dict& infos, const bool* terminated, const bool* truncated) const;
  bool take_actions(py::handle actions);
  double& state_component(std::int64_t index, int component) {
    return state_.get()[(index / kTile * state_size() + component) * kTile + index % kTile];
  }

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  const Kernels kernels_;
  const std::int64_t num_envs_;
  const std::vector<double> parameters_;
  const std::int32_t num_actions_;
  const AutoresetMode autoreset_mode_;
  const std::int32_t max_episode_steps_;
  const int num_threads_;
  const bool copy_;

  std::unique_ptr<double, Free> state_;
  std::vector<std::int32_t> elapsed_steps_;
  std::vector<std::uint8_t> ended_;
  std::vector<std::uint64_t> seeds_;
  std::vector<std::uint64_t> episodes_;
  std::vector<std::int32_t> actions_;
  bool was_reset_ = false;
  std::atomic<unsigned> claim_{0};  // 0: free

  py::dtype float_type_{py::dtype::of<float>()};
  py::dtype bool_type_{py::dtype::of<bool>()};
  py::dtype object_type_{"O"};
  py::array final_observations_;
  Arrays kept_;  // what copy=False returns every time
};

}  // namespace metafast

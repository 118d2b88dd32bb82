// The batch of environments that a Python VectorEnv drives: it owns the memory and calls the kernels.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "envs/batch.hpp"
#include "envs/rollout.hpp"

namespace py = pybind11;

namespace metafast {

// What an environment is: its phases, and the memory that they read and write.
struct EnvironmentLayout {
  Phases phases;
  std::string parameters;  // bytes, the phases' own
  std::int64_t state_bytes;
  std::vector<std::int64_t> field_bytes;  // of one environment: their sum is state_bytes
  py::dtype observation_type;
  std::vector<py::ssize_t> observation_shape;  // of one environment
  py::dtype action_type;
  std::vector<py::ssize_t> action_shape;
  // An integer action k must lie in [action_low[k], action_high[k]); empty where the actions are floats.
  std::vector<std::int64_t> action_low, action_high;
  py::dtype reward_type;
  bool users;    // a user's environment, whose code may raise an exception
  bool streams;  // episodes begin with NumPy's generators, one for each environment
};

class EnvBatch {
 public:
  EnvBatch(EnvironmentLayout layout, std::int64_t num_envs, AutoresetMode autoreset_mode,
           std::int32_t max_episode_steps, int num_threads, bool copy, bool undoable);

  // Steps every environment: (observations, rewards, terminated, truncated, infos). None where the batch was never
  // reset or `actions` is not a plain array of the right type and shape (the caller then looks closer). An int where
  // the code of a user's environment raised: which one. With `undoable` every environment is then as it was.
  py::object step(py::handle actions);

  // Begins an episode in the environments of `mask` (all where it is null); those of them that `seeded` marks first
  // take their seed (and stream) and start it anew. Returns the observations of the whole batch, or an int as step.
  py::object reset(const std::uint8_t* mask, const std::uint64_t* seeds, const std::uint8_t* seeded,
                   const std::uint64_t* streams);

  // Where the last step ended episodes in same_step mode: the buffer it wrote their last observations to. In the other
  // modes the last observations are those of the state. An int as step.
  py::object final_observations();

  // Lets a policy act for plan.num_steps; `plan` comes without env_actions, action_bytes and env_rewards. Where the code
  // of a user's environment raised, every environment is as it was before. Where the policy's outputs were unusable, or
  // Ctrl-C stopped it (which raises), the environments must be reset.
  template <class T>
  RolloutOutcome rollout(RolloutPlan<T> plan);

  // The state comes as bytes, uint8 [N, state_bytes]: the fields of an environment side by side.
  py::dict get_state();
  void set_state(const std::uint8_t* state, const std::int32_t* elapsed_steps, const std::uint8_t* ended,
                 const std::uint64_t* seeds, const std::uint64_t* episodes, const std::uint64_t* streams);

  std::int64_t num_envs() const { return num_envs_; }
  std::int64_t state_bytes() const { return layout_.state_bytes; }
  bool has_streams() const { return layout_.streams; }
  bool was_reset() const { return was_reset_; }
  std::int64_t observation_bytes() const { return observation_bytes_; }
  std::int64_t action_bytes() const { return action_size_ * layout_.action_type.itemsize(); }

 private:
  class Claim;
  struct Arrays {
    py::object observations, rewards, terminated, truncated;
  };

  Batch view();
  // Calls function(begin, end) for ranges that cover the batch, on the threads that are worth it.
  template <class Function>
  void for_each_range(Function&& function);
  Arrays fresh_arrays() const;
  py::object fresh_observations() const;
  py::object observed();
  // Keeps all that a step or reset changes.
  void save();
  // Puts back what a failed step or reset changed; returns the environment that failed.
  py::object undone(std::int64_t failed);
  // Adds what gymnasium's SyncVectorEnv tells in same_step mode of the episodes that ended.
  void add_final_infos(py::dict& infos, const std::uint8_t* terminated, const std::uint8_t* truncated) const;
  bool take_actions(py::handle actions);
  [[noreturn]] void refuse_action(std::int64_t position, const std::string& value) const;
  template <class Copy>
  void for_each_field(const Copy& copy);

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  using Memory = std::unique_ptr<std::byte, Free>;
  Memory tiles_of_state() const;

  const EnvironmentLayout layout_;
  const std::int64_t num_envs_;
  const AutoresetMode autoreset_mode_;
  const std::int32_t max_episode_steps_;
  const int num_threads_;
  const bool copy_;
  std::int64_t observation_bytes_, action_size_;
  std::vector<py::ssize_t> observations_shape_;  // of the batch

  Memory state_, saved_state_;
  std::vector<std::int32_t> elapsed_steps_, saved_elapsed_steps_;
  std::vector<std::uint8_t> ended_, saved_ended_;
  std::vector<std::uint64_t> seeds_;
  std::vector<std::uint64_t> episodes_, saved_episodes_;
  std::vector<std::uint64_t> streams_;
  std::vector<std::byte> actions_;
  bool was_reset_ = false;
  std::atomic<unsigned> claim_{0};  // 0: free

  // Nanoseconds that one environment takes, the least of the first few calls, which decide what threads are worth.
  double cost_ = std::numeric_limits<double>::infinity();
  int measured_calls_ = 0;

  py::dtype bool_type_{py::dtype::of<bool>()};
  py::dtype object_type_{"O"};
  py::object final_observations_;
  Arrays kept_;  // what copy=False returns every time
};

// Marks the batch as in use; a second user would race with the first.
class EnvBatch::Claim {
 public:
  explicit Claim(EnvBatch& batch);
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  std::atomic<unsigned>& claim_;
};

}  // namespace metafast

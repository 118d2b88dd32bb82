// Updates of a policy: epochs and minibatches in one call without the GIL; the kernels do the work.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "bindings/interrupt.hpp"
#include "bindings/policy_network.hpp"
#include "bindings/register.hpp"
#include "bindings/scratch.hpp"
#include "common/scheduler.hpp"

namespace metafast {
namespace {

// Gradients of slices are summed in order; no more of them than this, and no more memory for them.
constexpr std::int64_t kMostSlices = 64;
constexpr std::int64_t kMostSliceBytes = std::int64_t{1} << 26;
// In elements: the gradients of slices begin at whole vectors.
constexpr std::int64_t kGradientAlignment = 16;
// Parameters in a piece of what is done to each of them.
constexpr std::int64_t kParameterSlice = 16384;

template <class T>
const LearningKernels<T>& learning_kernels() {
  if constexpr (sizeof(T) == 4) return nn_kernels().float32;
  else return nn_kernels().float64;
}

struct Settings {
  std::int64_t epochs, rows, minibatches;  // `rows` of the order: steps, or environments of a recurrent policy
  const std::int64_t* order;               // [epochs, rows]
  const double* learning_rates;            // [epochs, number of minibatches]
  double value_coef, entropy_coef, num_units, max_grad_norm, target_kl;
  bool normalize_advantages;
};

enum class Ending { complete, interrupted, not_finite };

template <class T>
class Update {
 public:
  Update(const Network& network, const Experience<T>& experience, const Objective<T>& objective,
         const Settings& settings, const AdamOptions& optimizer, T* parameters, T* first, T* second)
      : network_(network),
        experience_(experience),
        objective_(objective),
        settings_(settings),
        optimizer_(optimizer),
        parameters_(parameters),
        first_(first),
        second_(second),
        size_(network.num_parameters),
        stride_((size_ + kGradientAlignment - 1) / kGradientAlignment * kGradientAlignment) {
    minibatch_rows_ = (settings.rows + settings.minibatches - 1) / settings.minibatches;
    const std::int64_t steps = recurrent() ? experience.num_steps : 1;
    slice_rows_ = slice_rows(minibatch_rows_);
    const std::int64_t slices = (minibatch_rows_ + slice_rows_ - 1) / slice_rows_;
    gradients_ = AlignedMemory(slices * stride_ * bytes());
    slice_sums_.resize(static_cast<std::size_t>(slices * kNumDiagnostics));
    const int threads = static_cast<int>(std::min<std::int64_t>(get_num_threads(), slices));
    scratch_ = std::make_unique<ScratchBlocks>(
        learning_kernels<T>().scratch_size(network, slice_rows_, steps) * bytes(), threads);
  }

  Ending run() {
    const std::int64_t minibatches = (settings_.rows + minibatch_rows_ - 1) / minibatch_rows_;
    for (std::int64_t epoch = 0; epoch < settings_.epochs; ++epoch) {
      double divergence = 0, rows = 0;
      for (std::int64_t k = 0; k < minibatches; ++k) {
        const std::int64_t begin = k * minibatch_rows_;
        const std::int64_t count = std::min(minibatch_rows_, settings_.rows - begin);
        optimizer_.learning_rate = settings_.learning_rates[epoch * minibatches + k];
        const Ending ending = step(settings_.order + epoch * settings_.rows + begin, count);
        if (ending != Ending::complete) return ending;
        divergence += diagnostics_[diagnostics_.size() - kColumns + kDivergence];
        rows += diagnostics_[diagnostics_.size() - 2];
      }
      if (settings_.target_kl > 0 && divergence > settings_.target_kl * rows) break;
    }
    return Ending::complete;
  }

  // [steps taken, kColumns]: the sums over rows, the number of rows, the gradient's length.
  static constexpr int kColumns = kNumDiagnostics + 2;
  const std::vector<double>& diagnostics() const { return diagnostics_; }
  std::int64_t num_steps() const { return optimizer_.step; }

 private:
  static constexpr std::int64_t bytes() { return static_cast<std::int64_t>(sizeof(T)); }
  bool recurrent() const { return network_.gru.width > 0; }

  std::int64_t slice_rows(std::int64_t rows) const {
    const std::int64_t least = recurrent() ? kSliceEnvs : kSliceRows;
    const std::int64_t by_memory = std::max<std::int64_t>(1, kMostSliceBytes / (size_ * bytes()));
    const std::int64_t slices = std::min(kMostSlices, by_memory);
    const std::int64_t wanted = std::max(least, (rows + slices - 1) / slices);
    return (wanted + least - 1) / least * least;
  }

  // Calls function(row of experience) for each step of a minibatch that counts.
  template <class Function>
  void for_rows(const std::int64_t* indices, std::int64_t count, const Function& function) const {
    if (!recurrent()) {
      for (std::int64_t i = 0; i < count; ++i) function(indices[i]);
      return;
    }
    for (std::int64_t step = 0; step < experience_.num_steps; ++step)
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t row = step * experience_.num_envs + indices[i];
        if (experience_.mask == nullptr || experience_.mask[row]) function(row);
      }
  }

  void weigh(const std::int64_t* indices, std::int64_t count) {
    std::int64_t rows = count;
    if (recurrent()) {
      rows = 0;
      for_rows(indices, count, [&](std::int64_t) { ++rows; });
    }
    num_rows_ = static_cast<double>(rows);
    const double share = rows > 0 ? 1 / num_rows_ : 0;
    // num_units counts what the policy's part is averaged over, per row of the whole batch.
    objective_.policy_scale = static_cast<T>(share / settings_.num_units);
    objective_.value_scale = static_cast<T>(settings_.value_coef * share);
    objective_.entropy_scale = static_cast<T>(settings_.entropy_coef * share);
    if (!settings_.normalize_advantages || rows == 0) return;
    double mean = 0, square = 0;
    for_rows(indices, count, [&](std::int64_t row) { mean += static_cast<double>(experience_.advantages[row]); });
    mean *= share;
    for_rows(indices, count, [&](std::int64_t row) {
      const double difference = static_cast<double>(experience_.advantages[row]) - mean;
      square += difference * difference;
    });
    objective_.advantage_shift = static_cast<T>(mean);
    objective_.advantage_scale = static_cast<T>(1 / (std::sqrt(square * share) + 1e-8));
  }

  Ending step(const std::int64_t* indices, std::int64_t count) {
    weigh(indices, count);
    const LearningKernels<T>& table = learning_kernels<T>();
    const std::int64_t slices = (count + slice_rows_ - 1) / slice_rows_;
    auto* const gradients = reinterpret_cast<T*>(gradients_.get());
    const bool completed = for_each_slice(
        slices,
        [&](std::int64_t slice) {
          const ScratchBlocks::Block scratch(*scratch_);
          const std::int64_t begin = slice * slice_rows_;
          T* const gradient = gradients + slice * stride_;
          double* const sums = slice_sums_.data() + slice * kNumDiagnostics;
          std::memset(gradient, 0, static_cast<std::size_t>(size_ * bytes()));
          std::fill_n(sums, kNumDiagnostics, 0.0);
          table.add_gradient(network_, parameters_, experience_, objective_, indices + begin,
                             std::min(slice_rows_, count - begin), reinterpret_cast<T*>(scratch.get()), gradient,
                             sums);
        },
        0, python_interrupted);
    if (!completed) return Ending::interrupted;

    const std::int64_t pieces = (size_ + kParameterSlice - 1) / kParameterSlice;
    squares_.assign(static_cast<std::size_t>(pieces), 0.0);
    for_each_slice(pieces, [&](std::int64_t piece) {
      const std::int64_t begin = piece * kParameterSlice;
      squares_[static_cast<std::size_t>(piece)] =
          table.reduce(gradients, slices, stride_, begin, std::min(begin + kParameterSlice, size_));
    });
    double square = 0;
    for (const double part : squares_) square += part;
    const double norm = std::sqrt(square);
    if (!std::isfinite(norm)) return Ending::not_finite;
    optimizer_.gradient_scale = 1;
    if (settings_.max_grad_norm > 0) optimizer_.gradient_scale = std::min(1.0, settings_.max_grad_norm / (norm + 1e-6));
    ++optimizer_.step;
    for_each_slice(pieces, [&](std::int64_t piece) {
      const std::int64_t begin = piece * kParameterSlice;
      table.descend(optimizer_, parameters_, gradients, first_, second_, begin,
                    std::min(begin + kParameterSlice, size_));
    });

    double sums[kColumns] = {};
    for (std::int64_t slice = 0; slice < slices; ++slice)
      for (int k = 0; k < kNumDiagnostics; ++k)
        sums[k] += slice_sums_[static_cast<std::size_t>(slice * kNumDiagnostics + k)];
    sums[kNumDiagnostics] = num_rows_;
    sums[kNumDiagnostics + 1] = norm;
    diagnostics_.insert(diagnostics_.end(), sums, sums + kColumns);
    return Ending::complete;
  }

  const Network& network_;
  const Experience<T>& experience_;
  Objective<T> objective_;
  const Settings& settings_;
  AdamOptions optimizer_;
  T *parameters_, *first_, *second_;
  const std::int64_t size_;
  const std::int64_t stride_;  // from one slice's gradient to the next
  std::int64_t minibatch_rows_, slice_rows_;
  double num_rows_ = 0;
  AlignedMemory gradients_;
  std::unique_ptr<ScratchBlocks> scratch_;
  std::vector<double> slice_sums_, squares_, diagnostics_;
};

Surrogate surrogate_named(const std::string& name) {
  if (name == "clipped") return Surrogate::clipped;
  if (name == "log_prob") return Surrogate::log_prob;
  if (name == "divergence") return Surrogate::divergence;
  throw py::value_error("there is no native objective named '" + name + "'");
}

// Returns (steps of the optimiser so far, diagnostics [steps taken, columns]).
template <class T>
py::tuple update_as(const PolicyNetwork& policy, py::array& parameters, const py::dict& optimizer,
                    const py::dict& experience, const py::dict& objective, const py::dict& settings) {
  const Network& network = policy.network();
  const std::int64_t size = network.num_parameters;
  T* const values = array_data<T>(parameters, size, "parameters");
  T* const first = array_data<T>(optimizer["first"], size, "the first moments");
  T* const second = array_data<T>(optimizer["second"], size, "the second moments");

  const auto rows_array = experience["observations"].cast<py::array>();
  const std::int64_t num_steps = experience["num_steps"].cast<std::int64_t>();
  const std::int64_t num_envs = experience["num_envs"].cast<std::int64_t>();
  const std::int64_t rows = num_steps * num_envs;
  if (rows_array.size() < rows * network.observation_size || !(rows_array.flags() & py::array::c_style))
    throw py::value_error("observations must be a contiguous array of all rows");
  Experience<T> data = {};
  data.observations = observations_of<T>(network, rows_array, experience["statistics"]);
  const std::int64_t action_rows = rows * network.head.action_size;
  if (policy.whole_actions())
    data.whole_actions = optional_array_data<const std::int64_t>(experience["actions"], action_rows, "actions");
  else data.real_actions = optional_array_data<const T>(experience["actions"], action_rows, "actions");
  data.log_probs = optional_array_data<const T>(experience["log_probs"], rows, "log_probs");
  data.advantages = optional_array_data<const T>(experience["advantages"], rows, "advantages");
  data.returns = optional_array_data<const T>(experience["returns"], rows, "returns");
  data.values = optional_array_data<const T>(experience["values"], rows, "values");
  data.teacher = optional_array_data<const T>(experience["teacher"], rows * policy.distribution_size(), "teacher");
  data.num_steps = num_steps;
  data.num_envs = num_envs;
  const bool recurrent = network.gru.width > 0;
  if (recurrent) {
    data.starts = flag_data(experience["starts"], rows, "starts");
    data.mask = experience["mask"].is_none() ? nullptr : flag_data(experience["mask"], rows, "mask");
    data.hidden = array_data<const T>(experience["hidden"], num_envs * network.gru.width, "hidden");
  }

  Objective<T> aim = {};
  aim.surrogate = surrogate_named(objective["surrogate"].cast<std::string>());
  aim.clip = objective["clip"].cast<T>();
  aim.value_clip = objective["value_clip"].cast<T>();
  aim.advantage_scale = T(1);
  Settings plan = {};
  plan.value_coef = objective["value_coef"].cast<double>();
  plan.entropy_coef = objective["entropy_coef"].cast<double>();
  if ((aim.surrogate == Surrogate::divergence) != (data.teacher != nullptr) ||
      (data.teacher == nullptr && data.whole_actions == nullptr && data.real_actions == nullptr) ||
      (aim.surrogate == Surrogate::clipped && data.log_probs == nullptr) ||
      (plan.value_coef != 0 && data.returns == nullptr) || (aim.value_clip > 0 && data.values == nullptr))
    throw py::value_error("the objective lacks an array that it needs");

  const auto order = settings["order"].cast<py::array>();
  if (order.ndim() != 2 || order.shape(1) < 1) throw py::value_error("order must be [epochs, rows]");
  plan.epochs = order.shape(0);
  plan.rows = order.shape(1);
  plan.order = array_data<const std::int64_t>(order, plan.epochs * plan.rows, "order");
  const std::int64_t limit = recurrent ? num_envs : rows;
  for (std::int64_t i = 0; i < plan.epochs * plan.rows; ++i)
    if (plan.order[i] < 0 || plan.order[i] >= limit) throw py::value_error("order lists a row that there is not");
  plan.minibatches = settings["minibatches"].cast<std::int64_t>();
  if (plan.minibatches < 1) throw py::value_error("minibatches must be at least 1");
  const std::int64_t minibatch_rows = (plan.rows + plan.minibatches - 1) / plan.minibatches;
  const std::int64_t minibatches = (plan.rows + minibatch_rows - 1) / minibatch_rows;
  plan.learning_rates =
      array_data<const double>(settings["learning_rates"], plan.epochs * minibatches, "learning_rates");
  plan.num_units = settings["num_units"].cast<double>();
  plan.max_grad_norm = settings["max_grad_norm"].cast<double>();
  plan.target_kl = settings["target_kl"].cast<double>();
  plan.normalize_advantages = settings["normalize_advantages"].cast<bool>();
  if (plan.normalize_advantages && data.advantages == nullptr)
    throw py::value_error("there are no advantages to normalise");

  AdamOptions adam = {};
  adam.beta_1 = optimizer["beta_1"].cast<double>();
  adam.beta_2 = optimizer["beta_2"].cast<double>();
  adam.epsilon = optimizer["epsilon"].cast<double>();
  adam.weight_decay = optimizer["weight_decay"].cast<double>();
  adam.decoupled = optimizer["decoupled"].cast<bool>();
  adam.plain = optimizer["plain"].cast<bool>();
  adam.step = optimizer["step"].cast<std::int64_t>();

  Update<T> update(network, data, aim, plan, adam, values, first, second);
  Ending ending;
  {
    const py::gil_scoped_release released;
    ending = update.run();
  }
  if (ending == Ending::interrupted) throw py::error_already_set();
  constexpr int columns = Update<T>::kColumns;
  const std::vector<double>& sums = update.diagnostics();
  py::array_t<double> diagnostics({static_cast<py::ssize_t>(sums.size()) / columns, py::ssize_t{columns}});
  std::copy(sums.begin(), sums.end(), diagnostics.mutable_data());
  return py::make_tuple(update.num_steps(), diagnostics, ending == Ending::complete);
}

py::tuple update(const PolicyNetwork& policy, py::array parameters, const py::dict& optimizer,
                 const py::dict& experience, const py::dict& objective, const py::dict& settings) {
  return with_parameter_type(parameters, [&](auto real) -> py::tuple {
    return update_as<decltype(real)>(policy, parameters, optimizer, experience, objective, settings);
  });
}

}  // namespace

void register_policy_update(py::module_& module) {
  module.def("update_policy", &update, py::arg("network"), py::arg("parameters"), py::arg("optimizer"),
             py::arg("experience"), py::arg("objective"), py::arg("settings"));
}

}  // namespace metafast

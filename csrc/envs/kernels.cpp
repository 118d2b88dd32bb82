// The kernel table of the environments, compiled once per instruction-set level.
#include <cstdint>

#include "envs/batch.hpp"
#include "envs/classic_control.hpp"
#include "envs/driver.hpp"

namespace metafast {
namespace METAFAST_ISA_NAMESPACE {
namespace {

Outcome step_range(const Batch& batch, const StepResult& result, std::int64_t begin, std::int64_t end) {
  Outcome outcome = {0, -1};
  for (std::int64_t first = begin; first < end; first += kTile) {
    const std::int64_t failed = TileDriver(batch, first, end).step(result, outcome.num_final);
    if (failed >= 0 && outcome.failed < 0) outcome.failed = failed;
  }
  return outcome;
}

std::int64_t reset_range(const Batch& batch, const std::uint8_t* mask, std::int64_t begin, std::int64_t end) {
  std::int64_t first_failed = -1;
  for (std::int64_t first = begin; first < end; first += kTile) {
    const std::int64_t failed = TileDriver(batch, first, end).reset(mask);
    if (failed >= 0 && first_failed < 0) first_failed = failed;
  }
  return first_failed;
}

std::int64_t observe_range(const Batch& batch, std::byte* observations, std::int64_t begin, std::int64_t end) {
  for (std::int64_t first = begin; first < end; first += kTile) {
    const std::int64_t failed =
        TileDriver(batch, first, end).observe(-1, nullptr, observations + first * batch.observation_bytes);
    if (failed >= 0) return failed;
  }
  return -1;
}

// One column, as of a Discrete space: the compiler vectorises the loop, in the actions' own width where the limits fit.
template <class Limit, class Taken, class Integer>
bool take_column(const Integer* __restrict actions, std::int64_t rows, Limit low, Limit high,
                 Taken* __restrict taken) {
  Integer outside = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    const Integer action = actions[i];
    outside |= (action < low) | (action >= high);
    taken[i] = static_cast<Taken>(action);
  }
  return outside == 0;
}

template <class Taken, class Integer>
bool take_columns(const Integer* __restrict actions, std::int64_t rows, std::int64_t columns, const std::int64_t* low,
                  const std::int64_t* high, Taken* __restrict taken) {
  if (columns == 1) {
    if (low[0] == static_cast<Integer>(low[0]) && high[0] == static_cast<Integer>(high[0]))
      return take_column(actions, rows, static_cast<Integer>(low[0]), static_cast<Integer>(high[0]), taken);
    return take_column(actions, rows, low[0], high[0], taken);
  }
  bool inside = true;
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t k = 0; k < columns; ++k) {
      const Integer action = actions[i * columns + k];
      inside &= (action >= low[k]) & (action < high[k]);
      taken[i * columns + k] = static_cast<Taken>(action);
    }
  }
  return inside;
}

template <class Integer>
std::int64_t take_integers(const Integer* actions, std::int64_t rows, std::int64_t columns, const std::int64_t* low,
                           const std::int64_t* high, void* taken, int taken_bytes) {
  bool inside = true;
  switch (taken_bytes) {
    case 1:
      inside = take_columns(actions, rows, columns, low, high, static_cast<std::int8_t*>(taken));
      break;
    case 2:
      inside = take_columns(actions, rows, columns, low, high, static_cast<std::int16_t*>(taken));
      break;
    case 4:
      inside = take_columns(actions, rows, columns, low, high, static_cast<std::int32_t*>(taken));
      break;
    default:
      inside = take_columns(actions, rows, columns, low, high, static_cast<std::int64_t*>(taken));
  }
  if (inside) return -1;
  std::int64_t index = 0;
  while (actions[index] >= low[index % columns] && actions[index] < high[index % columns]) ++index;
  return index;
}

template <class Real>
std::int64_t take_floats(const Real* __restrict actions, std::int64_t count, Real* __restrict taken) {
  std::int32_t infinite = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    taken[i] = actions[i];
    infinite |= !(actions[i] - actions[i] == 0);
  }
  if (!infinite) return -1;
  std::int64_t index = 0;
  while (actions[index] - actions[index] == 0) ++index;
  return index;
}

std::int64_t find_ended(const std::uint8_t* ended, std::int64_t count) {
  std::uint8_t any = 0;
  for (std::int64_t i = 0; i < count; ++i) any |= ended[i];
  if (!any) return -1;
  std::int64_t index = 0;
  while (!ended[index]) ++index;
  return index;
}

}  // namespace

const EnvsKernels envs_kernels = {&step_range,
                                  &reset_range,
                                  &observe_range,
                                  &classic_control_named,
                                  &take_integers<std::int32_t>,
                                  &take_integers<std::int64_t>,
                                  &take_floats<float>,
                                  &take_floats<double>,
                                  &find_ended};

}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast

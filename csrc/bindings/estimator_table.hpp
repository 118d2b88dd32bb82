// What each return estimator takes, as a table of argument roles; one function (returns.cpp) checks and calls by it.
#pragma once

#include "returns/estimators.hpp"

namespace metafast {

enum class Role {
  input,       // floats in the shape of the rewards: slot is a returns::Input
  prediction,  // the same, checked but not read
  successors,  // the same, or one row: the values after the last step
  row,         // floats in the shape of the rewards without the time axis
  flag,        // a returns::Flag
  factor,      // a number or floats that broadcast to the rewards: a returns::Factor
  lengths,     // of the episodes packed end to end in the time axis
  last_row,    // floats, one for each of those episodes: the values after their last steps
  clip,        // a positive number: a Clip
  steps,       // n
  forwards,    // the recurrence runs forwards in time
  time_axis,
  out,
};

enum Clip { kClipRho, kClipC, kClipPolicyRho };

struct Parameter {
  const char* name;
  Role role;
  int slot = 0;
  bool optional = false;
};

constexpr int kMaxParameters = 16;

struct Estimator {
  const char* name;
  const char* results;  // how errors about `out` name them
  int num_results;
  returns::Kernel returns::Kernels::*kernel;  // null: n-step returns
  Parameter parameters[kMaxParameters];       // those after the last have no name
  bool constant = false;                      // gradients do not flow through the results
};

namespace estimator_table {

constexpr Parameter kRewards{"rewards", Role::input, returns::kRewards};
constexpr Parameter kValues{"values", Role::input, returns::kValues};
constexpr Parameter kSuccessors{"next_values", Role::successors, returns::kNextValues};
constexpr Parameter kNextValues{"next_values", Role::input, returns::kNextValues};
constexpr Parameter kFinalValues{"final_values", Role::input, returns::kFinalValues, true};
constexpr Parameter kLogRhos{"log_rhos", Role::input, returns::kLogRhos};
constexpr Parameter kTerminated{"terminated", Role::flag, returns::kTerminated};
constexpr Parameter kTruncated{"truncated", Role::flag, returns::kTruncated, true};
constexpr Parameter kGamma{"gamma", Role::factor, returns::kGamma};
constexpr Parameter kLam{"lam", Role::factor, returns::kLam};
constexpr Parameter kTimeAxis{"time_axis", Role::time_axis};
constexpr Parameter kOut{"out", Role::out, 0, true};

}  // namespace estimator_table

inline constexpr Estimator kGae = [] {
  using namespace estimator_table;
  return Estimator{"gae", "(advantages, returns)", 2, &returns::Kernels::gae,
                   {kRewards, kValues, kSuccessors, kTerminated, kTruncated, kGamma, kLam, kFinalValues,
                    {"mask", Role::flag, returns::kMask, true}, kTimeAxis, kOut}};
}();

inline constexpr Estimator kDiscountedReturns = [] {
  using namespace estimator_table;
  return Estimator{"discounted_returns", "returns", 1, &returns::Kernels::discounted_returns,
                   {kRewards, kTerminated, kTruncated, kGamma, {"bootstrap", Role::row, returns::kNextValues, true},
                    kFinalValues, kTimeAxis, kOut}};
}();

inline constexpr Estimator kLambdaReturns = [] {
  using namespace estimator_table;
  return Estimator{"lambda_returns", "returns", 1, &returns::Kernels::lambda_returns,
                   {kRewards, kNextValues, kTerminated, kTruncated, kGamma, kLam, kTimeAxis, kOut}};
}();

inline constexpr Estimator kNStepReturns = [] {
  using namespace estimator_table;
  return Estimator{"n_step_returns", "returns", 1, nullptr,
                   {kRewards, kNextValues, kTerminated, kTruncated, kGamma, {"n", Role::steps}, kTimeAxis, kOut}};
}();

inline constexpr Estimator kVtrace = [] {
  using namespace estimator_table;
  return Estimator{"vtrace", "(targets, pg_advantages)", 2, &returns::Kernels::vtrace,
                   {kLogRhos, kRewards, kValues, kSuccessors, kTerminated, kTruncated, kGamma, kLam,
                    {"clip_rho", Role::clip, kClipRho}, {"clip_c", Role::clip, kClipC},
                    {"clip_pg_rho", Role::clip, kClipPolicyRho}, kFinalValues, kTimeAxis, kOut},
                   true};
}();

inline constexpr Estimator kRetrace = [] {
  using namespace estimator_table;
  return Estimator{"retrace", "targets", 1, &returns::Kernels::retrace,
                   {{"q", Role::prediction}, {"next_q_expected", Role::input, returns::kNextQExpected},
                    {"next_q", Role::input, returns::kNextQ}, kLogRhos, kRewards, kTerminated, kTruncated, kGamma, kLam,
                    kTimeAxis, kOut},
                   true};
}();

inline constexpr Estimator kQLambda = [] {
  using namespace estimator_table;
  return Estimator{"q_lambda", "targets", 1, &returns::Kernels::lambda_returns,
                   {{"next_q_max", Role::input, returns::kNextValues}, kRewards, kTerminated, kTruncated, kGamma, kLam,
                    kTimeAxis, kOut},
                   true};
}();

inline constexpr Estimator kUpgo = [] {
  using namespace estimator_table;
  return Estimator{"upgo", "advantages", 1, &returns::Kernels::upgo,
                   {kRewards, kValues, kSuccessors, kTerminated, kTruncated, kGamma, kFinalValues, kTimeAxis, kOut},
                   true};
}();

// With values, GAE; without, discounted returns.
inline constexpr Estimator kSegmentReturns = [] {
  using namespace estimator_table;
  return Estimator{"segment_returns", "(advantages, returns)", 2, &returns::Kernels::gae,
                   {kRewards, {"lengths", Role::lengths}, kGamma, {"values", Role::input, returns::kValues, true},
                    {"last_values", Role::last_row, 0, true}, {"lam", Role::factor, returns::kLam, true}}};
}();

inline constexpr Estimator kAffineScan = [] {
  using namespace estimator_table;
  return Estimator{"affine_scan", "result", 1, &returns::Kernels::affine_scan,
                   {{"offsets", Role::input, returns::kOffsets}, {"decays", Role::input, returns::kDecays}, kTimeAxis,
                    {"forwards", Role::forwards}, kOut}};
}();

}  // namespace metafast

// What an estimator is to the drivers of the CPU and of CUDA: a structure of formulas, which traverse nothing.
//
// A Formula has
//   Inputs, kResults      what it reads and how many arrays it writes,
//   kCompanion            whether a step needs something of the step after it: its value where successors are not
//                         given, its trace in Retrace;   companion<P>(walk, index), initial_companion(...)
//   kReadsFinalValues     whether final_values is one of the inputs,
//   kEitherWay            whether time may run either way through memory,
//   kMasked               whether steps may be skipped,
//   initial(problem, outer, column)                    the carry from behind the last step,
//   step<P>(walk, index, next_companion)               a step: its `affine`, and what emit needs of it,
//   emit<P, kStream>(walk, index, step, next, solved)  writes the results of a step, given the carries after it.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "returns/problem.hpp"
#include "returns/recurrence.hpp"

namespace metafast::returns {
namespace {

template <Input... inputs>
struct InputList {};

}  // namespace
}  // namespace metafast::returns

// Where a thread of a CUDA kernel stands in the arrays of a problem, and the steps that it holds in registers.
#pragma once

#include <utility>

#include "returns/device_elements.cuh"
#include "returns/device_problem.hpp"
#include "returns/formula.hpp"

namespace metafast::returns {
namespace {

// What a thread holds: a few steps of one column, or of several that lie side by side; as many as there are registers
// for, so that there is much to load at once.
//   kWide   vectors of columns: every array has neighbouring columns side by side, aligned; coefficients are numbers
//   else    single columns, of any strides; where time is what is contiguous, their steps are moved as vectors
template <class StorageType, bool kWideColumns, int kNumSteps>
struct Shape {
  using Storage = StorageType;
  static constexpr bool kWide = kWideColumns;
  static constexpr int kPart = sizeof(Storage) == 8 ? 2 : 4;  // elements of a vector
  static constexpr int kColumns = kWide ? kPart : 1;
  static constexpr int kSteps = kNumSteps;
  static constexpr int kElements = kSteps * kColumns;
};

template <Input which, Input... inputs>
constexpr bool reads(InputList<inputs...>) {
  return ((inputs == which) || ...);
}

template <class Formula, class Real, class Storage, bool kWide>
struct ShapeOf {
  using Step = decltype(Formula::template step<Scalar<Real>>(std::declval<const int&>(), 0, Real{}));
  static constexpr bool kMuchToHold =
      sizeof(Step) > 16 || Formula::kMasked || reads<kLogRhos>(typename Formula::Inputs{});
  static constexpr int kSteps = kWide ? (kMuchToHold ? 2 : 4) : sizeof(Real) == 8 ? 4 : 8;
  using type = Shape<Storage, kWide, kSteps>;
};

// The column, or the first of the columns, of a thread.
struct Columns {
  std::int64_t outer, inner;
};

template <class Real, class Shape>
class DeviceWalk {
 public:
  using Storage = typename Shape::Storage;
  using Element = Real;

  const DeviceProblem<Real>& problem;
  const SequenceExtents& extents;
  const bool bootstrapped;

  __host__ __device__ __forceinline__ DeviceWalk(const DeviceProblem<Real>& problem, Columns columns)
      : problem(problem), extents(problem.extents), bootstrapped(problem.bootstrapped), columns_(columns) {}

  // For the Formula's initial values.
  __host__ __device__ __forceinline__ bool has(Input which) const { return problem.inputs[which].data != nullptr; }
  __host__ __device__ __forceinline__ Real read(Input which, std::int64_t outer, std::int64_t time,
                                                std::int64_t column) const {
    return at(problem.inputs[which], Columns{outer, column}, time);
  }

  // Moves to the steps from `time` on, of which `count` belong to the problem, and loads what the Formula reads there.
  // `vectors`: 1 or -1 where time is contiguous, forwards or backwards; else 0.
  template <class Formula>
  __host__ __device__ __forceinline__ void load(std::int64_t time, int count, int vectors) {
    time_ = time;
    count_ = count;
    vectors_ = vectors;
    load_inputs(typename Formula::Inputs{});
    load_flags(kTerminated);
    load_flags(kTruncated);
    if constexpr (Formula::kMasked) load_flags(kMask);
  }

  // Asks for what `load` will read at the steps from `time` on, all of which belong to the problem.
  template <class Formula>
  __host__ __device__ __forceinline__ void prefetch_steps(std::int64_t time) const {
    prefetch_inputs(time, typename Formula::Inputs{});
    prefetch_array<1>(problem.flags[kTerminated], time);
    prefetch_array<1>(problem.flags[kTruncated], time);
    if constexpr (Formula::kMasked) prefetch_array<1>(problem.flags[kMask], time);
  }

  template <class P>
  __host__ __device__ __forceinline__ Real input(Input which, std::int64_t index) const {
    return inputs_[which][index];
  }
  template <class P>
  __host__ __device__ __forceinline__ bool flag(Flag which, std::int64_t index) const {
    return (flags_[which][index / 4] >> (index % 4 * 8) & 255u) != 0;
  }
  template <class P>
  __host__ __device__ __forceinline__ Real factor(Factor which, std::int64_t index) const {
    Real result = problem.numbers[which];
    if constexpr (!Shape::kWide) {
      if (__builtin_expect(problem.factors[which].data != nullptr, 0)) result = seldom(problem.factors[which], index);
    }
    return result;
  }
  // Truncation is rare, so that hardly any of final_values is read.
  template <class P>
  __host__ __device__ __forceinline__ Real successor(std::int64_t index, Real next_value) const {
    const bool left = (problem.inputs[kFinalValues].data != nullptr) & flag<P>(kTruncated, index);
    if (__builtin_expect(left, 0)) next_value = seldom(problem.inputs[kFinalValues], index);
    return next_value;
  }
  template <class P>
  __host__ __device__ __forceinline__ static Real exponential(Real x) {
    return P::exponential(x);
  }
  template <class P, bool>
  __host__ __device__ __forceinline__ void write(int result, std::int64_t index, Real value) const {
    results_[result][index] = value;
  }

  // Writes the results of all steps to memory.
  template <class Formula>
  __host__ __device__ __forceinline__ void store() const {
#pragma unroll
    for (int result = 0; result < Formula::kResults; ++result) store(problem.results[result], results_[result]);
  }

  // What lies behind the thread's steps, at index v for its v-th column: for Formula::companion.
  struct Behind {
    const DeviceWalk& walk;

    template <class P>
    __host__ __device__ __forceinline__ Real input(Input which, std::int64_t column) const {
      const DeviceArray& array = walk.problem.inputs[which];
      const std::int64_t first = offset(array, walk.columns_, walk.time_ + Shape::kSteps);
      return widened(static_cast<const Storage*>(array.data)[first + column], walk.problem.bfloat);
    }
    template <class P>
    __host__ __device__ __forceinline__ Real factor(Factor which, std::int64_t column) const {
      if (Shape::kWide || walk.problem.factors[which].data == nullptr) return walk.problem.numbers[which];
      return walk.at(walk.problem.factors[which], walk.column(column), walk.time_ + Shape::kSteps);
    }
    template <class P>
    __host__ __device__ __forceinline__ static Real exponential(Real x) {
      return P::exponential(x);
    }
  };

  __host__ __device__ __forceinline__ Columns column(std::int64_t index) const {
    return {columns_.outer, columns_.inner + index};
  }

 private:
  static constexpr int kWords = (Shape::kElements + 3) / 4;

  __host__ __device__ __forceinline__ static std::int64_t offset(const DeviceArray& array, Columns columns,
                                                                 std::int64_t time) {
    return columns.outer * array.outer_stride + columns.inner * array.inner_stride + time * array.time_stride;
  }
  // Of the thread's steps from `time` on.
  __host__ __device__ __forceinline__ std::int64_t first(const DeviceArray& array, std::int64_t time) const {
    return offset(array, {fresh(columns_.outer), fresh(columns_.inner)}, time);
  }
  __host__ __device__ __forceinline__ Real at(const DeviceArray& array, Columns columns, std::int64_t time) const {
    return widened(static_cast<const Storage*>(array.data)[offset(array, columns, time)], problem.bfloat);
  }
  // Elements that are looked at only now and then.
  __host__ __device__ __forceinline__ Real seldom(const DeviceArray& array, std::int64_t index) const {
    const auto step = static_cast<int>(index / Shape::kColumns);
    if (step >= count_) return Real(0);
    const Columns columns = column(index % Shape::kColumns);
    return at(array, {fresh(columns.outer), fresh(columns.inner)}, fresh(time_ + step));
  }

  template <Input... which>
  __host__ __device__ __forceinline__ void prefetch_inputs(std::int64_t time, InputList<which...>) const {
    const auto prefetch_input = [&](Input input) {
      if (is_read(input)) prefetch_array<static_cast<int>(sizeof(Storage))>(problem.inputs[input], time);
    };
    (prefetch_input(which), ...);
  }
  template <int bytes>
  __host__ __device__ __forceinline__ void prefetch_array(const DeviceArray& array, std::int64_t time) const {
    if (array.data == nullptr) return;
    const char* from = static_cast<const char*>(array.data) + first(array, time) * bytes;
    const std::int64_t stride = fresh(array.time_stride) * bytes;
    // Where time is contiguous, the other steps are in the same sector or in a neighbour's.
    if (!Shape::kWide && vectors_ != 0) return prefetch(from);
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step, from += stride) prefetch(from);
  }

  template <Input... which>
  __host__ __device__ __forceinline__ void load_inputs(InputList<which...>) {
    (load_input(which), ...);
  }
  // Whether an input is there and is read at every step.
  __host__ __device__ __forceinline__ bool is_read(Input which) const {
    return problem.inputs[which].data != nullptr && which != kFinalValues &&
           !(which == kNextValues && problem.bootstrapped);
  }
  __host__ __device__ __forceinline__ void load_input(Input which) {
    const DeviceArray& array = problem.inputs[which];
    if (!is_read(which)) return;
    const auto* from = static_cast<const Storage*>(array.data) + first(array, time_);
    const std::int64_t stride = fresh(array.time_stride);
    constexpr int kPart = Shape::kPart;
    Real(&into)[Shape::kElements] = inputs_[which];
    if constexpr (Shape::kWide) {
#pragma unroll
      for (int step = 0; step < Shape::kSteps; ++step) {
        Vector<Storage, kPart> part = {};
        if (step < count_) part = *reinterpret_cast<const Vector<Storage, kPart>*>(from);
        from += stride;
#pragma unroll
        for (int i = 0; i < kPart; ++i) into[step * kPart + i] = widened(part.elements[i], problem.bfloat);
      }
    } else if (vectors_ != 0 && count_ == Shape::kSteps) {
      if (vectors_ < 0) from -= Shape::kSteps - 1;
#pragma unroll
      for (int step = 0; step < Shape::kSteps; step += kPart) {
        const auto part = *reinterpret_cast<const Vector<Storage, kPart>*>(from + step);
#pragma unroll
        for (int i = 0; i < kPart; ++i) into[step + i] = widened(part.elements[i], problem.bfloat);
      }
      if (vectors_ < 0) reverse(into);
    } else {
#pragma unroll
      for (int step = 0; step < Shape::kSteps; ++step) {
        into[step] = step < count_ ? widened(*from, problem.bfloat) : Real(0);
        from += stride;
      }
    }
  }
  __host__ __device__ __forceinline__ static void reverse(Real (&elements)[Shape::kElements]) {
#pragma unroll
    for (int i = 0; i < Shape::kElements / 2; ++i) {
      const Real other = elements[Shape::kElements - 1 - i];
      elements[Shape::kElements - 1 - i] = elements[i];
      elements[i] = other;
    }
  }

  __host__ __device__ __forceinline__ void load_flags(Flag which) {
    std::uint32_t(&words)[kWords] = flags_[which];
#pragma unroll
    for (int word = 0; word < kWords; ++word) words[word] = 0;
    const DeviceArray& array = problem.flags[which];
    if (array.data == nullptr) return;
    const auto* from = static_cast<const std::uint8_t*>(array.data) + first(array, time_);
    const std::int64_t stride = fresh(array.time_stride);
    if constexpr (Shape::kWide) {
      constexpr int kPart = Shape::kPart;
      using Word = typename UnsignedOf<kPart>::type;
#pragma unroll
      for (int step = 0; step < Shape::kSteps; ++step) {
        Word word = 0;
        if (step < count_) word = *reinterpret_cast<const Word*>(from);
        from += stride;
        words[step * kPart / 4] |= static_cast<std::uint32_t>(word) << (step * kPart % 4 * 8);
      }
    } else if (vectors_ > 0 && count_ == Shape::kSteps) {
#pragma unroll
      for (int word = 0; word < kWords; ++word) words[word] = reinterpret_cast<const std::uint32_t*>(from)[word];
    } else {
#pragma unroll
      for (int step = 0; step < Shape::kSteps; ++step) {
        if (step < count_) words[step / 4] |= static_cast<std::uint32_t>(*from) << (step % 4 * 8);
        from += stride;
      }
    }
  }

  template <int bytes, class Unused = void>
  struct UnsignedOf {
    using type = std::uint32_t;
  };
  template <class Unused>
  struct UnsignedOf<2, Unused> {
    using type = std::uint16_t;
  };

  __host__ __device__ __forceinline__ void store(const DeviceArray& array,
                                                 const Real (&values)[Shape::kElements]) const {
    auto* to = static_cast<Storage*>(array.data) + first(array, time_);
    const std::int64_t stride = fresh(array.time_stride);
    constexpr int kPart = Shape::kPart;
    Vector<Storage, kPart> part;
    if constexpr (Shape::kWide) {
#pragma unroll
      for (int step = 0; step < Shape::kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < kPart; ++i) narrow(values[step * kPart + i], part.elements[i], problem.bfloat);
        if (step < count_) *reinterpret_cast<Vector<Storage, kPart>*>(to) = part;
        to += stride;
      }
    } else if (vectors_ != 0 && count_ == Shape::kSteps) {
      if (vectors_ < 0) to -= Shape::kSteps - 1;
#pragma unroll
      for (int step = 0; step < Shape::kSteps; step += kPart) {
#pragma unroll
        for (int i = 0; i < kPart; ++i) {
          // Chosen by value: an index that is not known beforehand would put the array into memory.
          const Real value = vectors_ < 0 ? values[Shape::kSteps - 1 - step - i] : values[step + i];
          narrow(value, part.elements[i], problem.bfloat);
        }
        *reinterpret_cast<Vector<Storage, kPart>*>(to + step) = part;
      }
    } else {
#pragma unroll
      for (int step = 0; step < Shape::kSteps; ++step) {
        if (step < count_) narrow(values[step], *to, problem.bfloat);
        to += stride;
      }
    }
  }

  const Columns columns_;
  std::int64_t time_ = 0;
  int count_ = 0, vectors_ = 0;
  Real inputs_[kNumInputs][Shape::kElements];
  std::uint32_t flags_[kNumFlags][kWords];
  mutable Real results_[kMaxResults][Shape::kElements];
};

}  // namespace
}  // namespace metafast::returns

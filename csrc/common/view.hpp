// Strided views of arrays whose memory somebody else owns.
#pragma once

#include <cstdint>

namespace metafast {

// The extents of a sequence problem. Every array of one call is seen as [outer, time, inner], where `inner` is
// contiguous: time-major [T, N] memory is (1, T, N), batch-major [N, T] memory is (N, T, 1).
struct SequenceExtents {
  std::int64_t outer = 0;
  std::int64_t time = 0;
  std::int64_t inner = 0;
};

// One array of such a problem; strides in elements. A time stride of 0 repeats one row for every step.
template <class T>
struct SequenceView {
  T* data = nullptr;
  std::int64_t outer_stride = 0;
  std::int64_t time_stride = 0;

  [[gnu::always_inline]] explicit operator bool() const { return data != nullptr; }
  [[gnu::always_inline]] T* row(std::int64_t outer, std::int64_t time) const {
    return data + outer * outer_stride + time * time_stride;
  }
};

// A coefficient of a recurrence: one number for all steps, or an array.
template <class T>
struct Coefficient {
  T value = T(0);
  SequenceView<const T> view;
};

}  // namespace metafast

// The arrays of an attention call as strided views, and which keys take part.
#pragma once

#include <cstdint>

namespace metafast::attention {

struct Extents {
  std::int64_t batch = 0;
  std::int64_t heads = 0;
  std::int64_t queries = 0;
  std::int64_t keys = 0;
  std::int64_t width = 0;        // of a query and a key
  std::int64_t value_width = 0;  // of a value and a context

  // A problem is one head of one batch entry, numbered batch-major.
  std::int64_t problems() const { return batch * heads; }
};

// One array [batch, heads, rows, columns]; strides in elements, columns are neighbours in memory.
template <class T>
struct View {
  T* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  // The first row of a problem.
  T* of(const Extents& extents, std::int64_t problem) const {
    return data + problem / extents.heads * batch_stride + problem % extents.heads * head_stride;
  }
};

// The keys of each batch entry that take part: those below its length whose mask byte is not 0.
struct KeySelection {
  const std::uint8_t* mask = nullptr;  // [batch, keys], optional
  std::int64_t mask_stride = 0;
  const std::int64_t* lengths = nullptr;  // [batch], optional

  std::int64_t end(std::int64_t batch, std::int64_t keys) const { return lengths ? lengths[batch] : keys; }
  bool takes(std::int64_t batch, std::int64_t key) const { return !mask || mask[batch * mask_stride + key] != 0; }
};

}  // namespace metafast::attention

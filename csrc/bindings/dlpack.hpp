// Torch's tensors by way of its DLPack exchange table (Tensor.__dlpack_c_exchange_api__, torch 2.9 and later): pointer,
// shape and strides in a tenth of a microsecond, without linking to torch. Declared here is what is used of the stable
// C interface that dlpack.h of DLPack 1.2 defines.
#pragma once

#include <cstdint>

#include "bindings/register.hpp"

namespace metafast::dlpack {

constexpr std::int32_t kCpu = 1;
enum TypeCode : std::uint8_t { kInt = 0, kUnsigned = 1, kFloat = 2, kBool = 6 };

struct Device {
  std::int32_t type;
  std::int32_t id;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null where contiguous
  std::uint64_t byte_offset;
};

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};

struct ManagedTensor {
  Version version;
  void* context;
  void (*deleter)(ManagedTensor*);
  std::uint64_t flags;
  Tensor tensor;
};

struct ExchangeTable {
  Version version;
  ExchangeTable* previous;
  void* allocate;
  void* managed_tensor_from_object;
  int (*object_from_managed_tensor)(ManagedTensor*, void** object);
  int (*tensor_from_object)(void* object, Tensor*);
  void* current_work_stream;
};

// From now on objects of exactly these types are torch's tensors; `table` is Tensor.__dlpack_c_exchange_api__.
// Returns false where the table is of another version.
bool use_torch(py::type tensor, py::type parameter, py::capsule table);

bool is_torch(py::handle object);

// Fills `tensor`, which is valid as long as `object` is left alone. Returns false, with no error set, for a tensor that
// lies not in the CPU's memory or is of a kind that DLPack does not know.
bool view(py::handle object, Tensor& tensor);

// Whether a tensor is more than its memory says: autograd follows it (asked for where `differentiable`), its elements
// are to be read with the other sign, or it is of a class derived from torch's.
bool is_special(py::handle object, bool differentiable);

// A new, uninitialised torch tensor; strides in elements.
py::object empty(DataType dtype, int ndim, const std::int64_t* shape, const std::int64_t* strides, void*& data);

}  // namespace metafast::dlpack

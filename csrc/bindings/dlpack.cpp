#include "bindings/dlpack.hpp"

#include <cstdlib>
#include <memory>
#include <new>

namespace metafast::dlpack {
namespace {

// Torch's types live as long as the process; so does its table.
PyTypeObject* tensor_type = nullptr;
PyTypeObject* parameter_type = nullptr;
const ExchangeTable* torch_table = nullptr;
PyObject* requires_grad_name = nullptr;
PyObject* is_neg_name = nullptr;

bool is_true(PyObject* answer) {
  if (answer == nullptr) throw py::error_already_set();
  const bool result = answer == Py_True;
  Py_DECREF(answer);
  return result;
}

// A result and the memory it owns.
struct Result {
  ManagedTensor managed;
  std::int64_t shape[8];
  std::int64_t strides[8];
  void* memory;

  ~Result() { std::free(memory); }
};

void delete_result(ManagedTensor* managed) { delete static_cast<Result*>(managed->context); }

}  // namespace

bool use_torch(py::type tensor, py::type parameter, py::capsule table) {
  const auto* found = static_cast<const ExchangeTable*>(PyCapsule_GetPointer(table.ptr(), "dlpack_exchange_api"));
  if (found == nullptr) throw py::error_already_set();
  if (found->version.major != 1 || found->tensor_from_object == nullptr) return false;
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter.ptr());
  torch_table = found;
  if (requires_grad_name == nullptr) requires_grad_name = PyUnicode_InternFromString("requires_grad");
  if (is_neg_name == nullptr) is_neg_name = PyUnicode_InternFromString("is_neg");
  return true;
}

bool is_torch(py::handle object) {
  const PyTypeObject* type = Py_TYPE(object.ptr());
  return torch_table != nullptr && (type == tensor_type || type == parameter_type);
}

bool view(py::handle object, Tensor& tensor) {
  if (torch_table->tensor_from_object(object.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  return tensor.device.type == kCpu;
}

bool is_special(py::handle object, bool differentiable) {
  if (torch_table == nullptr) return false;
  if (!is_torch(object)) return PyType_IsSubtype(Py_TYPE(object.ptr()), tensor_type) != 0;
  if (differentiable && is_true(PyObject_GetAttr(object.ptr(), requires_grad_name))) return true;
  return is_true(PyObject_CallMethodNoArgs(object.ptr(), is_neg_name));
}

py::object empty(DataType dtype, int ndim, const std::int64_t* shape, const std::int64_t* strides, void*& data) {
  auto result = std::make_unique<Result>();
  std::int64_t bytes = dtype.bits / 8;
  for (int axis = 0; axis < ndim; ++axis) {
    result->shape[axis] = shape[axis];
    result->strides[axis] = strides[axis];
    bytes *= shape[axis];
  }
  constexpr std::int64_t alignment = 64;
  result->memory = std::aligned_alloc(alignment, static_cast<std::size_t>((bytes / alignment + 1) * alignment));
  if (result->memory == nullptr) throw std::bad_alloc();
  data = result->memory;
  result->managed = {{1, 1}, result.get(), delete_result, 0,
                     {data, {kCpu, 0}, ndim, dtype, result->shape, result->strides, 0}};
  void* object = nullptr;
  if (torch_table->object_from_managed_tensor(&result->managed, &object) != 0) throw py::error_already_set();
  result.release();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

}  // namespace metafast::dlpack

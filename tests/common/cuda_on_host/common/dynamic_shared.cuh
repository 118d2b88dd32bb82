// Takes the place of csrc/common/dynamic_shared.cuh.
#pragma once

#include <cuda_runtime.h>

namespace metafast {

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(cuda_on_host::dynamic_shared_memory());
}

}  // namespace metafast

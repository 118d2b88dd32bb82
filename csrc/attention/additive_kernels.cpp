#include "attention/additive_double_backward.hpp"

namespace metafast {
namespace attention {
namespace {

template <class T, class Scratch>
std::int64_t scratch_bytes(const Extents& extents) {
  return Scratch::size(extents) * static_cast<std::int64_t>(sizeof(T));
}

template <class T>
constexpr AdditiveKernels<T> kernels() {
  return {
      weigh<T>,
      prepare<T>,
      forward<T>,
      backward<T>,
      double_backward<T>,
      finish<T>,
      scratch_bytes<T, ForwardScratch<T>>,
      scratch_bytes<T, BackwardScratch<T>>,
      scratch_bytes<T, DoubleBackwardScratch<T>>,
  };
}

}  // namespace
}  // namespace attention

namespace METAFAST_ISA_NAMESPACE {
extern const attention::AdditiveTable additive_table;
const attention::AdditiveTable additive_table = {attention::kernels<float>(), attention::kernels<double>()};
}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast

#include "attention/additive_forward.hpp"

namespace metafast {
namespace attention {
namespace {

template <class T>
std::int64_t forward_scratch(const Extents& extents) {
  return ForwardScratch<T>::size(extents) * static_cast<std::int64_t>(sizeof(T));
}

template <class T>
constexpr AdditiveKernels<T> kernels() {
  return {weigh<T>, prepare<T>, forward<T>, forward_scratch<T>};
}

}  // namespace
}  // namespace attention

namespace METAFAST_ISA_NAMESPACE {
extern const attention::AdditiveTable additive_table;
const attention::AdditiveTable additive_table = {attention::kernels<float>(), attention::kernels<double>()};
}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast

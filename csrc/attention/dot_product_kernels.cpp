#include "attention/dot_product_backward.hpp"
#include "attention/dot_product_forward.hpp"

namespace metafast {
namespace METAFAST_ISA_NAMESPACE {
extern const attention::DotProductKernels dot_product_kernels;
const attention::DotProductKernels dot_product_kernels = {attention::forward<float>, attention::forward<double>,
                                                          attention::backward<float>, attention::backward<double>};
}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast

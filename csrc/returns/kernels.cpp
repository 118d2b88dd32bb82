#include "returns/affine_scan.hpp"
#include "returns/discounted_returns.hpp"
#include "returns/gae.hpp"

namespace metafast {
namespace returns {
namespace {

template <class T>
void gae(const Gae<T>& arguments, std::int64_t slice, bool stream) {
  solve_slice<T, GaeRows<T>, GaeSeries<T>>(arguments, slice, stream);
}

template <class T>
void discounted_returns(const DiscountedReturns<T>& arguments, std::int64_t slice, bool stream) {
  solve_slice<T, DiscountedReturnsRows<T>, DiscountedReturnsSeries<T>>(arguments, slice, stream);
}

template <class T>
void affine_scan(const AffineScan<T>& arguments, std::int64_t slice, bool stream) {
  solve_slice<T, AffineScanRows<T>, AffineScanSeries<T>>(arguments, slice, stream);
}

}  // namespace
}  // namespace returns

namespace METAFAST_ISA_NAMESPACE {
extern const returns::Kernels returns_kernels;
const returns::Kernels returns_kernels = {
    returns::gae<float>,         returns::gae<double>,         returns::discounted_returns<float>,
    returns::discounted_returns<double>, returns::affine_scan<float>, returns::affine_scan<double>,
};
}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast

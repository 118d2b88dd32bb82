#include "returns/advantages.hpp"
#include "returns/n_step_returns.hpp"
#include "returns/series.hpp"
#include "returns/targets.hpp"

namespace metafast {
namespace returns {
namespace {

template <class Formula, class T>
void solve(const Problem<T>& problem, std::int64_t slice, bool stream) {
  solve_slice<Formula>(problem, slice, stream);
}

// The form of an estimator that the arguments ask for.
template <template <bool> class Formula, class T>
void solve_form(const Problem<T>& problem, std::int64_t slice, bool stream) {
  problem.bootstrapped ? solve_slice<Formula<true>>(problem, slice, stream)
                       : solve_slice<Formula<false>>(problem, slice, stream);
}

template <bool kBootstrapped>
using PlainGae = Gae<kBootstrapped, false>;
template <bool kBootstrapped>
using MaskedGae = Gae<kBootstrapped, true>;

template <class T>
void gae(const Problem<T>& problem, std::int64_t slice, bool stream) {
  problem.flags[kMask] ? solve_form<MaskedGae>(problem, slice, stream) : solve_form<PlainGae>(problem, slice, stream);
}

template <class T>
void n_step_returns(const NStepReturns<T>& arguments, std::int64_t chunk, T* scratch) {
  NStepChunk<T>(arguments, chunk, scratch).solve();
}

}  // namespace
}  // namespace returns

namespace METAFAST_ISA_NAMESPACE {
using namespace returns;
extern const Kernels returns_kernels;
const Kernels returns_kernels = {
    {gae<float>, gae<double>},
    {solve<DiscountedReturns, float>, solve<DiscountedReturns, double>},
    {solve<LambdaReturns, float>, solve<LambdaReturns, double>},
    {solve_form<Vtrace, float>, solve_form<Vtrace, double>},
    {solve<Retrace, float>, solve<Retrace, double>},
    {solve_form<Upgo, float>, solve_form<Upgo, double>},
    {solve<AffineScan, float>, solve<AffineScan, double>},
    n_step_returns<float>,
    n_step_returns<double>,
};
}  // namespace METAFAST_ISA_NAMESPACE
}  // namespace metafast

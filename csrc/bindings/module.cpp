// metafast._core: the CPU kernels. Each room registers its own names; nothing else happens here.
#include "bindings/register.hpp"

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.doc() = "The native CPU kernels of metafast. Private: use the functions of the metafast package.";
  metafast::register_common(module);
  metafast::register_returns(module);
  metafast::register_group_advantages(module);
  metafast::register_additive_attention(module);
  metafast::register_additive_gradients(module);
  metafast::register_dot_product_attention(module);
  metafast::register_envs(module);
  metafast::register_policy_network(module);
  metafast::register_policy_update(module);
  metafast::register_rollout(module);
  metafast::register_ufunc_loop(module);
}

// The registration function of each room's binding file.
#pragma once

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace metafast {

void register_common(py::module_& module);
void register_group_advantages(py::module_& module);
void register_returns(py::module_& module);
void register_additive_attention(py::module_& module);
void register_additive_gradients(py::module_& module);
void register_dot_product_attention(py::module_& module);
void register_envs(py::module_& module);
void register_policy_network(py::module_& module);
void register_policy_update(py::module_& module);
void register_rollout(py::module_& module);
void register_ufunc_loop(py::module_& module);

}  // namespace metafast

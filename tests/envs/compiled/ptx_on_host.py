"""Runs the kernels of users' environments on the CPU: the instructions that would become PTX become machine code.

It is what LLVM's backend for PTX is given, but for the functions of libdevice, in whose place are the C library's.
"""

import re

import llvmlite.binding as llvm

from metafast.envs.compiled import _device, _ptx

_ENGINES = []  # machine code lives as long as the tests run


def without_libdevice(text, machine, roots):
    """In the place of `_ptx._with_libdevice`."""
    module = _ptx.optimised(text, machine, roots)
    _ptx._refuse({name for name in _ptx._unknown(module) if not name.startswith("__nv_")})
    return module


def image(module, _machine):
    """In the place of `_ptx._assembly`: what cuda_on_host loads instead of PTX, a line "name address" for each kernel.

    At the address is a function of the addresses of the kernel's arguments, the thread's number in its block and the
    block's.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True, opt=1)
    text = re.sub(r'target datalayout = ".*"', f'target datalayout = "{machine.target_data}"', str(module))
    text = re.sub(r'target triple = ".*"', f'target triple = "{machine.triple}"', text)
    register = r"call .*i32 @llvm\.nvvm\.read\.ptx\.sreg\.(tid|ctaid)\.x\(\).*"
    text = re.sub(rf"(?:tail )?{register}", r"load i32, ptr @own_\1", text)
    text = re.sub(r"(?m)^declare .*@llvm\.nvvm\..*$|^.* asm sideeffect .*$", "", text)
    text = text.replace("@__nv_", "@")
    # What was found out of the kernels' effects is no longer so.
    text = re.sub(r"(?m)^(define .*\)).*\{$", r"\1 {", text)
    kernels = re.findall(r"(?m)^define ptx_kernel void @(\w+)\((.*)\) \{$", text)
    text = text.replace("define ptx_kernel", "define")
    text += "\n@own_tid = internal global i32 0\n@own_ctaid = internal global i32 0\n"
    for name, parameters in kernels:
        kinds = [parameter.split()[0] for parameter in parameters.split(", ") if "%" in parameter]
        lines = [f"define void @{name}_on_host(ptr %arguments, i32 %thread, i32 %block) {{"]
        lines += ["  store i32 %thread, ptr @own_tid", "  store i32 %block, ptr @own_ctaid"]
        for k, kind in enumerate(kinds):
            lines.append(f"  %p{k} = getelementptr ptr, ptr %arguments, i64 {k}")
            lines.append(f"  %a{k} = load ptr, ptr %p{k}")
            lines.append(f"  %v{k} = load {kind}, ptr %a{k}")
        given = ", ".join(f"{kind} %v{k}" for k, kind in enumerate(kinds))
        text += "\n".join([*lines, f"  call void @{name}({given})", "  ret void", "}\n"])
    host = llvm.parse_assembly(text)
    host.verify()
    engine = llvm.create_mcjit_compiler(host, machine)
    engine.finalize_object()
    _ENGINES.append(engine)
    return "\n".join(f"{name} {engine.get_function_address(f'{name}_on_host')}" for name, _ in kernels)


class _NoCache:
    @staticmethod
    def load(key):
        return None

    @staticmethod
    def store(key, header, content):
        pass


_made = {}


def maker(device, monkeypatch):
    """Return a function that makes vector environments of a user's class on the device of the test."""
    on_host = device.type == "cpu"
    if on_host:
        monkeypatch.setattr(_ptx, "_with_libdevice", without_libdevice)
        monkeypatch.setattr(_ptx, "_assembly", image)
        monkeypatch.setattr(_device, "_cache", _NoCache)

    def make(world, num_envs, **options):
        if on_host:
            monkeypatch.setattr(world, "_device_kernels", _made.get(world))
        env = world.make_vec(num_envs, device="cuda", **options)
        if on_host:
            _made[world] = world._device_kernels
        return env

    return make

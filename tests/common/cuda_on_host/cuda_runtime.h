// CUDA's language and runtime on the CPU, as far as this project's kernels use them: so that the kernels' own source runs,
// thread by thread, on a machine without a GPU.
//
// A block's threads are contexts of one thread of the machine, each running until it waits for others (a barrier, a
// shuffle), each warp until it waits for other warps; blocks run one after the other. The order is that of their
// numbers or, with CUDA_ON_HOST_ORDER=reversed, the opposite one, so that a kernel that misses a barrier gives different
// results. Threads that wait for what cannot come end the process with a message. "Device memory" is the host's. Not
// shown: speed, the card's memory model between blocks, its approximate arithmetic, limits of registers.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using uint3 = dim3;

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_host {

constexpr std::size_t kStackBytes = 96 * 1024;
constexpr int kWarp = 32;

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

struct Thread {
  ucontext_t context;
  uint3 index;
  int number;  // in the block
  bool done;
};

struct Warp {
  Barrier barrier;
  alignas(16) unsigned char slots[kWarp][16];
};

// The block that runs at present.
struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> stacks;
  std::size_t num_stacks = 0;
  std::vector<unsigned char> dynamic_shared;
  ucontext_t scheduler;
  Barrier barrier;
  Thread* current = nullptr;
  int alive = 0;
  bool progress = false;
  const std::function<void()>* body = nullptr;
};
inline Block block;
inline std::mutex launching;

inline void yield() { swapcontext(&block.current->context, &block.scheduler); }

inline void release(Barrier& barrier) {
  barrier.arrived = 0;
  ++barrier.generation;
  block.progress = true;
}

inline void wait(Barrier& barrier, int expected) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived >= expected) return release(barrier);
  while (barrier.generation == generation) yield();
}

inline int lane() { return block.current->number % kWarp; }
inline Warp& warp() { return block.warps[static_cast<std::size_t>(block.current->number / kWarp)]; }

inline void run_thread() {
  (*block.body)();
  block.current->done = true;
  block.progress = true;
  // Threads that have returned count as arrived.
  if (--block.alive > 0 && block.barrier.arrived >= block.alive) release(block.barrier);
  yield();
}

inline void run_block(dim3 size) {
  const std::size_t count = std::size_t{size.x} * size.y * size.z;
  if (count > block.num_stacks) {
    block.stacks.reset(new unsigned char[count * kStackBytes]);
    block.num_stacks = count;
  }
  block.threads.resize(count);
  block.warps.assign((count + kWarp - 1) / kWarp, Warp());
  block.barrier = Barrier();
  block.alive = static_cast<int>(count);
  for (std::size_t i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    const auto number = static_cast<unsigned>(i);
    thread.index = {number % size.x, number / size.x % size.y, number / size.x / size.y};
    thread.number = static_cast<int>(i);
    thread.done = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = block.stacks.get() + i * kStackBytes;
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, &run_thread, 0);
  }
  const char* order = std::getenv("CUDA_ON_HOST_ORDER");
  const bool reversed = order != nullptr && std::strcmp(order, "reversed") == 0;
  while (block.alive > 0) {
    bool progress = false;
    for (std::size_t warp = 0; warp < count; warp += kWarp) {
      // As far as it comes without the others, ahead of which it may be.
      do {
        block.progress = false;
        for (std::size_t i = warp; i < std::min(warp + kWarp, count); ++i) {
          Thread& thread = block.threads[reversed ? count - 1 - i : i];
          if (thread.done) continue;
          block.current = &thread;
          threadIdx = thread.index;
          swapcontext(&block.scheduler, &thread.context);
        }
        progress |= block.progress;
      } while (block.progress);
    }
    if (!progress) {
      std::fprintf(stderr, "CUDA on the host: the threads of a block wait for what cannot come\n");
      std::abort();
    }
  }
}

inline void run_blocks(dim3 grid, dim3 size, std::size_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(launching);
  block.dynamic_shared.assign(shared_bytes + 16, 0xA5);
  gridDim = grid;
  blockDim = size;
  block.body = &body;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(size);
      }
}

template <class... Parameters>
void run_grid(dim3 grid, dim3 size, std::size_t shared_bytes, void (*kernel)(Parameters...),
              std::tuple<std::remove_const_t<Parameters>...> arguments) {
  run_blocks(grid, size, shared_bytes, [&] { std::apply(kernel, arguments); });
}

inline void* dynamic_shared_memory() {
  const auto address = reinterpret_cast<std::uintptr_t>(block.dynamic_shared.data());
  return reinterpret_cast<void*>((address + 15) / 16 * 16);
}

// What lane `from` holds, or `value` where `from` is outside of [begin, end).
template <class T>
T exchange(unsigned mask, T value, int from, int begin, int end) {
  static_assert(sizeof(T) <= 16, "a shuffle moves up to 16 bytes here");
  const int lanes = __builtin_popcount(mask);
  Warp& own = warp();
  std::memcpy(own.slots[lane()], &value, sizeof(T));
  wait(own.barrier, lanes);
  T result = value;
  if (from >= begin && from < end) std::memcpy(&result, own.slots[from], sizeof(T));
  wait(own.barrier, lanes);
  return result;
}

template <class To, class From>
To bit_cast(From from) {
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline int group_begin(int width) { return lane() / width * width; }

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::wait(cuda_on_host::block.barrier, cuda_on_host::block.alive); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_host::wait(cuda_on_host::warp().barrier, __builtin_popcount(mask));
}
inline int __syncthreads_or(int predicate) {
  static int any;
  __syncthreads();
  any = 0;
  __syncthreads();
  if (predicate) any = 1;
  __syncthreads();
  return any;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const int begin = cuda_on_host::group_begin(width);
  return cuda_on_host::exchange(mask, value, begin + from % width, begin, begin + width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int begin = cuda_on_host::group_begin(width);
  return cuda_on_host::exchange(mask, value, cuda_on_host::lane() + static_cast<int>(delta), begin, begin + width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int begin = cuda_on_host::group_begin(width);
  return cuda_on_host::exchange(mask, value, cuda_on_host::lane() - static_cast<int>(delta), begin, begin + width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  return cuda_on_host::exchange(mask, value, cuda_on_host::lane() ^ with, 0, cuda_on_host::kWarp + 0 * width);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned result = 0;
  for (int from = 0; from < cuda_on_host::kWarp; ++from)
    if (mask >> from & 1)
      result |= static_cast<unsigned>(cuda_on_host::exchange(mask, predicate != 0, from, 0, 32)) << from;
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline unsigned __activemask() { return 0xffffffffu; }

template <class T, class U>
T atomicAdd(T* address, U value) {
  const T before = *address;
  *address = static_cast<T>(before + value);
  return before;
}
template <class T, class U>
T atomicMax(T* address, U value) {
  const T before = *address;
  *address = std::max(before, static_cast<T>(value));
  return before;
}
template <class T, class U>
T atomicMin(T* address, U value) {
  const T before = *address;
  *address = std::min(before, static_cast<T>(value));
  return before;
}
template <class T, class U>
T atomicOr(T* address, U value) {
  const T before = *address;
  *address = before | static_cast<T>(value);
  return before;
}
template <class T, class U, class V>
T atomicCAS(T* address, U expected, V value) {
  const T before = *address;
  if (before == static_cast<T>(expected)) *address = static_cast<T>(value);
  return before;
}
template <class T, class U>
T atomicExch(T* address, U value) {
  const T before = *address;
  *address = static_cast<T>(value);
  return before;
}

template <class T>
T __ldg(const T* address) { return *address; }
template <class T>
T __ldcg(const T* address) { return *address; }
template <class T>
T __ldcs(const T* address) { return *address; }
template <class T>
void __stcs(T* address, T value) { *address = value; }
template <class T>
void __stcg(T* address, T value) { *address = value; }

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(std::uint64_t{a} * b >> 32); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float_as_int(float x) { return cuda_on_host::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_host::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_on_host::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_host::bit_cast<float>(x); }

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
typedef struct CUstream_st* cudaStream_t;

struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  std::size_t totalGlobalMem;
};

// A card's limits are checked as a card would.
inline bool can_launch(dim3 grid, dim3 size, std::size_t shared_bytes) {
  const std::size_t threads = std::size_t{size.x} * size.y * size.z;
  return grid.x != 0 && grid.y != 0 && grid.z != 0 && threads != 0 && threads <= 1024 && grid.x <= 0x7fffffffu &&
         grid.y <= 65535 && grid.z <= 65535 && shared_bytes <= 227 * 1024;
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const dim3 grid = config->gridDim, size = config->blockDim;
  if (!can_launch(grid, size, config->dynamicSmemBytes)) return cudaErrorInvalidValue;
  cuda_on_host::run_grid(grid, size, config->dynamicSmemBytes, kernel,
                         std::tuple<std::remove_const_t<Parameters>...>(std::forward<Arguments>(arguments)...));
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t status) { return status == cudaSuccess ? "no error" : "invalid value"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"CUDA on the host", 9, 0, 3, std::size_t{1} << 30};
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 3 : 227 * 1024;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) { return cudaSuccess; }
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, std::size_t) {
  return *blocks = 2, cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes, cudaStream_t) {
  return std::memset(address, value, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}

// Kernels that are loaded at run time come as PTX; on the host as lines of a name and the address of a function of the
// kernel's arguments, the thread's number in its block and the block's.
#define CUDART_VERSION 13000
typedef std::map<std::string, void*>* cudaLibrary_t;
typedef struct CUkern_st* cudaKernel_t;
struct cudaFuncAttributes { int numRegs; };
inline cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code, void*, void*, unsigned, void*, void*,
                                       unsigned) {
  std::istringstream lines(static_cast<const char*>(code));
  auto loaded = std::make_unique<std::map<std::string, void*>>();
  std::string name;
  std::uintptr_t address;
  while (lines >> name >> address) (*loaded)[name] = reinterpret_cast<void*>(address);
  if (loaded->empty()) return cudaErrorInvalidValue;
  return *library = loaded.release(), cudaSuccess;
}
inline cudaError_t cudaLibraryUnload(cudaLibrary_t library) { return delete library, cudaSuccess; }
inline cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, const char* name) {
  const auto found = library->find(name);
  if (found == library->end()) return cudaErrorInvalidValue;
  return *kernel = static_cast<cudaKernel_t>(found->second), cudaSuccess;
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  return *attributes = {1}, cudaSuccess;
}
inline cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 size, void** arguments, std::size_t shared_bytes,
                                    cudaStream_t) {
  if (!can_launch(grid, size, shared_bytes)) return cudaErrorInvalidValue;
  const auto run = reinterpret_cast<void (*)(void**, unsigned, unsigned)>(const_cast<void*>(kernel));
  cuda_on_host::run_blocks(grid, size, shared_bytes, [&] { run(arguments, threadIdx.x, blockIdx.x); });
  return cudaSuccess;
}

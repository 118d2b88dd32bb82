// What the CUDA runtime says of the cards in this machine.
#pragma once

#include <cstddef>

namespace metafast {

struct DeviceDescription {
  char name[256];
  int major;
  int minor;
  int multiprocessors;
  std::size_t memory_bytes;
};

// Both return null on success, else the runtime's words for what went wrong ("no CUDA-capable device is detected").
const char* count_devices(int& count);
const char* describe_device(int index, DeviceDescription& description);

}  // namespace metafast

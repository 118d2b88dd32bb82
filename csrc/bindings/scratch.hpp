// Scratch memory of a call: aligned to the cache line, one block for each thread that may work on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

namespace metafast {

class AlignedMemory {
 public:
  AlignedMemory() = default;
  explicit AlignedMemory(std::int64_t bytes)
      : memory_(static_cast<char*>(::operator new(static_cast<std::size_t>(bytes), kAlignment))) {}
  char* get() const { return memory_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(char* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<char, Free> memory_;
};

// As many blocks as threads; a slice takes whichever is free.
class ScratchBlocks {
 public:
  ScratchBlocks(std::int64_t bytes, int blocks)
      : bytes_((bytes + 63) / 64 * 64), memory_(bytes_ * blocks), taken_(new std::atomic<bool>[blocks]) {
    for (int block = 0; block < blocks; ++block) taken_[block] = false;
  }

  class Block {
   public:
    explicit Block(ScratchBlocks& blocks) : blocks_(blocks) {
      while (blocks.taken_[index_].exchange(true, std::memory_order_acquire)) ++index_;
    }
    ~Block() { blocks_.taken_[index_].store(false, std::memory_order_release); }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    char* get() const { return blocks_.memory_.get() + index_ * blocks_.bytes_; }

   private:
    ScratchBlocks& blocks_;
    int index_ = 0;
  };

 private:
  std::int64_t bytes_;
  AlignedMemory memory_;
  std::unique_ptr<std::atomic<bool>[]> taken_;
};

}  // namespace metafast

#include "vm/manage/console_hub.h"

namespace trapeze::manage {

void ConsoleHub::write(std::span<const uint8_t> bytes) {
  bool must_tell = false;
  {
    const std::lock_guard lock(mutex_);
    kept_.append(std::as_bytes(bytes));
    must_tell = !is_told_;
    is_told_ = true;
  }
  // One task, however much a guest writes meanwhile.
  if (must_tell) {
    loop_.post([this] {
      {
        const std::lock_guard lock(mutex_);
        is_told_ = false;
      }
      if (viewers_.output_arrived) viewers_.output_arrived();
    });
  }
  if (next_sink_ != nullptr) next_sink_->write(bytes);
}

size_t ConsoleHub::read(uint64_t& position, std::span<std::byte> to) const {
  const std::lock_guard lock(mutex_);
  return kept_.read(position, to);
}

uint64_t ConsoleHub::oldest_line() const {
  const std::lock_guard lock(mutex_);
  return kept_.first_line();
}

size_t ConsoleHub::input(std::span<const std::byte> bytes) {
  return handlers_.input ? handlers_.input(bytes) : bytes.size();
}

void ConsoleHub::resize(uint16_t rows, uint16_t columns) {
  if (handlers_.resize) handlers_.resize(rows, columns);
}

void ConsoleHub::room_available() {
  loop_.post([this] {
    if (viewers_.input_possible) viewers_.input_possible();
  });
}

}  // namespace trapeze::manage

#include "vm/serial_tail.h"

namespace trapeze {

void SerialTail::write(std::span<const uint8_t> bytes) {
  {
    const std::lock_guard lock(mutex_);
    for (const uint8_t byte : bytes) {
      if (kept_.size() < kKeptBytes) {
        kept_.push_back(byte);
      } else {
        kept_[next_] = byte;
        next_ = (next_ + 1) % kKeptBytes;
      }
    }
  }
  if (next_sink_ != nullptr) next_sink_->write(bytes);
}

std::string SerialTail::tail(size_t max_lines) const {
  std::string text;
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < kept_.size(); ++i) {
      const auto byte = static_cast<char>(kept_[(next_ + i) % kept_.size()]);
      if (byte == '\n' || byte == '\t' || (byte >= ' ' && byte <= '~')) text += byte;
    }
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  size_t begin = text.size();
  for (size_t line = 0; line < max_lines && begin != 0; ++line) {
    const size_t newline = begin < 2 ? std::string::npos : text.rfind('\n', begin - 2);
    begin = newline == std::string::npos ? 0 : newline + 1;
  }
  return text.substr(begin);
}

}  // namespace trapeze

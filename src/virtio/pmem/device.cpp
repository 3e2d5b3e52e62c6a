#include "virtio/pmem/device.h"

#include <cstring>

#include "virtio/queue/iov.h"

namespace trapeze {

void PmemDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  const pmem::Config config{.start = range_.start.raw(), .size = range_.size};
  std::memcpy(to.data(), reinterpret_cast<const std::byte*>(&config) + offset, to.size());
}

bool PmemDevice::on_kick(uint16_t index) {
  if (active_ == nullptr) return false;
  VirtQueue* queue = active_->queue(index);
  if (queue == nullptr) return false;
  waiting_.clear();
  Chain chain;
  const bool has_more = serve(*queue, chain, kMaxRequestsPerFlush, [&](Chain& taken) {
    if (is_flush(taken)) {
      waiting_.push_back(std::move(taken));
    } else {
      metrics_.bad_requests.add();
      answer(taken, pmem::kResultError);
    }
    return true;
  });
  if (!waiting_.empty()) {
    metrics_.flush_requests.add(waiting_.size());
    metrics_.flushes.add();
    const bool is_flushed = backing_.flush();
    if (!is_flushed) metrics_.flush_failures.add();
    for (Chain& flush : waiting_) {
      answer(flush, is_flushed ? pmem::kResultOk : pmem::kResultError);
    }
  }
  active_->notify_used(index);
  return has_more;
}

bool PmemDevice::is_flush(const Chain& chain) {
  ChainReader reader(chain);
  const auto request = reader.read_value<pmem::Request>();
  return request && request->type == pmem::kRequestFlush;
}

void PmemDevice::answer(Chain& chain, uint32_t result) {
  ChainWriter writer(chain);
  const pmem::Response response{.result = result};
  if (writer.remaining() >= sizeof(response)) writer.write_value(response);
  active_->queue(0)->push_used(chain, writer.position());
}

}  // namespace trapeze

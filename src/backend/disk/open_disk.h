// Opens a disk as an administrator describes it.
#pragma once

#include <memory>
#include <string>

#include "backend/disk/io_engine.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/block/disk.h"

namespace trapeze {

enum class OverlayKind : uint8_t {
  None,
  Temporary,  // what the guest writes is forgotten when the disk is closed
  Kept,       // it goes to a file of its own
};

struct DiskSettings {
  std::string path;
  bool is_read_only = false;
  OverlayKind overlay = OverlayKind::None;
  std::string overlay_path;        // Kept
  bool accept_any_format = false;  // take an image for raw that looks like another format
  IoEngineKind engine = IoEngineKind::Auto;
};

// On the thread of `loop`, which must outlive the disk, or while nothing runs it.
Result<std::unique_ptr<Disk>> open_disk(const DiskSettings& settings, EventLoop& loop);

}  // namespace trapeze

#include "backend/disk/open_disk.h"

#include <utility>

#include "backend/disk/image_file.h"
#include "backend/disk/raw_disk.h"
#include "base/log.h"

namespace trapeze {

Result<std::unique_ptr<Disk>> open_disk(const DiskSettings& settings, EventLoop& loop) {
  const auto access = settings.is_read_only ? ImageAccess::ReadOnly : ImageAccess::ReadWrite;
  if (settings.overlay != OverlayKind::None)
    return fail("{}: overlay= is not there yet", settings.path);
  auto image = TRY(open_image(settings.path, access, settings.accept_any_format));
  auto engine = TRY(create_io_engine(settings.engine, loop));
  log(LogLevel::Info, "{}: {} bytes, {}", settings.path, image.size_bytes, engine->name());
  return std::unique_ptr<Disk>(
      std::make_unique<RawDisk>(std::move(image), access, std::move(engine)));
}

}  // namespace trapeze

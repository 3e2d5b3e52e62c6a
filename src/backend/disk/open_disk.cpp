#include "backend/disk/open_disk.h"

#include <utility>

#include "backend/disk/image_file.h"
#include "backend/disk/overlay_disk.h"
#include "backend/disk/raw_disk.h"
#include "base/log.h"

namespace trapeze {

Result<std::unique_ptr<Disk>> open_disk(const DiskSettings& settings, EventLoop& loop) {
  const bool is_base = settings.overlay != OverlayKind::None;
  const auto access =
      settings.is_read_only || is_base ? ImageAccess::ReadOnly : ImageAccess::ReadWrite;
  auto image = TRY(open_image(settings.path, access, settings.accept_any_format));
  auto engine = TRY(create_io_engine(settings.engine, loop));
  log(LogLevel::Info, "{}: {} bytes, {}", settings.path, image.size_bytes, engine->name());
  if (!is_base) {
    return std::unique_ptr<Disk>(
        std::make_unique<RawDisk>(std::move(image), access, std::move(engine)));
  }
  auto overlay = TRY(settings.overlay == OverlayKind::Kept
                         ? OverlayFile::open_kept(settings.overlay_path, image)
                         : OverlayFile::create_temporary(image));
  return std::unique_ptr<Disk>(
      std::make_unique<OverlayDisk>(std::move(image), std::move(overlay), std::move(engine)));
}

}  // namespace trapeze

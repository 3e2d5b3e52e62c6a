// OverlayFile: where an overlay keeps its blocks: a nameless temporary file, or a file of its own
// that can be opened again (overlay_format.h). Owns the map. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/disk/block_map.h"
#include "backend/disk/image_file.h"
#include "backend/disk/io_engine.h"
#include "backend/disk/overlay_format.h"
#include "base/fd.h"
#include "base/result.h"

namespace trapeze {

class OverlayFile {
 public:
  // Sparse, in $TMPDIR, /var/tmp or /tmp, and gone when it is closed.
  static Result<OverlayFile> create_temporary(const ImageFile& base);
  // Opens `path`, or makes it. A file made here goes away again unless keep() is called, so that a
  // start that fails leaves nothing behind. Refuses an overlay of another base.
  static Result<OverlayFile> open_kept(const std::string& path, const ImageFile& base);
  OverlayFile(OverlayFile&&) = default;
  OverlayFile& operator=(OverlayFile&&) = delete;
  ~OverlayFile();

  void keep() { created_path_.clear(); }
  bool is_kept() const { return is_kept_; }
  int fd() const { return fd_.get(); }
  uint64_t data_offset() const { return data_offset_; }
  BlockMap& map() { return map_; }

  // Pages of the map as they are now, to be written once the data they speak of is safe.
  struct MapPage {
    uint64_t index = 0;
    std::vector<std::byte> bytes;
  };
  std::vector<MapPage> take_map_changes();
  // Writes them; 0 or an errno value. What was not written will be in the next take_map_changes().
  int write_map(IoEngine& engine, const std::vector<MapPage>& pages);

 private:
  OverlayFile(Fd fd, BlockMap map) : fd_(std::move(fd)), map_(std::move(map)) {}
  static Result<std::optional<Fd>> make_file(const std::string& path, const OverlayLayout& layout);
  Result<void> load_map(const std::string& path);

  Fd fd_;
  BlockMap map_;
  uint64_t data_offset_ = 0;
  bool is_kept_ = false;
  std::string created_path_;  // to be removed again
};

}  // namespace trapeze

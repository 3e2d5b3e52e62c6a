// RawDisk: a disk whose bytes are those of one file or block device.
// Threads: as virtio/block/disk.h says.
#pragma once

#include <memory>
#include <vector>

#include "backend/disk/image_file.h"
#include "backend/disk/io_engine.h"
#include "virtio/block/disk.h"

namespace trapeze {

class RawDisk final : public Disk, private IoOwner {
 public:
  RawDisk(ImageFile image, ImageAccess access, std::unique_ptr<IoEngine> engine);
  ~RawDisk() override;

  const DiskInfo& info() const override { return info_; }
  void attach(DiskClient* client) override { client_ = client; }
  bool try_now(DiskRequest& request) override;
  void submit(DiskRequest& request) override;
  void end_of_batch() override { engine_->end_of_batch(); }
  void drain() override { engine_->drain(); }

 private:
  struct Op : IoOp {
    DiskRequest* request = nullptr;
  };
  Op& acquire(DiskRequest& request);
  void finish(Op& op, int os_error);
  void submit_zeroes(Op& op);
  int write_zeroes(const DiskRequest& request);

  // IoOwner.
  void io_done(IoOp& op, int os_error) override;
  void io_done_end() override { client_->disk_done_end(); }

  const ImageFile image_;
  DiskInfo info_;
  DiskClient* client_ = nullptr;
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<Op*> free_ops_;
  // What the file system turned out not to be able to do; then it is not asked again.
  bool can_punch_ = true;
  bool can_zero_ = true;
  std::unique_ptr<IoEngine> engine_;  // after ops_: it may still use them while it is destroyed
};

}  // namespace trapeze

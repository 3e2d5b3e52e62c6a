// OverlayDisk: a base that nobody changes, and an overlay with the blocks that were written.
//
// Reads go to both files as the map says, asynchronously. Writes go to the host's page cache on the
// loop's thread, one after the other: so "copy what a partial write leaves of its block" and
// "block is there" need no locks, and a bit is never set before its data is in the file.
// A flush of a kept overlay is: data to stable storage, then the changed pages of the map as they
// were when it began, then those to stable storage. Flushes run one at a time; what arrives
// meanwhile shares the next one. A temporary overlay outlives nothing, so there a flush is nothing.
//
// Threads: as virtio/block/disk.h says.
#pragma once

#include <memory>
#include <vector>

#include "backend/disk/image_file.h"
#include "backend/disk/io_engine.h"
#include "backend/disk/overlay_file.h"
#include "virtio/block/disk.h"

namespace trapeze {

class OverlayDisk final : public Disk, private IoOwner {
 public:
  OverlayDisk(ImageFile base, OverlayFile overlay, std::unique_ptr<IoEngine> engine);
  // Writes what a kept overlay does not have on stable storage yet.
  ~OverlayDisk() override;

  const DiskInfo& info() const override { return info_; }
  void commit() override { overlay_.keep(); }
  void attach(DiskClient* client) override { client_ = client; }
  bool try_now(DiskRequest& request) override;
  void submit(DiskRequest& request) override;
  void end_of_batch() override { engine_->end_of_batch(); }
  void drain() override { engine_->drain(); }

 private:
  // A read under way, in pieces.
  struct Task {
    DiskRequest* request = nullptr;
    uint32_t pending = 0;
    int os_error = 0;
  };
  struct Op : IoOp {
    Task* task = nullptr;  // null: the flush
  };
  enum class FlushStage : uint8_t { Idle, Data, Map };

  Op& acquire_op();
  Task& acquire_task();
  void read(DiskRequest& request);
  void piece_done(Task& task, int os_error);
  int change(DiskRequest& request);  // everything but reads and flushes; 0 or an errno value
  int write(DiskRequest& request);
  int write_zeroes(uint64_t offset, uint64_t bytes);
  void discard(uint64_t offset, uint64_t bytes);
  int zero_part(uint64_t offset, uint64_t bytes);
  int copy_edges(uint64_t offset, uint64_t bytes);
  int copy_up(uint64_t block);
  int transfer(IoOp::Kind kind, int fd, uint64_t offset, std::byte* bytes, uint64_t count);
  int punch(uint64_t offset, uint64_t bytes);

  void begin_flush();
  void flush_step_done(int os_error);

  // IoOwner.
  void io_done(IoOp& op, int os_error) override;
  void io_done_end() override { client_->disk_done_end(); }

  const ImageFile base_;
  OverlayFile overlay_;
  DiskInfo info_;
  DiskClient* client_ = nullptr;

  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<Op*> free_ops_;
  std::vector<std::unique_ptr<Task>> tasks_;
  std::vector<Task*> free_tasks_;

  FlushStage flush_stage_ = FlushStage::Idle;
  Op flush_op_;
  std::vector<OverlayFile::MapPage> flush_pages_;
  std::vector<DiskRequest*> flushing_;
  std::vector<DiskRequest*> waiting_flushes_;

  std::unique_ptr<IoEngine> engine_;  // last: it may still use the above while it is destroyed
};

}  // namespace trapeze

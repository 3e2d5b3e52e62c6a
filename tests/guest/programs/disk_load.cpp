// Reads and writes a block device past the page cache, with many requests under way, and says how
// many were done: for bench/block.py, in any Linux guest or on the host.
//
//   disk_load DEVICE SECONDS ROW...     ROW: read|write,rand|seq,BYTES,DEPTH
//
// For each row: "begin ROW", then "end ROW OPERATIONS NANOSECONDS". Random offsets are the same in
// every run.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

namespace {

struct Row {
  bool is_write = false;
  bool is_random = false;
  uint64_t bytes = 0;
  unsigned depth = 0;
};

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

bool parse(const char* text, Row& row) {
  char direction[8];
  char order[8];
  unsigned long bytes = 0;
  if (std::sscanf(text, "%7[a-z],%7[a-z],%lu,%u", direction, order, &bytes, &row.depth) != 4) {
    return false;
  }
  row.is_write = std::strcmp(direction, "write") == 0;
  row.is_random = std::strcmp(order, "rand") == 0;
  row.bytes = bytes;
  return row.depth >= 1 && row.depth <= 256 && bytes >= 512 && bytes % 512 == 0;
}

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

class Load {
 public:
  Load(int fd, uint64_t device_bytes, const Row& row)
      : row_(row), places_(device_bytes / row.bytes), requests_(row.depth) {
    if (::syscall(SYS_io_setup, row.depth, &context_) != 0) die("io_setup");
    for (iocb& request : requests_) {
      void* buffer = std::aligned_alloc(4096, (row.bytes + 4095) / 4096 * 4096);
      if (buffer == nullptr) die("aligned_alloc");
      std::memset(buffer, 0x5a, row.bytes);
      request = {};
      request.aio_fildes = static_cast<uint32_t>(fd);
      request.aio_lio_opcode = row.is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
      request.aio_buf = reinterpret_cast<uint64_t>(buffer);
      request.aio_nbytes = row.bytes;
    }
  }
  ~Load() {
    for (const iocb& request : requests_) std::free(reinterpret_cast<void*>(request.aio_buf));
    ::syscall(SYS_io_destroy, context_);
  }

  uint64_t run(uint64_t duration_ns) {
    const uint64_t deadline_ns = now_ns() + duration_ns;
    std::vector<iocb*> idle;
    for (iocb& request : requests_) idle.push_back(&request);
    uint64_t done = 0;
    size_t under_way = 0;
    bool is_over = false;
    while (!is_over || under_way > 0) {
      if (!is_over && !idle.empty()) {
        for (iocb* request : idle) request->aio_offset = next_offset();
        submit(idle);
        under_way += idle.size();
        idle.clear();
      }
      io_event events[256];
      const long count = ::syscall(SYS_io_getevents, context_, 1, 256, events, nullptr);
      if (count <= 0) die("io_getevents");
      for (long i = 0; i < count; ++i) {
        if (events[i].res != static_cast<int64_t>(row_.bytes)) die("a request failed");
        idle.push_back(reinterpret_cast<iocb*>(events[i].obj));
      }
      under_way -= static_cast<size_t>(count);
      done += static_cast<uint64_t>(count);
      is_over = is_over || now_ns() >= deadline_ns;
    }
    return done;
  }

 private:
  int64_t next_offset() {
    random_ = random_ * 6364136223846793005U + 1442695040888963407U;
    const uint64_t place = row_.is_random ? (random_ >> 24) % places_ : position_++ % places_;
    return static_cast<int64_t>(place * row_.bytes);
  }
  void submit(std::vector<iocb*>& requests) {
    size_t given = 0;
    while (given < requests.size()) {
      const long count =
          ::syscall(SYS_io_submit, context_, requests.size() - given, requests.data() + given);
      if (count <= 0) die("io_submit");
      given += static_cast<size_t>(count);
    }
  }

  Row row_;
  uint64_t places_;
  std::vector<iocb> requests_;
  aio_context_t context_ = 0;
  uint64_t random_ = 1;
  uint64_t position_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: disk_load DEVICE SECONDS ROW...\n");
    return 2;
  }
  const int fd = ::open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
  if (fd < 0) die(argv[1]);
  uint64_t device_bytes = 0;
  if (::ioctl(fd, BLKGETSIZE64, &device_bytes) != 0) die("BLKGETSIZE64");
  const auto duration_ns = static_cast<uint64_t>(std::atof(argv[2]) * 1e9);
  for (int i = 3; i < argc; ++i) {
    Row row;
    if (!parse(argv[i], row)) {
      std::fprintf(stderr, "disk_load: %s: not a row\n", argv[i]);
      return 2;
    }
    Load load(fd, device_bytes, row);
    load.run(duration_ns / 10);  // caches and translations get warm
    std::printf("begin %s\n", argv[i]);
    std::fflush(stdout);
    const uint64_t begin_ns = now_ns();
    const uint64_t done = load.run(duration_ns);
    const uint64_t took_ns = now_ns() - begin_ns;
    std::printf("end %s %llu %llu\n", argv[i], static_cast<unsigned long long>(done),
                static_cast<unsigned long long>(took_ns));
    std::fflush(stdout);
  }
  return 0;
}

#include "backend/disk/io_engine.h"

#include "backend/disk/thread_engine.h"
#include "backend/disk/uring_engine.h"
#include "base/log.h"

namespace trapeze {

Result<std::unique_ptr<IoEngine>> create_io_engine(IoEngineKind kind, EventLoop& loop) {
  if (kind == IoEngineKind::Threads) return ThreadEngine::create(loop);
  auto uring = UringEngine::create(loop);
  if (uring || kind == IoEngineKind::Uring) return uring;
  log(LogLevel::Info, "disk: {}: using threads instead", uring.error().message);
  return ThreadEngine::create(loop);
}

}  // namespace trapeze

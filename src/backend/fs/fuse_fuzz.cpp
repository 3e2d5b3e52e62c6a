// A guest's kernel that sends any requests to a FuseServer on a real folder. Nothing may crash, no
// reply may be longer than its room, limits hold, and nothing beside the folder changes.
#include <signal.h>
#include <sys/resource.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "backend/fs/fuse_server.h"
#include "base/check.h"

namespace trapeze {
namespace {

namespace files = std::filesystem;

constexpr rlim_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxRequests = 200;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(data, size) {}
  bool is_empty() const { return left_.empty(); }
  uint8_t byte() {
    if (left_.empty()) return 0;
    const uint8_t value = left_.front();
    left_ = left_.subspan(1);
    return value;
  }
  uint32_t below(uint32_t limit) { return byte() % limit; }
  uint64_t number() {
    uint64_t value = 0;
    const uint32_t bytes = below(9);
    for (uint32_t i = 0; i < bytes; ++i) value = value << 8 | byte();
    return value;
  }

 private:
  std::span<const uint8_t> left_;
};

struct World {
  World() {
    const bool has_memory = files::exists("/dev/shm");
    std::string text = (has_memory ? files::path("/dev/shm") : files::temp_directory_path()) /
                       "trapeze-fuzz.XXXXXX";
    CHECK(::mkdtemp(text.data()) != nullptr);
    parent = text;
    std::ofstream(parent / "secret") << "secret";
    const rlimit limit{.rlim_cur = kMaxFileBytes, .rlim_max = kMaxFileBytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::signal(SIGXFSZ, SIG_IGN);
  }
  ~World() { files::remove_all(parent); }
  void renew() const {
    files::remove_all(share());
    files::create_directories(share() / "d" / "e");
    files::create_symlink("../secret", share() / "l");
    files::create_symlink("..", share() / "d" / "u");
    std::ofstream(share() / "f") << "some content";
    std::ofstream(share() / "d" / "g") << "more";
  }
  void check() const {
    std::ifstream secret(parent / "secret");
    CHECK(std::string(std::istreambuf_iterator<char>(secret), {}) == "secret");
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : files::directory_iterator(parent)) ++count;
    CHECK(count == 2);
    CHECK(files::status(parent / "secret").permissions() == secret_permissions);
  }
  files::path share() const { return parent / "share"; }

  files::path parent;
  files::perms secret_permissions = files::perms::none;
};

// Mostly what makes sense, with small numbers for inodes and handles.
struct Request {
  explicit Request(Input& input) : in(input) {}
  void put(uint64_t value, size_t bytes) {
    body.append(reinterpret_cast<const char*>(&value), bytes);
  }
  void small_numbers(size_t count) {
    for (size_t i = 0; i < count; ++i) put(in.below(4) == 0 ? in.number() : in.below(12), 8);
  }
  void name() {
    static constexpr std::array<const char*, 14> kNames{
        "f", "d", "g", "e", "l", "u", "new", "..", ".", "", "../secret", "secret", "x/y", "a"};
    body.append(kNames[in.below(kNames.size())]);
    if (in.below(32) != 0) body.push_back('\0');
  }

  Input& in;
  std::string body;
};

// How many 8-byte fields stand before the names, by opcode.
void fill(Request& request, uint32_t opcode) {
  switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_REMOVEXATTR:
      break;
    case FUSE_SYMLINK:
      request.name();
      break;
    case FUSE_RENAME:
    case FUSE_LINK:
    case FUSE_MKDIR:
    case FUSE_GETXATTR:
    case FUSE_SETXATTR:
      request.small_numbers(1);
      if (opcode == FUSE_RENAME) request.name();
      break;
    case FUSE_RENAME2:
    case FUSE_CREATE:
    case FUSE_MKNOD:
      if (opcode == FUSE_RENAME2) {
        request.small_numbers(1);
        request.put(request.in.below(4), 8);
        request.name();
      } else {
        request.put(request.in.number(), 4);
        request.put(request.in.number(), 4);
        request.put(0, 8);
      }
      break;
    case FUSE_SETATTR:
      request.put(request.in.number() & 0x3fff, 8);
      request.small_numbers(10);
      return;
    case FUSE_WRITE:
      request.small_numbers(2);
      request.put(request.in.below(40), 4);
      request.put(request.in.below(8), 4);
      request.small_numbers(2);
      request.body.append(request.in.below(40), 'w');
      return;
    default:
      request.small_numbers(request.in.below(8));
      return;
  }
  request.name();
  if (opcode == FUSE_SETXATTR) request.body.append(request.in.below(20), 'v');
}

void send(FuseServer& server, Input& input) {
  const uint32_t opcode = input.below(54);
  if (opcode == FUSE_SYNCFS) return;  // slow, and nothing to find
  Request request(input);
  fill(request, opcode);
  fuse_in_header header{};
  header.opcode = opcode;
  header.nodeid = input.below(16) == 0 ? input.number() : input.below(10);
  header.uid = input.below(2);
  header.len = static_cast<uint32_t>(sizeof(header) + request.body.size());
  if (input.below(64) == 0) header.len = input.byte();
  std::string message(reinterpret_cast<const char*>(&header), sizeof(header));
  message += request.body;
  std::string room(input.below(8) == 0 ? input.byte() : 4096, '\0');
  const size_t cut = std::min<size_t>(input.byte(), message.size());
  std::array<iovec, 2> in{iovec{message.data(), cut},
                          iovec{message.data() + cut, message.size() - cut}};
  iovec out{room.data(), room.size()};
  const auto outcome = server.serve({.message = in, .reply = {&out, 1}});
  CHECK(outcome.reply_bytes <= room.size() && outcome.touched_bytes <= room.size());
}

void start(FuseServer& server) {
  struct {
    fuse_in_header header{};
    fuse_init_in body{};
  } init;
  init.header.opcode = FUSE_INIT;
  init.header.len = sizeof(init);
  init.body.major = FUSE_KERNEL_VERSION;
  init.body.minor = FUSE_KERNEL_MINOR_VERSION;
  std::array<char, 256> room{};
  iovec in{&init, sizeof(init)};
  iovec out{room.data(), room.size()};
  server.serve({.message = {&in, 1}, .reply = {&out, 1}});
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  static World world;
  if (world.secret_permissions == files::perms::none) {
    world.secret_permissions = files::status(world.parent / "secret").permissions();
  }
  world.renew();
  Input input(data, size);
  FolderConfig config;
  config.path = world.share().string();
  config.is_read_only = input.below(8) == 0;
  config.limits = {.inodes = {.inodes = 16, .descriptors = input.below(4), .nameless = 2},
                   .handles = 4};
  const auto server = std::move(*FuseServer::create(config));
  start(*server);
  for (size_t i = 0; i < kMaxRequests && !input.is_empty(); ++i) {
    send(*server, input);
    CHECK(server->folder().inodes().size() <= 16 && server->folder().open_handles() <= 4);
    CHECK(server->folder().inodes().open_descriptors() <= config.limits.inodes.descriptors);
    if (i % 64 == 63) server->restore(server->save());
  }
  world.check();
  return 0;
}

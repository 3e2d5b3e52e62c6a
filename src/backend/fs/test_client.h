// FuseClient: a guest's kernel for tests and fuzzers, one request at a time; TempFolder: real
// files.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "backend/fs/fuse_server.h"

namespace trapeze {

// <parent>/share is what is shared; <parent>/secret must never be reached.
class TempFolder {
 public:
  TempFolder() {
    std::string text = (std::filesystem::temp_directory_path() / "trapeze-fs.XXXXXX").string();
    CHECK(::mkdtemp(text.data()) != nullptr);
    parent_ = text;
    std::filesystem::create_directory(parent_ / "share");
    std::ofstream(parent_ / "secret") << "secret";
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(parent_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  std::filesystem::path parent() const { return parent_; }
  std::filesystem::path path(const std::string& name = "") const {
    return parent_ / "share" / name;
  }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
  }
  std::string read(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  bool has(const std::string& name) const {
    return std::filesystem::exists(std::filesystem::symlink_status(path(name)));
  }
  struct stat stat(const std::string& name) const {
    struct stat info {};
    EXPECT_EQ(::lstat(path(name).c_str(), &info), 0) << name;
    return info;
  }

 private:
  std::filesystem::path parent_;
};

class FuseClient {
 public:
  struct Reply {
    int error = 0;  // an errno value
    std::string body;
    FsOutcome outcome;
    template <typename T>
    T as(size_t offset = 0) const {
      T value{};
      EXPECT_GE(body.size(), offset + sizeof(T));
      if (body.size() >= offset + sizeof(T)) std::memcpy(&value, body.data() + offset, sizeof(T));
      return value;
    }
  };

  explicit FuseClient(FsServer& server) : server_(server) {}

  template <typename T>
  static std::string bytes(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
  }
  static std::string name(const std::string& text) { return text + '\0'; }

  // In pieces of odd sizes, as a hostile driver may send it.
  Reply call_raw(const std::string& message, size_t room = 1 << 17) {
    std::string sent = message;
    reply_.assign(room, '\x77');
    const auto outcome =
        server_.serve({.message = pieces(sent, message_parts_, {7, 33, 8, 4096}),
                       .reply = pieces(reply_, reply_parts_, {16, 5, 1000, 4096})});
    Reply reply{.error = 0, .body = {}, .outcome = outcome};
    if (outcome.reply_bytes == 0) return reply;
    fuse_out_header header{};
    std::memcpy(&header, reply_.data(), sizeof(header));
    EXPECT_EQ(header.len, outcome.reply_bytes);
    EXPECT_LE(outcome.reply_bytes, room);
    EXPECT_GE(outcome.touched_bytes, outcome.reply_bytes);
    EXPECT_EQ(header.unique, unique_);
    reply.error = -header.error;
    reply.body = reply_.substr(sizeof(header), outcome.reply_bytes - sizeof(header));
    return reply;
  }
  Reply call(uint32_t opcode, uint64_t node, const std::string& body = {}, size_t room = 1 << 17) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    header.opcode = opcode;
    header.unique = ++unique_;
    header.nodeid = node;
    header.uid = uid;
    header.gid = gid;
    return call_raw(bytes(header) + body, room);
  }

  Reply init(uint32_t minor = FUSE_KERNEL_MINOR_VERSION) {
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = minor;
    in.max_readahead = 1 << 20;
    in.flags = ~0U;
    return call(FUSE_INIT, 0, bytes(in));
  }
  // 0 when there is no such file.
  uint64_t lookup(uint64_t parent, const std::string& text) {
    const Reply reply = call(FUSE_LOOKUP, parent, name(text));
    if (reply.error != 0) return 0;
    return reply.as<fuse_entry_out>().nodeid;
  }
  fuse_attr attributes(uint64_t node) {
    return call(FUSE_GETATTR, node, bytes(fuse_getattr_in{})).as<fuse_attr_out>().attr;
  }
  Reply open(uint64_t node, uint32_t flags) {
    return call(FUSE_OPEN, node, bytes(fuse_open_in{.flags = flags, .open_flags = 0}));
  }
  Reply create(uint64_t parent, const std::string& text, uint32_t mode = 0644,
               uint32_t flags = O_RDWR) {
    fuse_create_in in{};
    in.flags = flags | O_CREAT;
    in.mode = S_IFREG | mode;
    return call(FUSE_CREATE, parent, bytes(in) + name(text));
  }
  static uint64_t handle_of(const Reply& created) {
    return created.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
  }
  Reply mkdir(uint64_t parent, const std::string& text, uint32_t mode = 0755) {
    return call(FUSE_MKDIR, parent, bytes(fuse_mkdir_in{.mode = mode, .umask = 0}) + name(text));
  }
  Reply read(uint64_t handle, uint64_t offset, uint32_t size, size_t room = 1 << 17) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    return call(FUSE_READ, 1, bytes(in), room);
  }
  Reply write(uint64_t handle, uint64_t offset, const std::string& data, uint32_t flags = 0) {
    fuse_write_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = static_cast<uint32_t>(data.size());
    in.write_flags = flags;
    return call(FUSE_WRITE, 1, bytes(in) + data);
  }
  Reply release(uint64_t handle) {
    fuse_release_in in{};
    in.fh = handle;
    return call(FUSE_RELEASE, 1, bytes(in));
  }
  Reply rename(uint64_t parent, const std::string& from, uint64_t to_parent, const std::string& to,
               uint32_t flags = 0) {
    return call(FUSE_RENAME2, parent,
                bytes(fuse_rename2_in{.newdir = to_parent, .flags = flags, .padding = 0}) +
                    name(from) + name(to));
  }
  Reply forget(uint64_t node, uint64_t lookups = 1) {
    return call(FUSE_FORGET, node, bytes(fuse_forget_in{.nlookup = lookups}), 0);
  }
  // Names with their nodes (0 without attributes), read in small portions.
  std::map<std::string, uint64_t> list(uint64_t node, bool with_attributes,
                                       uint32_t portion = 512) {
    std::map<std::string, uint64_t> items;
    const Reply opened = call(FUSE_OPENDIR, node, bytes(fuse_open_in{}));
    EXPECT_EQ(opened.error, 0);
    fuse_read_in in{};
    in.fh = opened.as<fuse_open_out>().fh;
    in.size = portion;
    for (;;) {
      const Reply reply = call(with_attributes ? FUSE_READDIRPLUS : FUSE_READDIR, node, bytes(in));
      EXPECT_EQ(reply.error, 0);
      if (reply.error != 0 || reply.body.empty()) break;
      EXPECT_LE(reply.body.size(), portion);
      for (size_t at = 0; at < reply.body.size();) {
        uint64_t found = 0;
        if (with_attributes) {
          found = reply.as<fuse_entry_out>(at).nodeid;
          at += sizeof(fuse_entry_out);
        }
        const auto item = reply.as<fuse_dirent>(at);
        items[reply.body.substr(at + FUSE_NAME_OFFSET, item.namelen)] = found;
        in.offset = item.off;
        at += FUSE_REC_ALIGN(FUSE_NAME_OFFSET + item.namelen);
      }
    }
    call(FUSE_RELEASEDIR, node,
         bytes(fuse_release_in{.fh = in.fh, .flags = 0, .release_flags = 0, .lock_owner = 0}));
    return items;
  }

  uint32_t uid = 0;
  uint32_t gid = 0;

 private:
  static std::span<const iovec> pieces(std::string& text, std::vector<iovec>& parts,
                                       const std::vector<size_t>& sizes) {
    parts.clear();
    size_t at = 0;
    for (size_t i = 0; at < text.size(); ++i) {
      const size_t size = std::min(sizes[i % sizes.size()], text.size() - at);
      parts.push_back({text.data() + at, size});
      at += size;
    }
    return parts;
  }

  FsServer& server_;
  uint64_t unique_ = 0;
  std::string reply_;
  std::vector<iovec> message_parts_;
  std::vector<iovec> reply_parts_;
};

// A started server on a fresh folder.
class FuseTest : public testing::Test {
 protected:
  static constexpr uint64_t kRoot = InodeTable::kRoot;

  void SetUp() override { start({}); }
  void start(FolderConfig config) {
    config.path = temp.path().string();
    auto created = FuseServer::create(config);
    ASSERT_TRUE(created) << created.error().message;
    server = std::move(*created);
    guest = std::make_unique<FuseClient>(*server);
    ASSERT_EQ(guest->init().error, 0);
  }
  bool is_root() const { return ::geteuid() == 0; }

  TempFolder temp;
  std::unique_ptr<FuseServer> server;
  std::unique_ptr<FuseClient> guest;
};

}  // namespace trapeze

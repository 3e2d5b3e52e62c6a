// The protocol around the requests, limits, read-only folders, and snapshots.
#include "backend/fs/test_client.h"

namespace trapeze {
namespace {

using Client = FuseClient;

using SessionTest = FuseTest;

TEST_F(SessionTest, init_offers_what_we_keep) {
  const auto out = guest->init().as<fuse_init_out>();
  EXPECT_EQ(out.major, 7U);
  EXPECT_EQ(out.max_write, 1U << 20);
  EXPECT_EQ(out.max_pages, 256U);
  for (const uint32_t flag : std::initializer_list<uint32_t>{
           FUSE_MAX_PAGES, FUSE_BIG_WRITES, FUSE_ASYNC_READ, FUSE_DO_READDIRPLUS,
           FUSE_ATOMIC_O_TRUNC, FUSE_PARALLEL_DIROPS}) {
    EXPECT_NE(out.flags & flag, 0U) << flag;
  }
  for (const uint32_t flag :
       std::initializer_list<uint32_t>{FUSE_WRITEBACK_CACHE, FUSE_POSIX_LOCKS, FUSE_FLOCK_LOCKS,
                                       FUSE_POSIX_ACL, FUSE_SETXATTR_EXT}) {
    EXPECT_EQ(out.flags & flag, 0U) << flag;
  }
}

TEST_F(SessionTest, other_versions) {
  EXPECT_EQ(guest->init(30).error, EPROTO);
  EXPECT_EQ(guest->init(31).error, 0);
  fuse_init_in in{};
  in.major = 8;
  EXPECT_EQ(guest->call(FUSE_INIT, 0, Client::bytes(in)).as<fuse_init_out>().major, 7U);
  in.major = 6;
  EXPECT_EQ(guest->call(FUSE_INIT, 0, Client::bytes(in)).error, EPROTO);
  EXPECT_EQ(guest->call(FUSE_INIT, 0, "short").error, EINVAL);
}

TEST_F(SessionTest, nothing_is_served_before_init_and_after_destroy) {
  server->reset();
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, Client::name("x")).error, EPROTO);
  guest->init();
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, Client::name("x")).error, 0);
  EXPECT_EQ(guest->call(FUSE_DESTROY, 0).error, 0);
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, Client::name("x")).error, EPROTO);
}

TEST_F(SessionTest, requests_that_make_no_sense_are_refused) {
  EXPECT_EQ(guest->call(9999, kRoot).error, ENOSYS);
  EXPECT_EQ(guest->call(FUSE_SETLK, kRoot, std::string(100, 'x')).error, ENOSYS);
  EXPECT_EQ(guest->call(FUSE_FLUSH, kRoot, std::string(100, 'x')).error, ENOSYS);
  for (uint32_t opcode = 1; opcode < 52; ++opcode) {
    if (opcode == FUSE_INIT || opcode == FUSE_DESTROY) continue;
    guest->call(opcode, kRoot, "");
    guest->call(opcode, ~uint64_t{0}, std::string(200, '\xff'));
  }
  EXPECT_EQ(guest->call(FUSE_GETATTR, 77, Client::bytes(fuse_getattr_in{})).error, ESTALE);
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, std::string(200'000, 'x')).error, EINVAL);
}

TEST_F(SessionTest, headers_must_agree_with_the_message) {
  fuse_in_header header{};
  header.opcode = FUSE_GETATTR;
  header.nodeid = kRoot;
  header.len = 1000;
  const std::string message = Client::bytes(header) + Client::bytes(fuse_getattr_in{});
  EXPECT_TRUE(server->folder().inodes().size() == 1);
  std::string room(200, '\0');
  std::string sent = message;
  iovec in{sent.data(), sent.size()};
  iovec out{room.data(), room.size()};
  FsOutcome outcome = server->serve({.message = {&in, 1}, .reply = {&out, 1}});
  EXPECT_TRUE(outcome.is_error);
  EXPECT_EQ(outcome.reply_bytes, 16U);
  in.iov_len = 39;
  outcome = server->serve({.message = {&in, 1}, .reply = {&out, 1}});
  EXPECT_EQ(outcome.reply_bytes, 16U);
  outcome = server->serve({.message = {}, .reply = {}});
  EXPECT_TRUE(outcome.has_no_room);
}

TEST_F(SessionTest, what_may_wait_for_storage_or_copies_much_is_not_short) {
  const auto is_short = [&](uint32_t opcode, size_t body, size_t room_bytes) {
    fuse_in_header header{};
    header.opcode = opcode;
    std::string message = Client::bytes(header) + std::string(body, '\0');
    iovec in{message.data(), message.size()};
    iovec out{nullptr, room_bytes};  // nobody looks at it
    return server->is_short({.message = {&in, 1}, .reply = {&out, 1}});
  };
  EXPECT_TRUE(is_short(FUSE_LOOKUP, 10, 144));
  EXPECT_TRUE(is_short(FUSE_CREATE, 10, 160));
  EXPECT_TRUE(is_short(FUSE_READ, 40, 4096));
  EXPECT_FALSE(is_short(FUSE_READ, 40, 128 * 1024));
  EXPECT_FALSE(is_short(FUSE_WRITE, 128 * 1024, 24));
  EXPECT_FALSE(is_short(FUSE_FSYNC, 16, 16));
  EXPECT_FALSE(is_short(FUSE_SYNCFS, 8, 16));
  EXPECT_FALSE(server->is_short({.message = {}, .reply = {}})) << "no whole header";
}

TEST_F(SessionTest, room_for_replies_is_respected) {
  temp.write("f", "x");
  EXPECT_TRUE(guest->call(FUSE_LOOKUP, kRoot, Client::name("f"), 15).outcome.has_no_room);
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, Client::name("f"), 16).error, EIO);
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, Client::name("f"), 100).error, EIO);
  EXPECT_EQ(guest->forget(kRoot).outcome.reply_bytes, 0U);
  // A forget with room for a reply gets none either.
  EXPECT_EQ(
      guest->call(FUSE_FORGET, kRoot, Client::bytes(fuse_forget_in{}), 64).outcome.reply_bytes, 0U);
}

TEST_F(SessionTest, forgotten_files_are_forgotten) {
  std::filesystem::create_directories(temp.path("a/b/c"));
  const uint64_t a = guest->lookup(kRoot, "a");
  const uint64_t b = guest->lookup(a, "b");
  const uint64_t c = guest->lookup(b, "c");
  guest->lookup(b, "c");
  EXPECT_EQ(server->folder().inodes().size(), 4U);
  // Folders stay as long as something in them is known.
  guest->forget(a);
  guest->forget(b, 1000);
  EXPECT_EQ(server->folder().inodes().size(), 4U);
  std::string batch = Client::bytes(fuse_batch_forget_in{.count = 1000, .dummy = 0});
  batch += Client::bytes(fuse_forget_one{.nodeid = c, .nlookup = 2});
  batch += Client::bytes(fuse_forget_one{.nodeid = kRoot, .nlookup = 1 << 30});
  EXPECT_EQ(guest->call(FUSE_BATCH_FORGET, 0, batch, 0).outcome.reply_bytes, 0U);
  EXPECT_EQ(server->folder().inodes().size(), 1U);
  EXPECT_EQ(guest->attributes(kRoot).nlink, temp.stat("").st_nlink);
}

TEST_F(SessionTest, limits_give_errors_and_nothing_else) {
  FolderConfig config;
  config.limits = {.inodes = {.inodes = 20, .descriptors = 4, .nameless = 3}, .handles = 5};
  start(config);
  for (int i = 0; i < 40; ++i) temp.write("f" + std::to_string(i), "content");
  std::vector<uint64_t> nodes;
  for (int i = 0; i < 19; ++i) nodes.push_back(guest->lookup(kRoot, "f" + std::to_string(i)));
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, Client::name("f30")).error, ENFILE);
  EXPECT_EQ(guest->create(kRoot, "new").error, ENFILE);
  EXPECT_EQ(server->folder().open_handles(), 0U);
  EXPECT_EQ(guest->list(kRoot, true, 4096).size(), 43U);  // without nodes, but all of them
  std::vector<uint64_t> handles;
  for (int i = 0; i < 5; ++i) {
    handles.push_back(guest->open(nodes[static_cast<size_t>(i)], O_RDONLY).as<fuse_open_out>().fh);
  }
  EXPECT_EQ(guest->open(nodes[7], O_RDONLY).error, ENFILE);
  EXPECT_EQ(guest->call(FUSE_OPENDIR, kRoot, Client::bytes(fuse_open_in{})).error, ENFILE);
  EXPECT_LE(server->folder().inodes().open_descriptors(), 4U);
  for (int i = 10; i < 13; ++i) {
    EXPECT_EQ(guest->call(FUSE_UNLINK, kRoot, Client::name("f" + std::to_string(i))).error, 0);
  }
  EXPECT_EQ(guest->call(FUSE_UNLINK, kRoot, Client::name("f13")).error, ENFILE);
  EXPECT_TRUE(temp.has("f13"));
  guest->forget(nodes[10], 2);  // looked up, and listed
  EXPECT_EQ(guest->call(FUSE_UNLINK, kRoot, Client::name("f13")).error, 0);
  guest->release(handles[0]);
  EXPECT_EQ(guest->open(nodes[7], O_RDONLY).error, 0);
}

TEST_F(SessionTest, many_files_need_few_descriptors) {
  FolderConfig config;
  config.limits.inodes.descriptors = 2;
  start(config);
  uint64_t parent = kRoot;
  std::vector<uint64_t> chain;
  std::string path;
  for (int i = 0; i < 60; ++i) {
    ASSERT_EQ(guest->mkdir(parent, "deeper").error, 0);
    parent = guest->lookup(parent, "deeper");
    chain.push_back(parent);
    path += "deeper/";
  }
  temp.write(path + "end", "reached");
  const uint64_t file = guest->lookup(parent, "end");
  EXPECT_LE(server->folder().inodes().open_descriptors(), 2U);
  guest->attributes(chain[3]);
  guest->list(chain[10], false);
  const auto opened = guest->open(file, O_RDONLY);
  ASSERT_EQ(opened.error, 0);
  EXPECT_EQ(guest->read(opened.as<fuse_open_out>().fh, 0, 100).body, "reached");
  EXPECT_LE(server->folder().inodes().open_descriptors(), 2U);
}

TEST_F(SessionTest, a_read_only_folder_stays_as_it_is) {
  temp.write("f", "content");
  temp.write("g", "other");
  std::filesystem::create_directory(temp.path("d"));
  FolderConfig config;
  config.is_read_only = true;
  start(config);
  const uint64_t file = guest->lookup(kRoot, "f");
  for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC}) {
    EXPECT_EQ(guest->open(file, static_cast<uint32_t>(flags)).error, EROFS);
  }
  EXPECT_EQ(guest->create(kRoot, "new").error, EROFS);
  EXPECT_EQ(guest->create(kRoot, "f").error, EROFS);
  EXPECT_EQ(guest->mkdir(kRoot, "e").error, EROFS);
  EXPECT_EQ(guest->call(FUSE_UNLINK, kRoot, Client::name("f")).error, EROFS);
  EXPECT_EQ(guest->call(FUSE_RMDIR, kRoot, Client::name("d")).error, EROFS);
  EXPECT_EQ(guest->rename(kRoot, "f", kRoot, "h").error, EROFS);
  EXPECT_EQ(guest->call(FUSE_SYMLINK, kRoot, Client::name("l") + Client::name("f")).error, EROFS);
  EXPECT_EQ(guest
                ->call(FUSE_LINK, kRoot,
                       Client::bytes(fuse_link_in{.oldnodeid = file}) + Client::name("h"))
                .error,
            EROFS);
  fuse_setattr_in in{};
  in.valid = FATTR_MODE;
  EXPECT_EQ(guest->call(FUSE_SETATTR, file, Client::bytes(in)).error, EROFS);
  const std::array<uint32_t, 2> xattr{1, 0};
  EXPECT_EQ(
      guest->call(FUSE_SETXATTR, file, Client::bytes(xattr) + Client::name("user.x") + "v").error,
      EROFS);
  EXPECT_EQ(guest->call(FUSE_REMOVEXATTR, file, Client::name("user.x")).error, EROFS);
  const uint64_t handle = guest->open(file, O_RDONLY).as<fuse_open_out>().fh;
  EXPECT_EQ(guest->write(handle, 0, "x").error, EROFS);
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 10;
  EXPECT_EQ(guest->call(FUSE_FALLOCATE, 1, Client::bytes(allocate)).error, EROFS);
  fuse_copy_file_range_in copy{};
  copy.fh_in = copy.fh_out = handle;
  copy.len = 1;
  EXPECT_EQ(guest->call(FUSE_COPY_FILE_RANGE, 1, Client::bytes(copy)).error, EROFS);
  EXPECT_EQ(
      guest->call(FUSE_ACCESS, file, Client::bytes(fuse_access_in{.mask = W_OK, .padding = 0}))
          .error,
      EROFS);
  EXPECT_EQ(guest->read(handle, 0, 100).body, "content");
  EXPECT_EQ(temp.read("f") + temp.read("g"), "contentother");
}

TEST_F(SessionTest, static_folders_may_be_kept_for_long) {
  temp.write("f", "x");
  FolderConfig config;
  config.is_static = config.is_read_only = true;
  start(config);
  const auto entry = guest->call(FUSE_LOOKUP, kRoot, Client::name("f")).as<fuse_entry_out>();
  EXPECT_GT(entry.entry_valid, 3600U);
  EXPECT_EQ(guest->open(entry.nodeid, O_RDONLY).as<fuse_open_out>().open_flags, FOPEN_KEEP_CACHE);
}

TEST_F(SessionTest, a_saved_session_goes_on_in_another_server) {
  std::filesystem::create_directories(temp.path("a/b"));
  temp.write("a/b/file", "0123456789");
  temp.write("gone", "x");
  const uint64_t b = guest->lookup(guest->lookup(kRoot, "a"), "b");
  const uint64_t file = guest->lookup(b, "file");
  const uint64_t gone = guest->lookup(kRoot, "gone");
  const uint64_t handle = guest->open(file, O_RDWR).as<fuse_open_out>().fh;
  const uint64_t folder_handle =
      guest->call(FUSE_OPENDIR, b, Client::bytes(fuse_open_in{})).as<fuse_open_out>().fh;
  const FsSessionState state = server->save();
  std::filesystem::remove(temp.path("gone"));
  FolderConfig config;
  config.path = temp.path().string();
  server = std::move(*FuseServer::create(config));
  FuseClient other(*server);
  server->restore(state);
  EXPECT_EQ(other.read(handle, 3, 3).body, "345");
  EXPECT_EQ(other.write(handle, 0, "X").error, 0);
  EXPECT_EQ(other.attributes(file).size, 10U);
  EXPECT_EQ(other.lookup(b, "file"), file);
  fuse_read_in in{};
  in.fh = folder_handle;
  in.size = 4096;
  EXPECT_FALSE(other.call(FUSE_READDIR, b, Client::bytes(in)).body.empty());
  EXPECT_EQ(other.open(gone, O_RDONLY).error, ENOENT);
  // New numbers are new.
  const auto created = other.create(kRoot, "new");
  EXPECT_GT(created.as<fuse_entry_out>().nodeid, std::max(file, gone));
  EXPECT_GT(FuseClient::handle_of(created), folder_handle);
  EXPECT_TRUE(state == state);
  EXPECT_FALSE(server->save() == state);
}

}  // namespace
}  // namespace trapeze

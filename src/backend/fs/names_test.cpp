// Names: lookups, making, unmaking, renaming; and that none of them leads out of the folder.
#include <linux/fs.h>

#include "backend/fs/test_client.h"

namespace trapeze {
namespace {

using Client = FuseClient;

using NamesTest = FuseTest;

TEST_F(NamesTest, lookup_finds_files_and_tells_their_attributes) {
  temp.write("file", "12345");
  const auto reply = guest->call(FUSE_LOOKUP, kRoot, Client::name("file"));
  ASSERT_EQ(reply.error, 0);
  const auto entry = reply.as<fuse_entry_out>();
  EXPECT_NE(entry.nodeid, 0U);
  EXPECT_EQ(entry.attr.size, 5U);
  EXPECT_EQ(entry.attr.ino, temp.stat("file").st_ino);
  EXPECT_EQ(entry.attr.mode, temp.stat("file").st_mode);
  EXPECT_EQ(entry.entry_valid, 1U);
}

TEST_F(NamesTest, what_is_not_there_is_told_as_such_for_a_while) {
  const auto reply = guest->call(FUSE_LOOKUP, kRoot, Client::name("nothing"));
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.as<fuse_entry_out>().nodeid, 0U);
  EXPECT_EQ(reply.as<fuse_entry_out>().entry_valid, 1U);
}

TEST_F(NamesTest, names_that_would_lead_elsewhere_are_refused) {
  std::filesystem::create_directory(temp.path("d"));
  const uint64_t folder = guest->lookup(kRoot, "d");
  for (const std::string& bad : {std::string(".."), std::string("."), std::string("../secret"),
                                 std::string("/etc/passwd"), std::string("d/x"), std::string()}) {
    SCOPED_TRACE(bad);
    for (const uint64_t parent : {kRoot, folder}) {
      EXPECT_EQ(guest->call(FUSE_LOOKUP, parent, Client::name(bad)).error, EINVAL);
      EXPECT_EQ(guest->create(parent, bad).error, EINVAL);
      EXPECT_EQ(guest->mkdir(parent, bad).error, EINVAL);
      EXPECT_EQ(guest->call(FUSE_UNLINK, parent, Client::name(bad)).error, EINVAL);
      EXPECT_EQ(guest->call(FUSE_RMDIR, parent, Client::name(bad)).error, EINVAL);
      EXPECT_EQ(guest->call(FUSE_SYMLINK, parent, Client::name(bad) + Client::name("t")).error,
                EINVAL);
      EXPECT_EQ(guest->rename(parent, "d", parent, bad).error, EINVAL);
      EXPECT_EQ(guest->rename(parent, bad, parent, "e").error, EINVAL);
    }
  }
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, Client::name(std::string(256, 'x'))).error,
            ENAMETOOLONG);
  // Without its zero there is no name.
  EXPECT_EQ(guest->call(FUSE_LOOKUP, kRoot, "d").error, EINVAL);
}

TEST_F(NamesTest, symbolic_links_are_read_and_never_followed) {
  std::filesystem::create_symlink("/etc", temp.path("out"));
  std::filesystem::create_symlink("../secret", temp.path("up"));
  const uint64_t out = guest->lookup(kRoot, "out");
  const uint64_t up = guest->lookup(kRoot, "up");
  EXPECT_EQ(guest->call(FUSE_READLINK, out).body, "/etc");
  EXPECT_TRUE(S_ISLNK(guest->attributes(up).mode));
  EXPECT_EQ(guest->call(FUSE_LOOKUP, out, Client::name("passwd")).error, ENOTDIR);
  EXPECT_EQ(guest->open(up, O_RDONLY).error, EACCES);
  EXPECT_EQ(guest->call(FUSE_OPENDIR, out, Client::bytes(fuse_open_in{})).error, ENOTDIR);
  EXPECT_EQ(guest->create(out, "new").error, ENOTDIR);
  EXPECT_EQ(guest->create(kRoot, "up", 0644, O_RDWR).error, EACCES);
  EXPECT_EQ(guest->call(FUSE_READLINK, kRoot).error, EINVAL);
}

TEST_F(NamesTest, a_folder_replaced_by_a_link_on_the_host_is_stale) {
  FolderConfig config;
  config.limits.inodes.descriptors = 0;  // so that every use opens anew
  start(config);
  std::filesystem::create_directory(temp.path("d"));
  temp.write("d/x", "inside");
  const uint64_t folder = guest->lookup(kRoot, "d");
  const uint64_t file = guest->lookup(folder, "x");
  ASSERT_NE(file, 0U);
  std::filesystem::rename(temp.path("d"), temp.path("e"));
  std::filesystem::create_directory_symlink(temp.parent(), temp.path("d"));
  std::ofstream(temp.parent() / "x") << "outside";
  EXPECT_EQ(guest->call(FUSE_LOOKUP, folder, Client::name("x")).error, ESTALE);
  EXPECT_EQ(guest->open(file, O_RDONLY).error, ESTALE);
  EXPECT_EQ(guest->create(folder, "new").error, ESTALE);
  // Looked up again, it is a link.
  const uint64_t link = guest->lookup(kRoot, "d");
  EXPECT_NE(link, folder);
  EXPECT_EQ(guest->call(FUSE_READLINK, link).body, temp.parent().string());
}

TEST_F(NamesTest, a_number_used_again_is_another_file) {
  temp.write("a", "first");
  const uint64_t before = guest->lookup(kRoot, "a");
  std::filesystem::remove(temp.path("a"));
  temp.write("a", "second, and perhaps with the number of the first");
  const uint64_t after = guest->lookup(kRoot, "a");
  EXPECT_NE(after, before);
  EXPECT_EQ(guest->call(FUSE_GETATTR, before, Client::bytes(fuse_getattr_in{})).error, ESTALE);
  EXPECT_EQ(guest->attributes(after).size, 48U);
}

TEST_F(NamesTest, making_and_unmaking) {
  EXPECT_EQ(guest->mkdir(kRoot, "d", 01777).error, 0);
  EXPECT_EQ(temp.stat("d").st_mode, mode_t{S_IFDIR | 01777});
  const uint64_t folder = guest->lookup(kRoot, "d");
  const auto created = guest->create(folder, "f", 0666);
  ASSERT_EQ(created.error, 0);
  EXPECT_EQ(temp.stat("d/f").st_mode, mode_t{S_IFREG | 0666});  // whatever this process's umask
  EXPECT_EQ(guest->call(FUSE_SYMLINK, folder, Client::name("l") + Client::name("/etc/x")).error, 0);
  EXPECT_EQ(std::filesystem::read_symlink(temp.path("d/l")), "/etc/x");
  const uint64_t file = created.as<fuse_entry_out>().nodeid;
  const auto linked = guest->call(
      FUSE_LINK, kRoot, Client::bytes(fuse_link_in{.oldnodeid = file}) + Client::name("hard"));
  ASSERT_EQ(linked.error, 0);
  EXPECT_EQ(linked.as<fuse_entry_out>().nodeid, file);
  EXPECT_EQ(linked.as<fuse_entry_out>().attr.nlink, 2U);
  EXPECT_EQ(guest->call(FUSE_RMDIR, kRoot, Client::name("d")).error, ENOTEMPTY);
  EXPECT_EQ(guest->call(FUSE_UNLINK, kRoot, Client::name("d")).error, EISDIR);
  EXPECT_EQ(guest->call(FUSE_UNLINK, folder, Client::name("f")).error, 0);
  EXPECT_EQ(guest->call(FUSE_UNLINK, folder, Client::name("l")).error, 0);
  EXPECT_EQ(guest->call(FUSE_UNLINK, folder, Client::name("l")).error, ENOENT);
  EXPECT_EQ(guest->call(FUSE_RMDIR, kRoot, Client::name("d")).error, 0);
  EXPECT_FALSE(temp.has("d"));
  EXPECT_EQ(guest->attributes(file).nlink, 1U);
}

TEST_F(NamesTest, special_files_are_made_where_harmless_and_never_opened) {
  const auto make = [&](const std::string& text, uint32_t mode) {
    return guest
        ->call(FUSE_MKNOD, kRoot,
               Client::bytes(fuse_mknod_in{.mode = mode, .rdev = 0x103, .umask = 0, .padding = 0}) +
                   Client::name(text))
        .error;
  };
  EXPECT_EQ(make("pipe", S_IFIFO | 0600), 0);
  EXPECT_EQ(make("socket", S_IFSOCK | 0600), 0);
  EXPECT_EQ(make("plain", S_IFREG | 0640), 0);
  EXPECT_EQ(make("null", S_IFCHR | 0666), EPERM);
  EXPECT_EQ(make("disk", S_IFBLK | 0666), EPERM);
  EXPECT_FALSE(temp.has("null"));
  EXPECT_EQ(temp.stat("plain").st_mode, mode_t{S_IFREG | 0640});
  const uint64_t pipe = guest->lookup(kRoot, "pipe");
  for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
    EXPECT_EQ(guest->open(pipe, static_cast<uint32_t>(flags)).error, EACCES);
  }
  // By its name: O_CREAT of a name that is there.
  EXPECT_EQ(guest->create(kRoot, "pipe", 0644, O_WRONLY).error, EACCES);
}

TEST_F(NamesTest, set_id_bits_of_files_are_not_made) {
  const auto created = guest->create(kRoot, "f", 06755);
  ASSERT_EQ(created.error, 0);
  EXPECT_EQ(temp.stat("f").st_mode & 07777, 0755U);
  fuse_setattr_in in{};
  in.valid = FATTR_MODE;
  in.mode = 06711;
  EXPECT_EQ(guest->call(FUSE_SETATTR, created.as<fuse_entry_out>().nodeid, Client::bytes(in)).error,
            0);
  EXPECT_EQ(temp.stat("f").st_mode & 07777, 0711U);
}

TEST_F(NamesTest, renamed_files_keep_their_number) {
  temp.write("a", "a");
  temp.write("b", "bb");
  std::filesystem::create_directory(temp.path("d"));
  const uint64_t a = guest->lookup(kRoot, "a");
  const uint64_t b = guest->lookup(kRoot, "b");
  const uint64_t d = guest->lookup(kRoot, "d");
  EXPECT_EQ(guest->rename(kRoot, "a", d, "c").error, 0);
  EXPECT_EQ(guest->attributes(a).size, 1U);
  EXPECT_EQ(guest->lookup(d, "c"), a);
  EXPECT_EQ(guest->rename(d, "c", kRoot, "b", RENAME_NOREPLACE).error, EEXIST);
  EXPECT_EQ(guest->rename(d, "c", kRoot, "b", RENAME_EXCHANGE).error, 0);
  EXPECT_EQ(guest->attributes(a).size, 1U);
  EXPECT_EQ(guest->attributes(b).size, 2U);
  EXPECT_EQ(guest->lookup(d, "c"), b);
  EXPECT_EQ(guest->rename(kRoot, "b", d, "c", RENAME_WHITEOUT).error, EINVAL);
  EXPECT_EQ(guest->rename(kRoot, "d", d, "e").error, EINVAL);  // into itself
  EXPECT_EQ(guest->rename(kRoot, "gone", d, "e").error, ENOENT);
  // The old form of the request.
  EXPECT_EQ(
      guest
          ->call(FUSE_RENAME, kRoot,
                 Client::bytes(fuse_rename_in{.newdir = d}) + Client::name("b") + Client::name("z"))
          .error,
      0);
  EXPECT_EQ(temp.read("d/z"), "a");
}

TEST_F(NamesTest, a_replaced_file_lives_as_long_as_it_is_known) {
  temp.write("old", "old content");
  temp.write("new", "new");
  const uint64_t old = guest->lookup(kRoot, "old");
  const uint64_t handle = guest->open(old, O_RDWR).as<fuse_open_out>().fh;
  guest->lookup(kRoot, "new");
  EXPECT_EQ(guest->rename(kRoot, "new", kRoot, "old").error, 0);
  EXPECT_EQ(guest->read(handle, 4, 100).body, "content");
  EXPECT_EQ(guest->attributes(old).nlink, 0U);
  EXPECT_EQ(guest->lookup(kRoot, "old") == old, false);
  EXPECT_EQ(guest->write(handle, 0, "O").error, 0);
  EXPECT_EQ(temp.read("old"), "new");
}

TEST_F(NamesTest, folders_moved_about_on_the_host_make_no_ring) {
  std::filesystem::create_directories(temp.path("a/b"));
  const uint64_t a = guest->lookup(kRoot, "a");
  const uint64_t b = guest->lookup(a, "b");
  ASSERT_NE(b, 0U);
  guest->list(b, false);  // b's descriptor is open now
  std::filesystem::rename(temp.path("a/b"), temp.path("b"));
  std::filesystem::rename(temp.path("a"), temp.path("b/a"));
  EXPECT_NE(guest->lookup(b, "a"), 0U);
  EXPECT_NE(guest->lookup(kRoot, "b"), 0U);
  EXPECT_NE(guest->lookup(b, "a"), 0U);
  EXPECT_EQ(guest->mkdir(a, "c").error, 0);
  EXPECT_TRUE(temp.has("b/a/c"));
  for (const uint64_t node : {a, b}) guest->forget(node, 10);
}

TEST_F(NamesTest, kernel_file_systems_are_seen_and_not_entered) {
  // As --rootfs / has it: proc is a folder in a shared one.
  FolderConfig config;
  config.path = "/";
  config.is_read_only = true;
  auto created = FuseServer::create(config);
  ASSERT_TRUE(created) << created.error().message;
  FuseClient root(**created);
  root.init();
  const uint64_t proc = root.lookup(kRoot, "proc");
  ASSERT_NE(proc, 0U);
  EXPECT_TRUE(S_ISDIR(root.attributes(proc).mode));
  EXPECT_EQ(root.lookup(proc, "self"), 0U);
  EXPECT_EQ(root.lookup(proc, "1"), 0U);
  EXPECT_TRUE(root.list(proc, false).empty());
  EXPECT_TRUE(root.list(proc, true).empty());
  EXPECT_EQ(root.create(proc, "x").error, EROFS);
  EXPECT_NE(root.lookup(root.lookup(kRoot, "etc"), "passwd"), 0U);
}

TEST(HostFiles, nothing_of_the_kernels_is_opened) {
  const auto host = std::move(*HostFiles::create());
  const Fd folder(::open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const Fd memory = std::move(*HostFiles::open_path_at(folder.get(), "mem"));
  EXPECT_TRUE(S_ISREG(HostFiles::stat_of(memory.get())->stx_mode));
  EXPECT_EQ(host.reopen(memory.get(), O_RDONLY).error().value, EACCES);
  EXPECT_EQ(host.reopen(folder.get(), O_RDONLY).error().value, EACCES);
}

TEST(HostFiles, births_count_where_they_are_kept) {
  const TempFolder temp;
  const FileStat stat = *HostFiles::stat_at(AT_FDCWD, temp.path().c_str());
  EXPECT_EQ(file_id(stat, {.is_ordinary = true, .keeps_births = false}).birth_ns, 0U);
  const FileId id = file_id(stat, {.is_ordinary = true, .keeps_births = true});
  EXPECT_EQ(id.birth_ns != 0, (stat.stx_mask & STATX_BTIME) != 0);
  EXPECT_EQ(id.ino, stat.stx_ino);
}

TEST(SharedFolder, roots_that_cannot_be_shared) {
  for (const char* path : {"/proc", "/sys", "/nowhere", "/etc/passwd"}) {
    FolderConfig config;
    config.path = path;
    const auto created = SharedFolder::create(config);
    ASSERT_FALSE(created) << path;
    EXPECT_NE(created.error().message.find(path), std::string::npos);
  }
}

}  // namespace
}  // namespace trapeze

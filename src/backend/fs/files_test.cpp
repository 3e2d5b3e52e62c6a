// Open files, their data and their attributes.
#include <sys/mman.h>
#include <sys/xattr.h>

#include "backend/fs/test_client.h"

namespace trapeze {
namespace {

using Client = FuseClient;

class FilesTest : public FuseTest {
 protected:
  uint64_t opened(const std::string& name, int flags = O_RDWR) {
    const auto reply = guest->open(guest->lookup(kRoot, name), static_cast<uint32_t>(flags));
    EXPECT_EQ(reply.error, 0) << name;
    return reply.as<fuse_open_out>().fh;
  }
  Client::Reply set(uint64_t node, const fuse_setattr_in& in) {
    return guest->call(FUSE_SETATTR, node, Client::bytes(in));
  }
};

TEST_F(FilesTest, data_goes_both_ways_at_any_offset) {
  temp.write("f", "0123456789");
  const uint64_t handle = opened("f");
  EXPECT_EQ(guest->read(handle, 3, 4).body, "3456");
  EXPECT_EQ(guest->read(handle, 8, 100).body, "89");
  EXPECT_EQ(guest->read(handle, 10, 100).body, "");
  EXPECT_EQ(guest->write(handle, 5, "abc").as<fuse_write_out>().size, 3U);
  EXPECT_EQ(guest->write(handle, 12, "z").as<fuse_write_out>().size, 1U);
  EXPECT_EQ(temp.read("f"), std::string("01234abc89\0\0z", 13));
  EXPECT_EQ(guest->read(handle, ~uint64_t{0}, 1).error, EINVAL);
  EXPECT_EQ(guest->write(handle, ~uint64_t{0}, "x").error, EFBIG);
}

TEST_F(FilesTest, a_megabyte_in_one_request) {
  std::string content(1 << 20, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 + i / 251);
  const auto created = guest->create(kRoot, "big");
  const uint64_t handle = Client::handle_of(created);
  EXPECT_EQ(guest->write(handle, 0, content).as<fuse_write_out>().size, content.size());
  EXPECT_EQ(temp.read("big"), content);
  EXPECT_EQ(guest->read(handle, 0, 1 << 20, (1 << 20) + 16).body, content);
  // More than fits in the room is not read.
  EXPECT_EQ(guest->read(handle, 0, 1 << 20, 116).body, content.substr(0, 100));
  EXPECT_EQ(guest->write(handle, 0, content + "x").error, EINVAL);
}

TEST_F(FilesTest, a_write_that_lies_about_its_size_writes_nothing) {
  const uint64_t handle = Client::handle_of(guest->create(kRoot, "f"));
  fuse_write_in in{};
  in.fh = handle;
  in.size = 1000;
  EXPECT_EQ(guest->call(FUSE_WRITE, 1, Client::bytes(in) + "short").error, EINVAL);
  EXPECT_EQ(temp.read("f"), "");
}

TEST_F(FilesTest, handles_give_only_what_they_were_opened_for) {
  temp.write("f", "data");
  const uint64_t reader = opened("f", O_RDONLY);
  EXPECT_EQ(guest->write(reader, 0, "x").error, EBADF);
  const uint64_t writer = opened("f", O_WRONLY);
  EXPECT_EQ(guest->read(writer, 0, 1).error, EBADF);
  EXPECT_EQ(guest->release(reader).error, 0);
  EXPECT_EQ(guest->read(reader, 0, 1).error, EBADF);
  EXPECT_EQ(guest->release(reader).error, 0);
  EXPECT_EQ(guest->read(12345, 0, 1).error, EBADF);
  EXPECT_EQ(guest->open(kRoot, O_RDONLY).error, EISDIR);
}

TEST_F(FilesTest, open_truncates_and_appends_when_told) {
  temp.write("f", "something");
  const uint64_t appender = opened("f", O_WRONLY | O_APPEND);
  EXPECT_EQ(guest->write(appender, 0, "+").error, 0);
  EXPECT_EQ(temp.read("f"), "something+");
  opened("f", O_WRONLY | O_TRUNC);
  EXPECT_EQ(temp.read("f"), "");
}

TEST_F(FilesTest, a_removed_file_can_be_used_as_long_as_it_is_open) {
  temp.write("f", "still here");
  const uint64_t node = guest->lookup(kRoot, "f");
  const uint64_t handle = guest->open(node, O_RDWR).as<fuse_open_out>().fh;
  EXPECT_EQ(guest->call(FUSE_UNLINK, kRoot, Client::name("f")).error, 0);
  EXPECT_EQ(guest->read(handle, 6, 9).body, "here");
  EXPECT_EQ(guest->attributes(node).nlink, 0U);
  // And opened again, as /proc/self/fd does it.
  const auto again = guest->open(node, O_RDONLY);
  ASSERT_EQ(again.error, 0);
  EXPECT_EQ(guest->read(again.as<fuse_open_out>().fh, 0, 5).body, "still");
  EXPECT_EQ(guest->lookup(kRoot, "f"), 0U);
}

TEST_F(FilesTest, a_file_removed_on_the_host_can_be_used_as_long_as_it_is_open) {
  temp.write("f", "still here");
  const uint64_t node = guest->lookup(kRoot, "f");
  const uint64_t handle = guest->open(node, O_RDWR).as<fuse_open_out>().fh;
  std::filesystem::remove(temp.path("f"));
  EXPECT_EQ(guest->read(handle, 6, 9).body, "here");
  EXPECT_EQ(guest->attributes(node).size, 10U);
  guest->release(handle);
}

TEST_F(FilesTest, the_guest_may_keep_data_of_a_file_that_did_not_change) {
  temp.write("f", "one");
  const auto long_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  std::filesystem::last_write_time(temp.path("f"), long_ago);
  const uint64_t node = guest->lookup(kRoot, "f");
  const auto keeps = [&] {
    return (guest->open(node, O_RDONLY).as<fuse_open_out>().open_flags & FOPEN_KEEP_CACHE) != 0;
  };
  EXPECT_FALSE(keeps());
  ::usleep(150'000);  // ctime is now: a change in the same tick would go unseen
  EXPECT_FALSE(keeps());
  EXPECT_TRUE(keeps());
  temp.write("f", "two");
  EXPECT_FALSE(keeps());
}

TEST_F(FilesTest, attributes_are_set) {
  temp.write("f", "0123456789");
  const uint64_t node = guest->lookup(kRoot, "f");
  fuse_setattr_in in{};
  in.valid = FATTR_MODE | FATTR_SIZE | FATTR_MTIME | FATTR_ATIME;
  in.mode = 0604;
  in.size = 4;
  in.mtime = 1'000'000'000;
  in.mtimensec = 5;
  in.atime = 1'100'000'000;
  const auto reply = set(node, in);
  ASSERT_EQ(reply.error, 0);
  const auto attr = reply.as<fuse_attr_out>().attr;
  EXPECT_EQ(attr.mode & 07777, 0604U);
  EXPECT_EQ(attr.size, 4U);
  EXPECT_EQ(attr.mtime, 1'000'000'000U);
  EXPECT_EQ(attr.mtimensec, 5U);
  EXPECT_EQ(attr.atime, 1'100'000'000U);
  EXPECT_EQ(temp.read("f"), "0123");
  in = {};
  in.valid = FATTR_MTIME | FATTR_MTIME_NOW;
  EXPECT_GT(set(node, in).as<fuse_attr_out>().attr.mtime, 1'700'000'000U);
  in.valid = FATTR_SIZE;
  in.size = ~uint64_t{0};
  EXPECT_EQ(set(node, in).error, EFBIG);
  EXPECT_EQ(set(kRoot, in).error, EINVAL);
}

TEST_F(FilesTest, links_have_times_and_no_mode) {
  std::filesystem::create_symlink("../secret", temp.path("l"));
  const uint64_t node = guest->lookup(kRoot, "l");
  fuse_setattr_in in{};
  in.valid = FATTR_MTIME;
  in.mtime = 1'000'000'000;
  EXPECT_EQ(set(node, in).as<fuse_attr_out>().attr.mtime, 1'000'000'000U);
  struct stat secret {};
  ASSERT_EQ(::stat((temp.parent() / "secret").c_str(), &secret), 0);
  EXPECT_GT(secret.st_mtime, 1'700'000'000);
  in.valid = FATTR_MODE;
  EXPECT_EQ(set(node, in).error, EOPNOTSUPP);
  in.valid = FATTR_SIZE;
  EXPECT_EQ(set(node, in).error, EINVAL);
  std::ifstream content(temp.parent() / "secret");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(content), {}), "secret");
}

TEST_F(FilesTest, owners_are_those_of_the_guest_for_root) {
  if (!is_root()) GTEST_SKIP() << "needs root";
  guest->uid = 1234;
  guest->gid = 4321;
  const auto created = guest->create(kRoot, "f", 0640);
  ASSERT_EQ(created.error, 0);
  EXPECT_EQ(created.as<fuse_entry_out>().attr.uid, 1234U);
  EXPECT_EQ(temp.stat("f").st_gid, 4321U);
  EXPECT_EQ(guest->mkdir(kRoot, "d", 02775).error, 0);
  EXPECT_EQ(temp.stat("d").st_uid, 1234U);
  EXPECT_EQ(temp.stat("d").st_mode & 07777, 02775U);
  guest->gid = 77;
  const uint64_t folder = guest->lookup(kRoot, "d");
  guest->create(folder, "inherits");
  EXPECT_EQ(temp.stat("d/inherits").st_gid, 4321U);
  fuse_setattr_in in{};
  in.valid = FATTR_UID | FATTR_GID;
  in.uid = 5;
  in.gid = 6;
  EXPECT_EQ(set(folder, in).as<fuse_attr_out>().attr.uid, 5U);
  EXPECT_EQ(temp.stat("d").st_gid, 6U);
}

TEST(Ownership, without_privileges_the_hosts_user_is_root_in_the_guest) {
  const Ownership user(1000, 100);
  EXPECT_FALSE(user.is_privileged());
  EXPECT_EQ(user.to_guest({1000, 100}).uid, 0U);
  EXPECT_EQ(user.to_guest({1000, 100}).gid, 0U);
  EXPECT_EQ(user.to_guest({33, 34}).uid, 33U);
  EXPECT_EQ(user.to_guest({0, 0}).uid, 0U);
  const Ownership root(0, 0);
  EXPECT_EQ(root.to_guest({1000, 100}).uid, 1000U);
}

TEST_F(FilesTest, set_id_bits_go_when_somebody_writes) {
  temp.write("f", "x");
  ASSERT_EQ(::chmod(temp.path("f").c_str(), 06755), 0);
  const uint64_t handle = opened("f");
  EXPECT_EQ(guest->write(handle, 0, "y", FUSE_WRITE_KILL_SUIDGID).error, 0);
  EXPECT_EQ(temp.stat("f").st_mode & 07777, 0755U);
}

TEST_F(FilesTest, user_attributes_only) {
  temp.write("f", "x");
  if (::setxattr(temp.path("f").c_str(), "user.probe", "v", 1, 0) != 0) {
    GTEST_SKIP() << "no user attributes in the temporary folder";
  }
  const uint64_t node = guest->lookup(kRoot, "f");
  const auto put = [&](const std::string& name, const std::string& value, uint32_t flags = 0) {
    const std::array<uint32_t, 2> in{static_cast<uint32_t>(value.size()), flags};
    return guest->call(FUSE_SETXATTR, node, Client::bytes(in) + Client::name(name) + value).error;
  };
  const auto get = [&](uint32_t opcode, const std::string& name, uint32_t size) {
    return guest->call(opcode, node,
                       Client::bytes(fuse_getxattr_in{.size = size, .padding = 0}) +
                           (name.empty() ? "" : Client::name(name)));
  };
  EXPECT_EQ(put("user.colour", "green"), 0);
  EXPECT_EQ(put("user.colour", "red", XATTR_CREATE), EEXIST);
  EXPECT_EQ(get(FUSE_GETXATTR, "user.colour", 100).body, "green");
  EXPECT_EQ(get(FUSE_GETXATTR, "user.colour", 0).as<fuse_getxattr_out>().size, 5U);
  EXPECT_EQ(get(FUSE_GETXATTR, "user.colour", 2).error, ERANGE);
  EXPECT_EQ(get(FUSE_GETXATTR, "user.none", 10).error, ENODATA);
  EXPECT_EQ(get(FUSE_LISTXATTR, "", 1000).body.size(), 23U);
  EXPECT_EQ(get(FUSE_LISTXATTR, "", 0).as<fuse_getxattr_out>().size, 23U);
  EXPECT_EQ(get(FUSE_LISTXATTR, "", 3).error, ERANGE);
  for (const char* name :
       {"security.capability", "trusted.overlay.opaque", "system.posix_acl_access", "user", ""}) {
    EXPECT_EQ(put(name, "value"), EOPNOTSUPP) << name;
  }
  EXPECT_EQ(get(FUSE_GETXATTR, "trusted.x", 10).error, EOPNOTSUPP);
  EXPECT_EQ(get(FUSE_GETXATTR, "security.capability", 100).error, ENODATA);
  EXPECT_EQ(guest->call(FUSE_REMOVEXATTR, node, Client::name("user.colour")).error, 0);
  EXPECT_EQ(guest->call(FUSE_REMOVEXATTR, node, Client::name("security.x")).error, EOPNOTSUPP);
  EXPECT_EQ(get(FUSE_GETXATTR, "user.colour", 10).error, ENODATA);
}

TEST_F(FilesTest, holes_ranges_and_copies) {
  const uint64_t handle = Client::handle_of(guest->create(kRoot, "f"));
  fuse_fallocate_in in{};
  in.fh = handle;
  in.length = 1 << 20;
  EXPECT_EQ(guest->call(FUSE_FALLOCATE, 1, Client::bytes(in)).error, 0);
  EXPECT_EQ(temp.stat("f").st_size, 1 << 20);
  in.mode = 0x80;
  EXPECT_EQ(guest->call(FUSE_FALLOCATE, 1, Client::bytes(in)).error, EOPNOTSUPP);
  guest->write(handle, 0, "start");
  const uint64_t other = Client::handle_of(guest->create(kRoot, "g"));
  fuse_copy_file_range_in copy{};
  copy.fh_in = handle;
  copy.fh_out = other;
  copy.len = 5;
  const auto copied = guest->call(FUSE_COPY_FILE_RANGE, 1, Client::bytes(copy));
  ASSERT_EQ(copied.error, 0);
  EXPECT_EQ(copied.as<fuse_write_out>().size, 5U);
  EXPECT_EQ(temp.read("g"), "start");
  fuse_lseek_in seek{};
  seek.fh = other;
  seek.whence = SEEK_HOLE;
  EXPECT_EQ(guest->call(FUSE_LSEEK, 1, Client::bytes(seek)).as<fuse_lseek_out>().offset, 5U);
  seek.whence = SEEK_SET;
  EXPECT_EQ(guest->call(FUSE_LSEEK, 1, Client::bytes(seek)).error, EINVAL);
  fuse_fsync_in sync{};
  sync.fh = handle;
  EXPECT_EQ(guest->call(FUSE_FSYNC, 1, Client::bytes(sync)).error, 0);
  sync.fh = 999;
  EXPECT_EQ(guest->call(FUSE_FSYNC, 1, Client::bytes(sync)).error, EBADF);
  EXPECT_EQ(guest->call(FUSE_SYNCFS, 1).error, 0);
  const auto info = guest->call(FUSE_STATFS, kRoot);
  EXPECT_GT(info.as<fuse_statfs_out>().st.blocks, 0U);
}

TEST_F(FilesTest, listings_are_complete_in_any_portions) {
  std::map<std::string, uint64_t> expected{{".", 0}, {"..", 0}};
  for (int i = 0; i < 300; ++i) {
    const std::string name = "file-with-a-name-" + std::to_string(i);
    temp.write(name, "x");
    expected[name] = 0;
  }
  EXPECT_EQ(guest->list(kRoot, false), expected);
  const auto nodes = guest->list(kRoot, true, 1024);
  EXPECT_EQ(nodes.size(), expected.size());
  for (const auto& [name, node] : nodes) {
    if (name == "." || name == "..") continue;
    EXPECT_EQ(guest->lookup(kRoot, name), node) << name;
  }
  // Each was told twice and is forgotten twice; then nothing is left.
  for (const auto& [name, node] : nodes) guest->forget(node, 2);
  EXPECT_EQ(server->folder().inodes().size(), 1U);
}

TEST_F(FilesTest, two_listings_at_once_do_not_mix) {
  for (int i = 0; i < 50; ++i) temp.write("n" + std::to_string(i), "");
  const auto open = [&] {
    return guest->call(FUSE_OPENDIR, kRoot, Client::bytes(fuse_open_in{})).as<fuse_open_out>().fh;
  };
  std::array<fuse_read_in, 2> in{};
  std::array<std::vector<std::string>, 2> names;
  for (auto& one : in) {
    one.fh = open();
    one.size = 200;
  }
  for (bool is_over = false; !is_over;) {
    is_over = true;
    for (size_t i = 0; i < 2; ++i) {
      const auto reply = guest->call(FUSE_READDIR, kRoot, Client::bytes(in[i]));
      for (size_t at = 0; at < reply.body.size();) {
        const auto item = reply.as<fuse_dirent>(at);
        names[i].push_back(reply.body.substr(at + FUSE_NAME_OFFSET, item.namelen));
        in[i].offset = item.off;
        at += FUSE_REC_ALIGN(FUSE_NAME_OFFSET + item.namelen);
        is_over = false;
      }
    }
  }
  EXPECT_EQ(names[0].size(), 52U);
  EXPECT_EQ(names[0], names[1]);
}

}  // namespace
}  // namespace trapeze

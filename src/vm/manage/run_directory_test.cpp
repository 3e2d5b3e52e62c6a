#include "vm/manage/run_directory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

namespace trapeze::manage {
namespace {

namespace fs = std::filesystem;

class RunDirectoryTest : public testing::Test {
 protected:
  RunDirectoryTest() {
    std::string pattern = testing::TempDir() + "trapeze-run-XXXXXX";
    base_ = ::mkdtemp(pattern.data());
  }
  ~RunDirectoryTest() override {
    std::error_code ignored;
    fs::remove_all(base_, ignored);
  }
  RunDirectory open() const {
    auto directory = RunDirectory::open_at(path());
    EXPECT_TRUE(directory) << directory.error().message;
    return std::move(*directory);
  }
  std::string path() const { return base_ + "/trapeze"; }
  // Runs `body` in a process that is then killed without a chance to clean up.
  template <typename Body>
  static void in_killed_process(Body&& body) {
    const pid_t child = ::fork();
    if (child == 0) {
      const auto entry = body();
      ::raise(SIGKILL);
    }
    ::waitpid(child, nullptr, 0);
  }

  std::string base_;
};

const VmInfo kInfo{.name = "a",
                   .pid = 42,
                   .accelerator = "soft",
                   .vcpus = 3,
                   .memory_bytes = 7,
                   .started_at = 1,
                   .command = {"sh", "-c", "a\n\"b\""},
                   .has_agent = true,
                   .is_detached = true};

TEST(VmInfo, survives_json) { EXPECT_EQ(parse_info(to_json(kInfo)), kInfo); }

TEST(VmInfo, bytes_that_are_no_text_do_no_harm) {
  VmInfo info = kInfo;
  info.command = {"\xff\xfe"};
  const auto parsed = parse_info(to_json(info));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->command.size(), 1U);
}

TEST(VmInfo, other_json_is_refused) {
  EXPECT_FALSE(parse_info(""));
  EXPECT_FALSE(parse_info("[]"));
  EXPECT_FALSE(parse_info("{\"name\": 3}"));
  std::string text = to_json(kInfo);
  text.replace(text.find("\"cpus\""), 6, "\"spuc\"");
  EXPECT_FALSE(parse_info(text));
}

TEST_F(RunDirectoryTest, new_folder_is_private) {
  const auto directory = open();
  struct stat info {};
  ASSERT_EQ(::stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700U);
  EXPECT_TRUE(directory.list()->empty());
}

TEST_F(RunDirectoryTest, claimed_name_is_found_and_free_again_afterwards) {
  const auto directory = open();
  {
    auto entry = directory.claim("a");
    ASSERT_TRUE(entry) << entry.error().message;
    EXPECT_FALSE(directory.find("a")->info) << "it is being built";
    ASSERT_TRUE(entry->publish(kInfo));
    const auto found = directory.find("a");
    ASSERT_TRUE(found);
    EXPECT_EQ(found->info, kInfo);
    EXPECT_FALSE(found->is_gone());
    EXPECT_EQ(directory.list()->size(), 1U);
    entry->remove();
    EXPECT_TRUE(found->is_gone());
  }
  EXPECT_FALSE(directory.find("a"));
  EXPECT_TRUE(fs::is_empty(path()));
}

TEST_F(RunDirectoryTest, taken_name_is_refused_with_its_owner) {
  const auto directory = open();
  auto entry = directory.claim("a");
  ASSERT_TRUE(entry && entry->publish(kInfo));
  const auto second = directory.claim("a");
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("process 42"), std::string::npos) << second.error().message;
  EXPECT_EQ(directory.find("a")->info, kInfo) << "nothing has changed";
}

TEST_F(RunDirectoryTest, entry_of_a_killed_process_is_removed_by_who_lists) {
  const auto directory = open();
  in_killed_process([&] {
    auto entry = directory.claim("a");
    (void)entry->publish(kInfo);
    return entry;
  });
  EXPECT_TRUE(fs::exists(path() + "/a/vm.json"));
  EXPECT_TRUE(directory.list()->empty());
  EXPECT_TRUE(fs::is_empty(path()));
}

TEST_F(RunDirectoryTest, entry_of_a_killed_process_is_taken_over_without_its_files) {
  const auto directory = open();
  in_killed_process([&] {
    auto entry = directory.claim("a");
    (void)entry->publish(kInfo);
    return entry;
  });
  const auto entry = directory.claim("a");
  ASSERT_TRUE(entry);
  EXPECT_FALSE(directory.find("a")->info);
}

TEST_F(RunDirectoryTest, one_of_many_gets_the_name_while_others_list) {
  const auto directory = open();
  std::atomic<int> winners{0};
  std::atomic<bool> is_over{false};
  std::thread lister([&] {
    while (!is_over) (void)directory.list();
  });
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    std::vector<std::optional<RunEntry>> entries(4);
    for (auto& slot : entries) {
      threads.emplace_back([&] {
        auto entry = directory.claim("a");
        if (!entry) return;
        ++winners;
        slot.emplace(std::move(*entry));
      });
    }
    for (auto& thread : threads) thread.join();
  }
  is_over = true;
  lister.join();
  EXPECT_EQ(winners, 20);
}

TEST_F(RunDirectoryTest, names_that_lead_elsewhere_are_refused) {
  const auto directory = open();
  for (const char* name : {"", ".", "..", "../a", "a/b", "-a", ".a", "a b", "a\n"}) {
    EXPECT_FALSE(directory.claim(name)) << name;
    EXPECT_FALSE(directory.find(name)) << name;
  }
  EXPECT_FALSE(directory.claim(std::string(65, 'a')));
  EXPECT_TRUE(directory.claim(std::string(64, 'a')));
}

TEST_F(RunDirectoryTest, folder_that_others_may_use_is_refused) {
  ASSERT_EQ(::mkdir(path().c_str(), 0700), 0);
  ASSERT_EQ(::chmod(path().c_str(), 0770), 0);
  const auto directory = RunDirectory::open_at(path());
  ASSERT_FALSE(directory);
  EXPECT_NE(directory.error().message.find("700"), std::string::npos);
}

TEST_F(RunDirectoryTest, symbolic_links_are_not_followed) {
  ASSERT_EQ(::mkdir((base_ + "/elsewhere").c_str(), 0700), 0);
  ASSERT_EQ(::symlink((base_ + "/elsewhere").c_str(), path().c_str()), 0);
  EXPECT_FALSE(RunDirectory::open_at(path()));
  ::unlink(path().c_str());
  const auto directory = open();
  ASSERT_EQ(::symlink((base_ + "/elsewhere").c_str(), (path() + "/a").c_str()), 0);
  EXPECT_FALSE(directory.claim("a"));
  EXPECT_FALSE(directory.find("a"));
  EXPECT_TRUE(fs::is_empty(base_ + "/elsewhere"));
  // A lock that is a link to a file of the user's.
  const std::string precious = base_ + "/precious";
  ASSERT_TRUE(Fd(::open(precious.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)).is_open());
  ASSERT_EQ(::mkdir((path() + "/b").c_str(), 0700), 0);
  ASSERT_EQ(::symlink(precious.c_str(), (path() + "/b/lock").c_str()), 0);
  EXPECT_FALSE(directory.claim("b"));
  EXPECT_TRUE(fs::exists(precious));
}

}  // namespace
}  // namespace trapeze::manage

// Works on the files of a folder and says how long it took: for bench/fs.py, in any Linux guest or
// on the host.
//
//   fs_load FOLDER FILES ROW...
//
// Rows: create, stat, unlink (FILES files in a new folder), tree (lstat of everything in
// FOLDER/tree), warm (the same again at once), read (FOLDER/data from start to end), write (as much
// as FOLDER/data has, and fsync). For each: "begin ROW", then "end ROW OPERATIONS NANOSECONDS"; an
// operation of read and write is 1 MiB. The kernel's caches are dropped before each row but warm.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace {

constexpr size_t kBlock = 1 << 20;

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

[[noreturn]] void die(const std::string& what) {
  std::perror(what.c_str());
  std::exit(1);
}

void drop_caches() {
  ::sync();
  const int fd = ::open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
  if (fd >= 0 && ::write(fd, "3", 1) != 1) die("drop_caches");
  if (fd >= 0) ::close(fd);
}

std::string file_name(const std::string& folder, unsigned index) {
  return folder + "/file" + std::to_string(index);
}

uint64_t create(const std::string& folder, unsigned files) {
  if (::mkdir(folder.c_str(), 0755) != 0) die(folder);
  for (unsigned i = 0; i < files; ++i) {
    const int fd = ::open(file_name(folder, i).c_str(), O_CREAT | O_EXCL | O_WRONLY, 0644);
    if (fd < 0) die("create");
    ::close(fd);
  }
  return files;
}

uint64_t stat_all(const std::string& folder, unsigned files) {
  struct stat info {};
  for (unsigned i = 0; i < files; ++i) {
    if (::lstat(file_name(folder, i).c_str(), &info) != 0) die("stat");
  }
  return files;
}

uint64_t unlink_all(const std::string& folder, unsigned files) {
  for (unsigned i = 0; i < files; ++i) {
    if (::unlink(file_name(folder, i).c_str()) != 0) die("unlink");
  }
  if (::rmdir(folder.c_str()) != 0) die(folder);
  return files;
}

// As git looks for changes: every folder is read, every file is looked at.
uint64_t walk(const std::string& folder) {
  uint64_t count = 0;
  DIR* dir = ::opendir(folder.c_str());
  if (dir == nullptr) die(folder);
  std::vector<std::string> folders;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat info {};
    const std::string path = folder + "/" + name;
    if (::lstat(path.c_str(), &info) != 0) die(path);
    if (S_ISDIR(info.st_mode)) folders.push_back(path);
    ++count;
  }
  ::closedir(dir);
  for (const auto& path : folders) count += walk(path);
  return count;
}

uint64_t read_data(const std::string& path) {
  std::vector<char> buffer(kBlock);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) die(path);
  uint64_t bytes = 0;
  for (ssize_t got = 1; got > 0; bytes += static_cast<uint64_t>(got)) {
    got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0) die(path);
  }
  ::close(fd);
  return bytes / kBlock;
}

uint64_t write_data(const std::string& model, const std::string& path) {
  struct stat info {};
  if (::stat(model.c_str(), &info) != 0) die(model);
  const std::vector<char> buffer(kBlock, 'w');
  const int fd = ::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) die(path);
  const auto blocks = static_cast<uint64_t>(info.st_size) / kBlock;
  for (uint64_t i = 0; i < blocks; ++i) {
    if (::write(fd, buffer.data(), buffer.size()) != static_cast<ssize_t>(kBlock)) die(path);
  }
  if (::fsync(fd) != 0) die(path);
  ::close(fd);
  ::unlink(path.c_str());
  return blocks;
}

uint64_t run(const std::string& row, const std::string& folder, unsigned files) {
  const std::string many = folder + "/many";
  if (row == "create") return create(many, files);
  if (row == "stat") return stat_all(many, files);
  if (row == "unlink") return unlink_all(many, files);
  if (row == "tree" || row == "warm") return walk(folder + "/tree");
  if (row == "read") return read_data(folder + "/data");
  if (row == "write") return write_data(folder + "/data", folder + "/written");
  std::fprintf(stderr, "fs_load: no row %s\n", row.c_str());
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const auto files = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10));
  for (int i = 3; i < argc; ++i) {
    const std::string row = argv[i];
    if (row != "warm") drop_caches();
    std::printf("begin %s\n", row.c_str());
    std::fflush(stdout);
    const uint64_t start = now_ns();
    const uint64_t operations = run(row, argv[1], files);
    const uint64_t took = now_ns() - start;
    std::printf("end %s %llu %llu\n", row.c_str(), static_cast<unsigned long long>(operations),
                static_cast<unsigned long long>(took));
    std::fflush(stdout);
  }
}

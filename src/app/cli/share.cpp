#include "app/cli/share.h"

#include <sys/stat.h>

#include <string_view>

namespace trapeze::cli {
namespace {

constexpr const char* kRootTag = "rootfs";

bool is_folder(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// Cuts ":ro" or ":rw" (or with a comma) off; the word, or nothing.
std::string cut_access(std::string& text, std::string_view separators) {
  if (text.size() < 3 || separators.find(text[text.size() - 3]) == std::string_view::npos)
    return {};
  const std::string word = text.substr(text.size() - 2);
  if (word != "ro" && word != "rw") return {};
  text.resize(text.size() - 3);
  return word;
}

Result<void> check_guest_path(const std::string& text, const std::string& path) {
  if (path == "/") return fail("--share {}: GUEST is /; for a root write --rootfs HOST", text);
  size_t begin = 1;
  while (begin <= path.size()) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = std::string_view(path).substr(begin, end - begin);
    if (part == "." || part == "..") return fail("--share {}: GUEST must have no {}", text, part);
    begin = end + 1;
  }
  return {};
}

}  // namespace

Result<ShareConfig> parse_share_option(const std::string& text, size_t index) {
  ShareConfig share;
  share.option = "--share";
  share.tag = fmt::format("share{}", index);
  std::string paths = text;
  share.is_read_only = cut_access(paths, ":") == "ro";
  // GUEST is absolute, so a colon in HOST does no harm.
  const size_t colon = paths.rfind(":/");
  if (colon == std::string::npos || colon == 0) {
    return fail("--share {}: must be HOST:GUEST or HOST:GUEST:ro, and GUEST an absolute path",
                text);
  }
  share.host_path = paths.substr(0, colon);
  share.guest_path = paths.substr(colon + 1);
  while (share.guest_path.size() > 1 && share.guest_path.back() == '/') share.guest_path.pop_back();
  TRY(check_guest_path(text, share.guest_path));
  return share;
}

Result<std::optional<RootFolder>> parse_root_folder(const std::string& text) {
  RootFolder root;
  root.share.host_path = text;
  std::string access;
  if (!is_folder(root.share.host_path)) {
    access = cut_access(root.share.host_path, ",:");
    if (access.empty() || !is_folder(root.share.host_path)) return std::optional<RootFolder>();
  }
  root.share.option = "--rootfs";
  root.share.tag = kRootTag;
  root.share.is_read_only = access != "rw";
  root.share.is_static = root.share.is_read_only;
  root.mode = access.empty() ? "layer" : access;
  return std::optional(std::move(root));
}

}  // namespace trapeze::cli

// What a snapshot keeps of a shared folder: what the guest's kernel remembers of it. The files
// themselves stay on the host.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/fs/host_files.h"

namespace trapeze {

struct FolderState {
  struct Node {
    uint64_t node = 0;
    uint64_t parent = 0;
    std::string name;
    FileId id;
    uint32_t type = 0;
    uint64_t lookups = 0;
    bool operator==(const Node&) const = default;
  };
  struct OpenHandle {
    uint64_t handle = 0;
    uint64_t node = 0;
    uint32_t flags = 0;
    bool is_folder = false;
    bool operator==(const OpenHandle&) const = default;
  };
  std::vector<Node> nodes;  // a folder before what is in it; without the root
  std::vector<OpenHandle> handles;
  uint64_t next_handle = 1;
  bool operator==(const FolderState&) const = default;
};

struct FsSessionState {
  bool is_started = false;  // FUSE_INIT was answered
  FolderState folder;
  bool operator==(const FsSessionState&) const = default;
};

}  // namespace trapeze

// Native: runs cases on the host CPU, in a child process.
//
// The child is driven from its signal handler alone: a case ends in an exception, the handler takes
// the registers out of the signal frame, puts those of the next case there and returns; so the
// kernel loads the whole state, and no code of ours runs between it and the case.
#pragma once

#include <sys/types.h>

#include <memory>
#include <span>

#include "diff/case.h"

namespace trapeze::diff {

class Native {
 public:
  static constexpr size_t kBatch = 128;
  struct Shared;  // what parent and child both see

  explicit Native(const Backgrounds& backgrounds);
  ~Native();
  Native(const Native&) = delete;
  Native& operator=(const Native&) = delete;

  // At most kBatch cases. Between start() and finish() the caller may do other work. Outcomes of
  // cases that the child did not survive have kNoVector; the child is started anew for the rest.
  void start(std::span<const Case> cases);
  std::span<const Outcome> finish();

 private:
  void spawn();
  void reap();

  Shared* shared_ = nullptr;
  int arena_ = -1;  // memfd with the pages that cases see
  int to_child_ = -1, from_child_ = -1;
  pid_t child_ = -1;
};

}  // namespace trapeze::diff

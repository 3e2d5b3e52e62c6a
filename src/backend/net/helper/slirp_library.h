// libslirp, loaded when a user network is wanted: `trapeze` starts without it (and without the
// libraries that it needs) in every other case, and runs on machines that do not have it.
#pragma once

#include <slirp/libslirp.h>

#include "base/result.h"

namespace trapeze {

struct SlirpLibrary {
  decltype(&::slirp_new) create = nullptr;
  decltype(&::slirp_cleanup) destroy = nullptr;
  decltype(&::slirp_pollfds_fill) fill_poll = nullptr;
  decltype(&::slirp_pollfds_poll) handle_poll = nullptr;
  decltype(&::slirp_input) input = nullptr;
  decltype(&::slirp_add_hostfwd) add_forward = nullptr;
  decltype(&::slirp_handle_timer) handle_timer = nullptr;

  static Result<SlirpLibrary> load();
};

}  // namespace trapeze

#include "backend/net/helper/slirp_library.h"

#include <dlfcn.h>

namespace trapeze {
namespace {

constexpr const char* kLibrary = "libslirp.so.0";

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

// What a guest sends may make GLib, which libslirp uses, say something each time.
void silence_glib(void* library) {
  using LogFunction = void (*)(const char*, int, const char*, void*);
  using SetDefault = LogFunction (*)(LogFunction, void*);
  SetDefault set_default = nullptr;
  if (find(library, "g_log_set_default_handler", set_default)) {
    set_default([](const char*, int, const char*, void*) {}, nullptr);
  }
}

}  // namespace

Result<SlirpLibrary> SlirpLibrary::load() {
  void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);  // never closed
  if (library == nullptr) {
    return fail("{} cannot be loaded (on Debian and Ubuntu: apt install libslirp0): {}", kLibrary,
                ::dlerror());
  }
  SlirpLibrary slirp;
  const bool is_complete = find(library, "slirp_new", slirp.create) &&
                           find(library, "slirp_cleanup", slirp.destroy) &&
                           find(library, "slirp_pollfds_fill", slirp.fill_poll) &&
                           find(library, "slirp_pollfds_poll", slirp.handle_poll) &&
                           find(library, "slirp_input", slirp.input) &&
                           find(library, "slirp_add_hostfwd", slirp.add_forward) &&
                           find(library, "slirp_handle_timer", slirp.handle_timer);
  if (!is_complete) return fail("{} is too old; 4.7 or newer is needed", kLibrary);
  silence_glib(library);
  return slirp;
}

}  // namespace trapeze

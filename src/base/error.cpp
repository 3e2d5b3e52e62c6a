#include "base/error.h"

#include <system_error>

namespace trapeze {

std::string errno_text(int os_error) { return std::generic_category().message(os_error); }

}  // namespace trapeze

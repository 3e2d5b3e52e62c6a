# The libraries of the distribution. With TRAPEZE_STATIC what it has as archives becomes part of our
# programs, the C++ runtime too: a third of the time that a process of ours needs to start is the
# dynamic linker's otherwise. The C library stays shared, for dlopen() of libslirp.
if(TRAPEZE_STATIC)
  list(PREPEND CMAKE_FIND_LIBRARY_SUFFIXES .a)
endif()
foreach(name IN ITEMS z lzma zstd lz4 seccomp uring Zydis Zycore)
  string(TOUPPER TRAPEZE_${name}_LIBRARY variable)
  find_library(${variable} ${name} REQUIRED)
endforeach()

find_package(fmt REQUIRED)
get_target_property(fmt_type fmt::fmt TYPE)
if(TRAPEZE_STATIC AND fmt_type STREQUAL "SHARED_LIBRARY" AND fmt_VERSION VERSION_LESS 10)
  add_library(trapeze_fmt STATIC cmake/fmt.cpp)
  get_target_property(fmt_includes fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
  target_include_directories(trapeze_fmt SYSTEM PUBLIC ${fmt_includes})
  set(fmt_type STATIC_LIBRARY)
else()
  add_library(trapeze_fmt INTERFACE)
  target_link_libraries(trapeze_fmt INTERFACE fmt::fmt)
endif()

# A shared libfmt brings the shared C++ runtime, and two of them in one process would not do.
set(TRAPEZE_RUNTIME_OPTIONS "")
if(TRAPEZE_STATIC AND fmt_type STREQUAL "STATIC_LIBRARY")
  set(TRAPEZE_RUNTIME_OPTIONS -static-libstdc++ -static-libgcc)
endif()

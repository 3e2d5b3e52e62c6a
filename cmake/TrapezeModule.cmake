# trapeze_module(NAME DEPS target... [NO_LIBRARY])
#
# Makes the folder it is called in a library trapeze_NAME from all *.cpp that are not tests, a test
# program NAME_test from all *_test.cpp (each GoogleTest case is one CTest case), and, with
# TRAPEZE_FUZZ, one libFuzzer program for each *_fuzz.cpp. Short names in DEPS (base, memory, ...)
# stand for trapeze_<name>; names with "::" or "/" are used as they are.
include(GoogleTest)

set(TRAPEZE_ASAN_LEAKS "detect_leaks=1")

function(trapeze_module NAME)
  cmake_parse_arguments(ARG "" "" "DEPS;TEST_DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  set(tests ${sources})
  set(fuzzers ${sources})
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz)\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cpp$")

  set(libraries "")
  foreach(dep IN LISTS ARG_DEPS)
    if(dep MATCHES "::|/|^-")
      list(APPEND libraries ${dep})
    else()
      list(APPEND libraries trapeze_${dep})
    endif()
  endforeach()

  if(sources)
    add_library(trapeze_${NAME} STATIC ${sources})
    set(scope PUBLIC)
  else()
    add_library(trapeze_${NAME} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_link_libraries(trapeze_${NAME} ${scope} trapeze_options ${libraries})
  if(sources AND TRAPEZE_PCH)
    target_precompile_headers(trapeze_${NAME} REUSE_FROM trapeze_pch)
  endif()

  if(tests AND TRAPEZE_TESTS)
    add_executable(${NAME}_test ${tests})
    target_link_libraries(${NAME}_test PRIVATE trapeze_${NAME} ${ARG_TEST_DEPS} GTest::gtest_main)
    # They compile in two thirds of the time so, and spend theirs in what they test.
    target_compile_options(${NAME}_test PRIVATE $<$<CONFIG:Release>:-O0>)
    if(TRAPEZE_PCH)
      target_precompile_headers(${NAME}_test REUSE_FROM trapeze_test_pch)
    endif()
    gtest_discover_tests(${NAME}_test TEST_PREFIX "${NAME}." DISCOVERY_TIMEOUT 60
      PROPERTIES TIMEOUT 300)
  endif()

  if(TRAPEZE_FUZZ)
    foreach(source IN LISTS fuzzers)
      get_filename_component(fuzzer ${source} NAME_WE)
      add_executable(${NAME}_${fuzzer} ${source})
      target_link_libraries(${NAME}_${fuzzer} PRIVATE trapeze_${NAME} ${ARG_TEST_DEPS})
      target_link_options(${NAME}_${fuzzer} PRIVATE -fsanitize=fuzzer)
      add_dependencies(fuzzers ${NAME}_${fuzzer})
      # A short run proves that the fuzzer works and finds nothing at once; `make fuzz` runs longer.
      add_test(NAME fuzz.${NAME}_${fuzzer}
        COMMAND ${NAME}_${fuzzer} -max_total_time=${TRAPEZE_FUZZ_SECONDS} -rss_limit_mb=2048
                -timeout=10 -verbosity=0 -print_final_stats=1)
      set_tests_properties(fuzz.${NAME}_${fuzzer} PROPERTIES LABELS fuzz TIMEOUT 7200)
    endforeach()
  endif()
endfunction()

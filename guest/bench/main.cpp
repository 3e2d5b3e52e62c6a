// The benchmark's guest program.
//
//   bench                  all rows, measured by its own CPU clock: name, ns per operation,
//                          operations, checksum
//   bench ROW [UNITS]      one of them; UNITS of work instead of 0.3 s (for profilers)
//   bench list             the names
//   bench check            every row does what it should, quickly
//   bench exit             nothing: what the exec row executes
//   bench serve            takes orders from stdin, one a line, and answers each with a line:
//                            prepare ROW   ready ROW
//                            run UNITS     done ROW OPERATIONS CHECKSUM CPU_US
//                            finish        finished ROW
//                          or "failed WHY". It waits before and after each, so that the other side
//                          can read the CPU clock of a machine that is at rest.
#include <initializer_list>

#include "bench/row.h"
#include "bench/sha256.h"
#include "bench/sys.h"
#include "bench/text.h"

namespace bench {
namespace {

constexpr uint64_t kEnoughUs = 300'000;
constexpr uint64_t kMaxUnits = uint64_t{1} << 40;

template <typename Function>
void for_each_row(Function&& function) {
  for (const Rows rows : {compute_rows(), memory_rows(), vector_rows(), library_rows(),
                          kernel_rows(), thread_rows()}) {
    for (size_t i = 0; i < rows.count; ++i) function(rows.first[i]);
  }
}

const Row* find_row(const char* name) {
  const Row* found = nullptr;
  for_each_row([&](const Row& row) {
    if (equal(row.name, name)) found = &row;
  });
  return found;
}

int fail(const char* what, const char* why) {
  Line().word("failed").word(what).word(why).send();
  return 1;
}

// Twice the units until it takes long enough; `units` other than 0 are done once.
int measure(const Row& row, uint64_t units) {
  stay_on_one_cpu();
  if (!row.prepare()) return fail(row.name, "prepare");
  const bool is_fixed = units != 0;
  uint64_t used_us = 0;
  uint64_t checksum = kFailed;
  for (units = is_fixed ? units : 1; units <= kMaxUnits; units *= 2) {
    const uint64_t before_us = cpu_time_us();
    checksum = row.run(units);
    used_us = cpu_time_us() - before_us;
    if (checksum == kFailed || is_fixed || used_us >= kEnoughUs) break;
  }
  row.finish();
  if (checksum == kFailed) return fail(row.name, "run");
  const uint64_t operations = units * row.operations;
  Line line;
  line.word(row.name).hundredths(used_us * 100'000 / operations).number(operations);
  line.number(checksum, 16).send();
  return 0;
}

// --- check ---

// FIPS 180-4's example "abc".
bool hashes_right() {
  const Digest digest = sha256(reinterpret_cast<const unsigned char*>("abc"), 3);
  return digest.words[0] == 0xba7816bf && digest.words[1] == 0x8f01cfea &&
         digest.words[7] == 0xf20015ad;
}

int check() {
  int status = hashes_right() ? 0 : fail("sha256", "of abc");
  for_each_row([&](const Row& row) {
    stay_on_one_cpu();
    const bool is_ready = row.prepare();
    const uint64_t one = is_ready ? row.run(1) : kFailed;
    const uint64_t three = is_ready ? row.run(3) : kFailed;
    row.finish();
    if (one == kFailed || three != one) {
      status = fail(row.name, "check");
    } else {
      Line().word(row.name).number(one, 16).send();
    }
  });
  return status;
}

// --- serve ---

// False at the end of input and when a line is too long to be an order.
bool read_line(char (&line)[64]) {
  for (size_t at = 0; at < sizeof(line); ++at) {
    if (read_some(0, line + at, 1) != 1) return false;
    if (line[at] == '\n') {
      line[at] = '\0';
      return true;
    }
  }
  return false;
}

// What stands after `order` and a space, or null.
const char* argument_of(const char* line, const char* order) {
  const size_t bytes = length(order);
  for (size_t i = 0; i < bytes; ++i) {
    if (line[i] != order[i]) return nullptr;
  }
  return line[bytes] == ' ' ? line + bytes + 1 : nullptr;
}

const Row* prepare(const char* name) {
  const Row* row = find_row(name);
  if (row == nullptr || !row->prepare()) {
    fail(name, "prepare");
    return nullptr;
  }
  stay_on_one_cpu();
  Line().word("ready").word(name).send();
  return row;
}

void run(const Row& row, uint64_t units) {
  if (units == 0 || units > kMaxUnits) {
    fail(row.name, "units");
    return;
  }
  const uint64_t before_us = cpu_time_us();
  const uint64_t checksum = row.run(units);
  const uint64_t used_us = cpu_time_us() - before_us;
  if (checksum == kFailed) {
    fail(row.name, "run");
    return;
  }
  Line line;
  line.word("done").word(row.name).number(units * row.operations).number(checksum, 16);
  line.number(used_us).send();
}

int serve() {
  Line().word("serving").send();
  const Row* row = nullptr;
  char line[64];
  while (read_line(line)) {
    const char* name = argument_of(line, "prepare");
    const char* units = argument_of(line, "run");
    if (row == nullptr && name != nullptr) {
      row = prepare(name);
    } else if (row != nullptr && units != nullptr) {
      run(*row, parse_number(units));
    } else if (row != nullptr && equal(line, "finish")) {
      row->finish();
      Line().word("finished").word(row->name).send();
      row = nullptr;
    } else if (equal(line, "quit")) {
      return 0;
    } else {
      fail("order", line);
    }
  }
  return 0;
}

int run_all() {
  int status = 0;
  for_each_row([&](const Row& row) { status |= measure(row, 0); });
  return status;
}

int list() {
  for_each_row([](const Row& row) { Line().word(row.name).send(); });
  return 0;
}

}  // namespace
}  // namespace bench

int bench_main(int argc, char** argv) {
  using namespace bench;
  if (argc < 2) return run_all();
  if (equal(argv[1], "exit")) return 0;
  if (equal(argv[1], "serve")) return serve();
  if (equal(argv[1], "check")) return check();
  if (equal(argv[1], "list")) return list();
  const Row* row = find_row(argv[1]);
  if (row == nullptr) return fail(argv[1], "no such row");
  return measure(*row, argc > 2 ? parse_number(argv[2]) : 0);
}

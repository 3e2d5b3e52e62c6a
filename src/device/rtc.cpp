#include "device/rtc.h"

#include <algorithm>
#include <chrono>

#include "base/units.h"

namespace trapeze {
namespace {

// Registers (MC146818 data sheet), and CMOS bytes as PC firmware lays them out.
enum : uint8_t {
  kSeconds = 0x00,
  kSecondsAlarm = 0x01,
  kMinutes = 0x02,
  kMinutesAlarm = 0x03,
  kHours = 0x04,
  kHoursAlarm = 0x05,
  kWeekday = 0x06,
  kDay = 0x07,
  kMonth = 0x08,
  kYear = 0x09,
  kRegA = 0x0a,
  kRegB = 0x0b,
  kRegC = 0x0c,
  kRegD = 0x0d,
  kCentury = 0x32,
};

constexpr uint8_t kAUpdateInProgress = 1U << 7;
constexpr uint8_t kADividerMask = 0x70;
constexpr uint8_t kADividerRunning = 0x20;
constexpr uint8_t kARateMask = 0x0f;

constexpr uint8_t kBSet = 1U << 7;
constexpr uint8_t kBHours24 = 1U << 1;
constexpr uint8_t kBBinary = 1U << 2;

// The same places in B (enable) and in C (flag).
constexpr uint8_t kPeriodic = 1U << 6;
constexpr uint8_t kAlarm = 1U << 5;
constexpr uint8_t kUpdate = 1U << 4;
constexpr uint8_t kEvents = kPeriodic | kAlarm | kUpdate;
constexpr uint8_t kCInterrupt = 1U << 7;

constexpr uint8_t kDValid = 1U << 7;
constexpr uint8_t kHourPm = 1U << 7;
constexpr uint8_t kAlarmAny = 0xc0;  // both top bits: matches every value

constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kSecondsPerDay = 86'400;
// UIP rises this long before the registers change.
constexpr int64_t kUpdateWarningNs = 244'000;
constexpr uint64_t kOscillatorHz = 32'768;
// The guest may set its clock from 1970 to 2160; so sums of int64_t nanoseconds never overflow.
constexpr int64_t kLastSecond = 6'000'000'000;

int64_t floor_div(int64_t value, int64_t divisor) {
  const int64_t quotient = value / divisor;
  return value % divisor < 0 ? quotient - 1 : quotient;
}

bool is_time_register(uint8_t index) {
  return index == kSeconds || index == kMinutes || index == kHours ||
         (index >= kWeekday && index <= kYear) || index == kCentury;
}

// No register of the clock: bytes that only keep what was written.
bool is_memory(uint8_t index) { return index > kRegD && index != kCentury; }

}  // namespace

Rtc::Rtc(const RtcConfig& config, const Clock& clock, IrqLine irq, TimerHost& timers)
    : clock_(clock), irq_(irq), timers_(timers) {
  state_.cmos[kRegA] = kADividerRunning | 6;  // 1024 Hz
  state_.cmos[kRegB] = kBHours24;
  fill_memory_size(config);
  restart_events();
}

// What a PC BIOS leaves for boot code: sizes in KiB below 64 MiB, in 64 KiB units above.
void Rtc::fill_memory_size(const RtcConfig& config) {
  const auto put = [this](uint8_t index, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) {
      state_.cmos[index + i] = static_cast<uint8_t>(value >> (8 * i));
    }
  };
  constexpr uint64_t kLowRamEnd = 3 * GiB;
  const uint64_t low = std::min(config.ram_size_bytes, kLowRamEnd);
  const uint64_t extended_kib = low > MiB ? std::min((low - MiB) / KiB, uint64_t{0xffff}) : 0;
  const uint64_t above_16m = low > 16 * MiB ? (low - 16 * MiB) / (64 * KiB) : 0;
  put(0x15, 640, 2);
  put(0x17, extended_kib, 2);
  put(0x30, extended_kib, 2);
  put(0x34, std::min(above_16m, uint64_t{0xffff}), 2);
  put(0x5b, (config.ram_size_bytes - low) / (64 * KiB), 3);
  put(0x5f, config.vcpus - 1, 1);
}

uint8_t Rtc::read_byte(uint64_t offset) {
  const std::lock_guard lock(mutex_);
  if (offset == 0) return static_cast<uint8_t>(state_.index | (state_.nmi_masked ? 0x80 : 0));
  return read_cmos();
}

void Rtc::write_byte(uint64_t offset, uint8_t value) {
  const std::lock_guard lock(mutex_);
  if (offset == 0) {
    state_.index = value & 0x7f;
    state_.nmi_masked = (value & 0x80) != 0;
    return;
  }
  write_cmos(value);
}

uint8_t Rtc::read_cmos() {
  const uint8_t index = state_.index;
  if (is_time_register(index)) {
    if (!is_stopped()) registers_from_time();
    return state_.cmos[index];
  }
  switch (index) {
    case kRegA: {
      const int64_t in_second = guest_ns() - floor_div(guest_ns(), kNsPerSecond) * kNsPerSecond;
      const bool soon = !is_stopped() && in_second >= kNsPerSecond - kUpdateWarningNs;
      return static_cast<uint8_t>(state_.cmos[kRegA] | (soon ? kAUpdateInProgress : 0));
    }
    case kRegC: {
      advance();
      const uint8_t flags = state_.cmos[kRegC];
      state_.cmos[kRegC] = 0;
      update_irq();
      return flags;
    }
    case kRegD:
      return kDValid;
    default:
      return state_.cmos[index];
  }
}

void Rtc::write_cmos(uint8_t value) {
  const uint8_t index = state_.index;
  if (index == kRegC || index == kRegD) return;  // read-only
  if (is_memory(index)) {
    state_.cmos[index] = value;
    return;
  }
  advance();  // what was due under the old settings
  if (is_time_register(index)) {
    if (!is_stopped()) registers_from_time();
    state_.cmos[index] = value;
    if (!is_stopped()) time_from_registers();
  } else if (index == kRegA) {
    // A divider in reset holds the time as SET does.
    if (!is_stopped()) registers_from_time();
    const bool was_stopped = is_stopped();
    state_.cmos[kRegA] = static_cast<uint8_t>(value & ~kAUpdateInProgress);
    if (was_stopped && !is_stopped()) time_from_registers();
    restart_events();
  } else if (index == kRegB) {
    if (!is_stopped()) registers_from_time();
    const bool was_stopped = is_stopped();
    // Setting SET clears the update interrupt enable (data sheet, "SET").
    if ((value & kBSet) != 0) value = static_cast<uint8_t>(value & ~kUpdate);
    state_.cmos[kRegB] = value;
    if (was_stopped && !is_stopped()) time_from_registers();
  } else {
    state_.cmos[index] = value;  // of the alarm
  }
  update_irq();
}

bool Rtc::is_stopped() const {
  return (state_.cmos[kRegB] & kBSet) != 0 ||
         (state_.cmos[kRegA] & kADividerMask) != kADividerRunning;
}

int64_t Rtc::guest_ns() const {
  return static_cast<int64_t>(clock_.realtime_ns()) + state_.offset_ns;
}

uint8_t Rtc::encode(unsigned value) const {
  if ((state_.cmos[kRegB] & kBBinary) != 0) return static_cast<uint8_t>(value);
  return static_cast<uint8_t>((value / 10 % 10) << 4 | value % 10);
}

unsigned Rtc::decode(uint8_t value) const {
  if ((state_.cmos[kRegB] & kBBinary) != 0) return value;
  return (value >> 4) * 10U + (value & 0xfU);
}

uint8_t Rtc::encode_hour(unsigned hour) const {
  if ((state_.cmos[kRegB] & kBHours24) != 0) return encode(hour);
  const unsigned hour12 = hour % 12 == 0 ? 12 : hour % 12;
  return static_cast<uint8_t>(encode(hour12) | (hour >= 12 ? kHourPm : 0));
}

unsigned Rtc::decode_hour(uint8_t value) const {
  if ((state_.cmos[kRegB] & kBHours24) != 0) return decode(value);
  const unsigned hour12 = decode(value & 0x7f) % 12;
  return hour12 + ((value & kHourPm) != 0 ? 12 : 0);
}

void Rtc::registers_from_time() {
  namespace chrono = std::chrono;
  const int64_t second = floor_div(guest_ns(), kNsPerSecond);
  const int64_t day = floor_div(second, kSecondsPerDay);
  const auto in_day = static_cast<unsigned>(second - day * kSecondsPerDay);
  const chrono::sys_days date{chrono::days{day}};
  const chrono::year_month_day civil{date};
  const auto year = static_cast<unsigned>(std::max(0, int{civil.year()}));
  auto& cmos = state_.cmos;
  cmos[kSeconds] = encode(in_day % 60);
  cmos[kMinutes] = encode(in_day / 60 % 60);
  cmos[kHours] = encode_hour(in_day / 3600);
  cmos[kWeekday] = encode(chrono::weekday{date}.c_encoding() + 1);
  cmos[kDay] = encode(unsigned{civil.day()});
  cmos[kMonth] = encode(unsigned{civil.month()});
  cmos[kYear] = encode(year % 100);
  cmos[kCentury] = encode(year / 100);
}

// Any bytes may stand there: values out of range carry over into the next unit.
void Rtc::time_from_registers() {
  namespace chrono = std::chrono;
  const auto& cmos = state_.cmos;
  const unsigned year = decode(cmos[kCentury]) * 100 + decode(cmos[kYear]);
  const unsigned month = std::clamp(decode(cmos[kMonth]), 1U, 12U);
  const chrono::year_month_day first{chrono::year{static_cast<int>(std::min(year, 9999U))},
                                     chrono::month{month}, chrono::day{1}};
  const int64_t day =
      chrono::sys_days{first}.time_since_epoch().count() + int64_t{decode(cmos[kDay])} - 1;
  const int64_t second = day * kSecondsPerDay + int64_t{decode_hour(cmos[kHours])} * 3600 +
                         int64_t{decode(cmos[kMinutes])} * 60 + int64_t{decode(cmos[kSeconds])};
  const int64_t wanted_ns = std::clamp(second, int64_t{0}, kLastSecond) * kNsPerSecond;
  state_.offset_ns = wanted_ns - static_cast<int64_t>(clock_.realtime_ns());
  seen_second_ = floor_div(guest_ns(), kNsPerSecond);
}

// The first second after `second` that the alarm registers match, if there is one. Skips whole
// hours and minutes, so it ends after fewer than 200 steps.
std::optional<int64_t> Rtc::next_alarm_after(int64_t second) const {
  const auto& cmos = state_.cmos;
  const auto matches = [&](uint8_t index, unsigned value) {
    if ((cmos[index] & kAlarmAny) == kAlarmAny) return true;
    return (index == kHoursAlarm ? decode_hour(cmos[index]) : decode(cmos[index])) == value;
  };
  const int64_t last = second + kSecondsPerDay;
  for (int64_t at = second + 1; at <= last;) {
    const int64_t in_day = at - floor_div(at, kSecondsPerDay) * kSecondsPerDay;
    if (!matches(kHoursAlarm, static_cast<unsigned>(in_day / 3600))) {
      at += 3600 - in_day % 3600;
    } else if (!matches(kMinutesAlarm, static_cast<unsigned>(in_day / 60 % 60))) {
      at += 60 - in_day % 60;
    } else if (!matches(kSecondsAlarm, static_cast<unsigned>(in_day % 60))) {
      ++at;
    } else {
      return at;
    }
  }
  return std::nullopt;
}

// The periodic tap divides the oscillator by 2^shift; rate 0 is off, 1 and 2 repeat 8 and 9.
unsigned Rtc::periodic_shift() const {
  const unsigned rate = state_.cmos[kRegA] & kARateMask;
  return rate <= 2 ? rate + 6 : rate - 1;
}

uint64_t Rtc::periodic_ticks(uint64_t monotonic_ns) const {
  const auto pulses = static_cast<unsigned __int128>(monotonic_ns) * kOscillatorHz / 1'000'000'000U;
  return static_cast<uint64_t>(pulses >> periodic_shift());
}

// Sets the flags of everything that has happened since the last call.
void Rtc::advance() {
  uint8_t& flags = state_.cmos[kRegC];
  const uint64_t ticks = periodic_ticks(clock_.monotonic_ns());
  if ((state_.cmos[kRegA] & kARateMask) != 0 && ticks != seen_ticks_) flags |= kPeriodic;
  seen_ticks_ = ticks;
  if (is_stopped()) return;
  const int64_t second = floor_div(guest_ns(), kNsPerSecond);
  if (second > seen_second_) {
    flags |= kUpdate;
    const auto alarm = next_alarm_after(seen_second_);
    if (alarm && *alarm <= second) flags |= kAlarm;
  }
  seen_second_ = second;  // also when the host's clock was set back
}

void Rtc::restart_events() {
  seen_ticks_ = periodic_ticks(clock_.monotonic_ns());
  seen_second_ = floor_div(guest_ns(), kNsPerSecond);
}

void Rtc::update_irq() {
  uint8_t& flags = state_.cmos[kRegC];
  const bool asserted = (flags & state_.cmos[kRegB] & kEvents) != 0;
  flags = static_cast<uint8_t>((flags & kEvents) | (asserted ? kCInterrupt : 0));
  if (asserted != irq_level_) irq_.set(asserted);
  irq_level_ = asserted;
  const auto deadline = compute_deadline();
  if (deadline == deadline_ns_) return;
  deadline_ns_ = deadline;
  timers_.deadline_changed();
}

// Of the enabled events that have not happened yet. One that has waits for the guest to read C, so
// a guest that does not cannot keep the timer thread busy.
std::optional<uint64_t> Rtc::compute_deadline() const {
  const auto wanted = static_cast<uint8_t>(state_.cmos[kRegB] & ~state_.cmos[kRegC] & kEvents);
  const uint64_t now_ns = clock_.monotonic_ns();
  std::optional<uint64_t> earliest;
  const auto consider = [&earliest](uint64_t at_ns) {
    earliest = std::min(earliest.value_or(at_ns), at_ns);
  };
  if ((wanted & kPeriodic) != 0 && (state_.cmos[kRegA] & kARateMask) != 0) {
    const auto pulses = static_cast<unsigned __int128>(seen_ticks_ + 1) << periodic_shift();
    consider(static_cast<uint64_t>(pulses * 1'000'000'000U / kOscillatorHz) + 1);
  }
  if (is_stopped()) return earliest;
  const auto consider_second = [&](int64_t second) {
    const int64_t wait_ns = second * kNsPerSecond - guest_ns();
    consider(now_ns + static_cast<uint64_t>(std::max<int64_t>(wait_ns, 0)));
  };
  if ((wanted & kUpdate) != 0) consider_second(seen_second_ + 1);
  if ((wanted & kAlarm) != 0) {
    if (const auto alarm = next_alarm_after(seen_second_)) consider_second(*alarm);
  }
  return earliest;
}

std::optional<uint64_t> Rtc::next_deadline_ns() const {
  const std::lock_guard lock(mutex_);
  return deadline_ns_;
}

void Rtc::run_timers() {
  const std::lock_guard lock(mutex_);
  advance();
  update_irq();
}

RtcState Rtc::save() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Rtc::restore(const RtcState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  state_.index &= 0x7f;
  constexpr int64_t kLimitNs = kLastSecond * kNsPerSecond;
  state_.offset_ns = std::clamp(state_.offset_ns, -kLimitNs, kLimitNs);
  restart_events();
  irq_level_ = false;
  irq_.set(false);
  update_irq();
}

}  // namespace trapeze

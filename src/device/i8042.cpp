#include "device/i8042.h"

namespace trapeze {
namespace {

constexpr uint8_t kStatusOutputFull = 1U << 0;
constexpr uint8_t kStatusSystemFlag = 1U << 2;  // self test passed
constexpr uint8_t kStatusNotLocked = 1U << 4;
constexpr uint8_t kStatusFromAux = 1U << 5;
constexpr uint8_t kStatusTimeout = 1U << 6;

enum : uint8_t {
  kReadControl = 0x20,
  kWriteControl = 0x60,
  kDisableAux = 0xa7,
  kEnableAux = 0xa8,
  kTestAux = 0xa9,
  kSelfTest = 0xaa,
  kTestKeyboard = 0xab,
  kDisableKeyboard = 0xad,
  kEnableKeyboard = 0xae,
  kReadOutputPort = 0xd0,
  kWriteOutputPort = 0xd1,
  kLoopKeyboard = 0xd2,
  kLoopAux = 0xd3,
  kWriteAux = 0xd4,
  kPulseFirst = 0xf0,  // to 0xff: bits 3:0 that are clear pull output lines low; line 0 is reset
};

constexpr uint8_t kControlKeyboardOff = 1U << 4;
constexpr uint8_t kControlAuxOff = 1U << 5;
constexpr uint8_t kOutputReset = 1U << 0;

constexpr uint8_t kSelfTestPassed = 0x55;
constexpr uint8_t kKeyboardLineGood = 0x00;
constexpr uint8_t kAuxLineStuck = 0x02;  // no such port
constexpr uint8_t kResend = 0xfe;        // with the time-out bit: nobody answered

}  // namespace

void I8042::answer(uint8_t value, uint8_t flags) {
  state_.output = value;
  state_.output_flags = static_cast<uint8_t>(kStatusOutputFull | flags);
}

uint8_t I8042::read_data() {
  const std::lock_guard lock(mutex_);
  state_.output_flags = 0;
  return state_.output;
}

uint8_t I8042::read_status() {
  const std::lock_guard lock(mutex_);
  return static_cast<uint8_t>(kStatusSystemFlag | kStatusNotLocked | state_.output_flags);
}

void I8042::write_command(uint8_t value) {
  bool resets = false;
  {
    const std::lock_guard lock(mutex_);
    state_.command = 0;
    switch (value) {
      case kReadControl:
        answer(state_.control);
        break;
      case kWriteControl:
      case kWriteOutputPort:
      case kLoopKeyboard:
      case kLoopAux:
      case kWriteAux:
        state_.command = value;
        break;
      case kDisableAux:
        state_.control |= kControlAuxOff;
        break;
      case kEnableAux:
        state_.control = static_cast<uint8_t>(state_.control & ~kControlAuxOff);
        break;
      case kTestAux:
        answer(kAuxLineStuck);
        break;
      case kSelfTest:
        answer(kSelfTestPassed);
        break;
      case kTestKeyboard:
        answer(kKeyboardLineGood);
        break;
      case kDisableKeyboard:
        state_.control |= kControlKeyboardOff;
        break;
      case kEnableKeyboard:
        state_.control = static_cast<uint8_t>(state_.control & ~kControlKeyboardOff);
        break;
      case kReadOutputPort:
        answer(state_.output_port);
        break;
      default:
        resets = value >= kPulseFirst && (value & kOutputReset) == 0;
        break;
    }
  }
  if (resets) power_.reset();
}

void I8042::write_data(uint8_t value) {
  bool resets = false;
  {
    const std::lock_guard lock(mutex_);
    const uint8_t command = state_.command;
    state_.command = 0;
    switch (command) {
      case kWriteControl:
        state_.control = value;
        break;
      case kWriteOutputPort:
        state_.output_port = value;
        resets = (value & kOutputReset) == 0;
        break;
      case kLoopKeyboard:
        answer(value);
        break;
      case kLoopAux:
        answer(value, kStatusFromAux);
        break;
      case kWriteAux:
        answer(kResend, kStatusFromAux | kStatusTimeout);
        break;
      default:  // for the keyboard
        answer(kResend, kStatusTimeout);
        break;
    }
  }
  if (resets) power_.reset();
}

I8042State I8042::save() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void I8042::restore(const I8042State& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
}

}  // namespace trapeze

// Result<T, E>: a value or an error, with the names of std::expected (which clang 14 lacks).
//
// Used for failures of the host or of the configuration. Guest misbehaviour is never a Result: it
// is a fault, an all-ones read or a broken queue. Our own bugs are CHECKs (base/check.h).
#pragma once

#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/error.h"

namespace trapeze {

template <typename T, typename E = Error>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  template <typename U = T>
  requires(std::is_convertible_v<U&&, T> && !std::is_same_v<std::remove_cvref_t<U>, Result>)
      Result(U&& value)
      : storage_(std::in_place_index<0>, std::forward<U>(value)) {}  // NOLINT
  Result(Unexpected<E> error) : storage_(std::in_place_index<1>, std::move(error.error())) {}

  bool has_value() const { return storage_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  T& value() & {
    CHECK(has_value());
    return *std::get_if<0>(&storage_);
  }
  const T& value() const& {
    CHECK(has_value());
    return *std::get_if<0>(&storage_);
  }
  T&& value() && {
    CHECK(has_value());
    return std::move(*std::get_if<0>(&storage_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  E& error() {
    CHECK(!has_value());
    return *std::get_if<1>(&storage_);
  }
  const E& error() const {
    CHECK(!has_value());
    return *std::get_if<1>(&storage_);
  }

 private:
  std::variant<T, E> storage_;
};

template <typename E>
class [[nodiscard]] Result<void, E> {
 public:
  using value_type = void;

  Result() = default;
  Result(Unexpected<E> error) : error_(std::move(error.error())) {}

  bool has_value() const { return !error_.has_value(); }
  explicit operator bool() const { return has_value(); }
  void value() const { CHECK(has_value()); }
  E& error() { return error_.value(); }
  const E& error() const { return error_.value(); }

 private:
  std::optional<E> error_;
};

}  // namespace trapeze

// TRY(expression): the value of a Result, or return its error from the enclosing function.
#define TRY(expression)                                                             \
  ({                                                                                \
    auto&& try_result_ = (expression);                                              \
    if (!try_result_) return ::trapeze::Unexpected(std::move(try_result_.error())); \
    std::move(try_result_).value();                                                 \
  })

// Which tensors are wanted.
#pragma once

#include <optional>
#include <regex>
#include <string>
#include <string_view>

#include "dequant/error.h"

namespace dequant {

/// --include and --exclude.
class NameFilter {
 public:
  NameFilter(const std::string& include, const std::string& exclude)
      : include_(Compile(include)), exclude_(Compile(exclude)) {}

  bool Accepts(std::string_view name) const {
    // std::regex recurses once per character and would run out of stack.
    constexpr size_t kMatchedBytes = 1024;
    name = name.substr(0, kMatchedBytes);
    return (!include_ || Found(name, *include_)) &&
           (!exclude_ || !Found(name, *exclude_));
  }

 private:
  static std::optional<std::regex> Compile(const std::string& pattern) {
    if (pattern.empty()) return std::nullopt;
    try {
      return std::regex(pattern);
    } catch (const std::regex_error& e) {
      throw Error(
          "", Error::kNoOffset, "",
          "'" + Escape(pattern) + "' is not a regular expression: " + e.what());
    }
  }
  static bool Found(std::string_view name, const std::regex& pattern) {
    return std::regex_search(name.begin(), name.end(), pattern);
  }

  std::optional<std::regex> include_, exclude_;
};

}  // namespace dequant

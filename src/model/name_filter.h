// Which tensors are wanted.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace dequant {

/// --include and --exclude: regular expressions (ECMAScript) that a name must
/// and must not contain; empty for all and none.
class NameFilter {
 public:
  /// Throws Error if one is not a regular expression.
  NameFilter(const std::string& include, const std::string& exclude);
  ~NameFilter();

  /// Names over 1,024 bytes are judged by their first 1,024.
  bool Accepts(std::string_view name) const;

 private:
  struct Patterns;
  std::unique_ptr<Patterns> patterns_;
};

}  // namespace dequant

// What the names of tensors decide: which are wanted, and as what.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dequant/model.h"

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

/// --dtype-for: which type a name asks for.
class DTypeRules {
 public:
  /// Throws Error if a pattern is not a regular expression.
  explicit DTypeRules(const std::vector<DTypeRule>& rules);
  ~DTypeRules();

  /// Of the first pattern that the name contains; as in NameFilter.
  std::optional<DType> Find(std::string_view name) const;

 private:
  struct Rule;
  std::vector<Rule> rules_;
};

}  // namespace dequant

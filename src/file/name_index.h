// Names -> positions, in memory and time that no choice of names can blow up.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace dequant {

/// An index over names that the caller keeps alive. Sorted by hash, then name:
/// names that collide cost a comparison, never a quadratic scan.
class NameIndex {
 public:
  void Reserve(size_t n) { rows_.reserve(n); }
  void Add(std::string_view name, size_t position) {
    rows_.push_back({std::hash<std::string_view>()(name), name, position});
  }

  /// After the last Add(). Returns the first pair of positions that share a
  /// name: the one whose second position comes first.
  std::optional<std::pair<size_t, size_t>> Build() {
    std::sort(rows_.begin(), rows_.end(), Less);
    std::optional<std::pair<size_t, size_t>> pair;
    for (size_t i = 1; i < rows_.size(); ++i) {
      const Row &a = rows_[i - 1], &b = rows_[i];
      if (a.hash == b.hash && a.name == b.name &&
          (!pair || b.position < pair->second)) {
        pair = {a.position, b.position};
      }
    }
    return pair;
  }

  std::optional<size_t> Find(std::string_view name) const {
    const Row key{std::hash<std::string_view>()(name), name, 0};
    const auto it = std::lower_bound(rows_.begin(), rows_.end(), key, Less);
    if (it == rows_.end() || it->name != name) return std::nullopt;
    return it->position;
  }

 private:
  struct Row {
    size_t hash;
    std::string_view name;
    size_t position;
  };
  static bool Less(const Row& a, const Row& b) {
    if (a.hash != b.hash) return a.hash < b.hash;
    if (const int c = a.name.compare(b.name); c != 0) return c < 0;
    return a.position < b.position;
  }
  std::vector<Row> rows_;
};

}  // namespace dequant

// JSON from files: errors name the file and the byte, keys may not repeat.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dequant {

/// Parses `text`, which stands at byte `offset` of `file`. Throws Error.
nlohmann::json ParseJson(std::string_view text, const std::string& file,
                         uint64_t offset = 0);

/// Throws Error that names `subject` unless `value` is an array of integers >=
/// 0 whose product is no more than 2^63 - 1.
std::vector<uint64_t> ShapeFromJson(const nlohmann::json& value,
                                    const std::string& file,
                                    const std::string& subject);

}  // namespace dequant

// Text from files and text for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace dequant {

/// The length of the UTF-8 sequence at the start of `s`, 0 if it is none (also
/// overlong forms, surrogates and code points above U+10FFFF).
size_t Utf8Length(std::string_view s);

/// Where `s` stops being UTF-8; npos if it is all valid.
size_t FindInvalidUtf8(std::string_view s);

/// "[1, 6, 3072]"
std::string ShapeText(std::span<const uint64_t> shape);

/// "23.2 GB (23193178112 bytes)", or "12 bytes"
std::string BytesText(uint64_t n);

/// "3 tensors", "1 tensor"
std::string Count(uint64_t n, std::string_view noun);

}  // namespace dequant

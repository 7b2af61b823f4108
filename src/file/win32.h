// What the Windows files share: the API takes UTF-16 and handles.
#pragma once

#include <windows.h>

#include <string>
#include <string_view>

#include "src/file/io.h"

namespace dequant {

/// UTF-16 of UTF-8; empty if it is not UTF-8.
std::wstring Wide(std::string_view utf8);
/// UTF-8; half of a surrogate pair becomes U+FFFD.
std::string Utf8(std::wstring_view wide);

/// A path as the API takes it: absolute, of any length.
std::wstring WidePath(const std::string& path);

HANDLE HandleOf(int fd);
/// Takes a handle over; none if it is INVALID_HANDLE_VALUE.
Fd FdOf(HANDLE handle);

}  // namespace dequant

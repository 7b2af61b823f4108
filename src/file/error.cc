#include "dequant/error.h"

#include <cstdio>

#include "src/file/text.h"

namespace dequant {
namespace {

// Terminals act on C0 and C1 control codes; names must not reach them raw.
std::string EscapeBytes(std::string_view s, bool quotes) {
  std::string out;
  const auto hex = [&](char c) {
    char text[8];
    std::snprintf(text, sizeof(text), "\\x%02X", static_cast<uint8_t>(c));
    out += text;
  };
  for (size_t i = 0; i < s.size();) {
    const size_t n = Utf8Length(s.substr(i));
    const auto c = static_cast<uint8_t>(s[i]);
    const bool c1 =
        n == 2 && c == 0xC2 && static_cast<uint8_t>(s[i + 1]) < 0xA0;
    if (n == 0 || c1 || c < 0x20 || c == 0x7F ||
        (quotes && (c == '\'' || c == '\\'))) {
      hex(s[i]);
      if (c1) hex(s[i + 1]);
      i += n == 0 ? 1 : n;
    } else {
      out.append(s.substr(i, n));
      i += n;
    }
  }
  return out;
}

std::string Compose(const std::string& file, int64_t offset,
                    const std::string& subject, const std::string& reason) {
  std::string text;
  if (!file.empty()) text += EscapeBytes(file, false) + ": ";
  if (offset >= 0) text += "at byte " + std::to_string(offset) + ": ";
  if (!subject.empty()) text += subject + ": ";
  return text + reason;
}

}  // namespace

Error::Error(std::string file, int64_t offset, std::string subject,
             std::string reason)
    : std::runtime_error(Compose(file, offset, subject, reason)),
      file_(std::move(file)),
      offset_(offset),
      subject_(std::move(subject)),
      reason_(std::move(reason)) {}

std::string Escape(std::string_view name) {
  constexpr size_t kMaxBytes = 200;
  if (name.size() <= kMaxBytes) return EscapeBytes(name, true);
  size_t cut = kMaxBytes;  // do not cut a character in two
  while (cut > kMaxBytes - 4 && (name[cut] & 0xC0) == 0x80) --cut;
  return EscapeBytes(name.substr(0, cut), true) + "...";
}

}  // namespace dequant

// The one exception of the file and model layers.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace dequant {

/// Something is wrong with a file, or with what was asked of it. what() is
/// one line: "FILE: at byte OFF: tensor 'X': reason", parts that do not apply
/// left out, control bytes in names escaped.
class Error : public std::runtime_error {
 public:
  static constexpr int64_t kNoOffset = -1;

  /// `subject` is "tensor 'X'" or "key 'K'" (see Tensor() and Key()), or empty.
  Error(std::string file, int64_t offset, std::string subject,
        std::string reason);

  const std::string& file() const { return file_; }
  int64_t offset() const { return offset_; }  ///< kNoOffset if none applies
  const std::string& subject() const { return subject_; }
  const std::string& reason() const { return reason_; }

 private:
  std::string file_;
  int64_t offset_;
  std::string subject_;
  std::string reason_;
};

/// `name` with control bytes, quotes and bytes that are not UTF-8 escaped as
/// \xNN, cut to 200 bytes with "..." if longer.
std::string Escape(std::string_view name);
inline std::string Tensor(std::string_view n) {
  return "tensor '" + Escape(n) + "'";
}
inline std::string Key(std::string_view n) { return "key '" + Escape(n) + "'"; }

}  // namespace dequant

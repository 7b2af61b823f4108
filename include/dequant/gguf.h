// file -> tensors: a GGUF file, fully validated before the first view is handed
// out.
//
// Policy for hostile files: every count, length, dimension and offset is
// checked before it is used; the tensor table and the metadata are private
// copies, never read again from the file; tensor data is read with pread (a
// file that shrinks gives an error, not a signal), or mapped if the caller
// asks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dequant/dequant.h"
#include "dequant/error.h"

namespace dequant {

/// Value types of GGUF metadata, by their number in the file.
enum class KvType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};
std::string_view Name(KvType t);

/// One metadata entry. `bytes` is the value as it stands in the file (for a
/// string or an array without its length), little-endian, already validated.
struct KeyValue {
  std::string_view file;  ///< path, for messages
  std::string_view key;
  KvType type;
  KvType element_type;  ///< of an array; else equal to type
  uint64_t count;       ///< elements of an array; else 1
  std::span<const uint8_t> bytes;
  uint64_t offset;  ///< of this entry in the file

  bool IsInteger() const;  ///< an integer or bool, or an array of them

  /// The value(s) as numbers or text; each throws Error when the type differs.
  uint64_t AsUint(uint64_t index = 0) const;  ///< any integer or bool >= 0
  int64_t AsInt(uint64_t index = 0) const;    ///< any integer or bool
  double AsFloat(uint64_t index = 0) const;   ///< any number
  std::string_view AsString() const;          ///< type kString
  /// All elements of an array of strings.
  std::vector<std::string_view> AsStrings() const;
  /// A short text for people and --json: numbers, quoted text, or the first
  /// elements of an array and its length.
  std::string ToString(size_t max_elements = 8) const;
};

/// One row of the tensor table.
struct TensorInfo {
  std::string_view name;
  int32_t type_id;
  const TypeInfo* type;        ///< nullptr: a type that we do not know
  std::vector<uint64_t> dims;  ///< as in the file: innermost first
  uint64_t elements;           ///< product of dims
  uint64_t bytes;              ///< of the data; 0 if the type is unknown
  uint64_t offset;             ///< of the data, from the start of the file
  uint64_t table_offset;       ///< of this row, for error messages
};

/// "Q4_K"; "removed type Q4_2 (4)" or "unknown(43)" for ids without a TypeInfo.
std::string TypeName(int32_t type_id);

/// An open GGUF v2 or v3 file (little-endian). Movable, not copyable; views
/// (names, keys, spans) live as long as it.
class GgufFile {
 public:
  /// Throws Error that names file, byte and tensor or key.
  static GgufFile Open(const std::string& path);
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::string& path() const;
  uint32_t version() const;
  uint64_t alignment() const;
  uint64_t size() const;  ///< of the file, bytes
  const std::vector<KeyValue>& metadata() const;
  const std::vector<TensorInfo>& tensors() const;  ///< in the file's order
  const std::vector<std::string>& warnings() const;

  /// nullptr if absent
  const KeyValue* Find(std::string_view key) const;
  const TensorInfo* FindTensor(std::string_view name) const;

  /// Reads bytes [begin, begin + out.size()) of a tensor's data with pread.
  /// Safe from any thread. Throws Error if the file has shrunk or the range
  /// lies outside the tensor.
  void Read(const TensorInfo& t, uint64_t begin, std::span<uint8_t> out) const;

  /// Tells the system that these bytes will be read soon.
  void WillRead(const TensorInfo& t, uint64_t begin, uint64_t bytes) const;

  /// The whole tensor in a read-only mapping of the file, made on first use. A
  /// file that shrinks while mapped raises SIGBUS: prefer Read.
  std::span<const uint8_t> Map(const TensorInfo& t) const;

  /// Throws Error if size, modification time or inode have changed since Open.
  void CheckUnchanged() const;

  int fd() const;

 private:
  struct Impl;
  explicit GgufFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dequant

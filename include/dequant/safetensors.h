// tensors -> file: safetensors, read (header) and written (streamed).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dequant/error.h"

namespace dequant {

/// One tensor of a safetensors file.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  ///< "F16", "BF16", "F32", "F64", "I8", "U8", ...
  std::vector<uint64_t> shape;  ///< outermost first
  uint64_t begin = 0;           ///< of the data, from the end of the header
  uint64_t end = 0;
};

/// The header of a safetensors file, validated: no duplicate names, no overlap,
/// sizes agree with shapes, data ends with the file (`need_data` false accepts
/// a header whose data is absent or sparse).
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  ///< in the order of their data
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  ///< 8 + length of the header
};
SafetensorsHeader ReadSafetensorsHeader(const std::string& path,
                                        bool need_data = true);

/// An open safetensors file.
class SafetensorsFile {
 public:
  /// Reads and checks the header. Throws Error.
  static SafetensorsFile Open(const std::string& path);
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  const std::string& path() const;
  const SafetensorsHeader& header() const;
  /// Reads bytes [begin, begin + out.size()) of a tensor's data. Safe from any
  /// thread. Throws Error if the range lies outside or the file has shrunk.
  void Read(const SafetensorsEntry& e, uint64_t begin,
            std::span<uint8_t> out) const;

 private:
  struct Impl;
  explicit SafetensorsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The files behind `path`: itself, or those that an .index.json names.
std::vector<std::string> SafetensorsShards(const std::string& path);

/// Bytes of one element of a safetensors dtype; 0 if unknown or below one byte.
size_t SafetensorsSizeOf(std::string_view dtype);

/// Writes one safetensors file beside its target and renames it when complete;
/// destroyed before Commit() it leaves nothing behind. The layout is fixed in
/// the constructor; data may then come in any order and from any thread.
class SafetensorsWriter {
 public:
  /// Entries get `begin` and `end` in the given order, without holes. Throws
  /// Error: target exists and !overwrite, target is a folder, disk full (the
  /// space is allocated up front), header over 100 MB.
  SafetensorsWriter(std::string path, std::vector<SafetensorsEntry> entries,
                    const std::map<std::string, std::string>& metadata,
                    bool overwrite);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  const std::vector<SafetensorsEntry>& entries() const;
  uint64_t size() const;  ///< of the whole file
  /// Writes at byte `begin` of the entry's data.
  void Write(const SafetensorsEntry& e, uint64_t begin,
             std::span<const uint8_t> bytes);
  /// Waits until what was written is on the disk.
  void Sync();
  /// Gives the file its name: the target is old or complete, never half. After
  /// Sync() that too is brought to the disk; without it, a power failure soon
  /// after may still lose data.
  void Commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dequant

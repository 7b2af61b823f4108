// A file that appears under its name complete, or not at all.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <system_error>

#include "src/file/io.h"

namespace dequant {

/// Writes beside the target: where the system can do that, into a file without
/// a name, or on Windows one that goes with its writer, so that nothing is left
/// even after SIGKILL; else into `.NAME.XXXX.tmp`, locked, so that a later run
/// can tell a dead writer's file and remove it.
class AtomicFile {
 public:
  /// Allocates `size` bytes at once: a full disk is found here. Throws Error:
  /// the target exists and !overwrite, is no regular file, its folder is
  /// missing or not writable, too little space.
  AtomicFile(std::string path, uint64_t size, bool overwrite);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// From any thread.
  void Write(uint64_t offset, std::span<const uint8_t> bytes);
  /// Waits until what was written is on the disk.
  void Sync();
  /// Gives the file its name; after Sync() that too is brought to the disk.
  void Publish();

 private:
  void Allocate();
  void RemoveStale() const;
  void RemoveTemp();
  std::string NewTempPath() const;
  [[noreturn]] void Fail(const std::string& what, std::error_code error) const;

  // These differ by system, as Sync and Publish do.
  void Create();
  /// Gives the file its size and reserves the room, without writing.
  std::error_code Reserve() const;
  static void RemoveIfDead(const std::string& temp);

  std::string path_;
  std::string folder_;
  std::string temp_folder_;  // the same, in front of a name
  std::string temp_prefix_;  // .NAME.
  std::string temp_;         // the temporary, unless it goes by itself
  uint64_t size_;
  bool overwrite_;
  bool synced_ = false;
  Fd fd_;
};

}  // namespace dequant

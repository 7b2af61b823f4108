// A file that appears under its name complete, or not at all.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "src/file/io.h"

namespace dequant {

/// Writes beside the target: into a file without a name where the system can do
/// that (then nothing is left even after SIGKILL), else into `.NAME.XXXX.tmp`,
/// locked, so that a later run can tell a dead writer's file and remove it.
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
  void Create();
  void CreateNamed();
  void Allocate();
  void RemoveStale() const;
  std::string NewTempPath() const;
  void LinkUnnamed(const std::string& to);
  void RenameWithoutReplacing();
  void Flush() const;
  [[noreturn]] void Fail(const std::string& what, int error) const;

  std::string path_;
  std::string folder_;
  std::string temp_prefix_;  // FOLDER/.NAME.
  std::string temp_;         // path of the temporary; empty: has no name
  uint64_t size_;
  bool overwrite_;
  bool synced_ = false;
  Fd fd_;
};

}  // namespace dequant

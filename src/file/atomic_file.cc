#include "src/file/atomic_file.h"

#include <random>

#include "dequant/error.h"
#include "src/file/checked.h"
#include "src/file/text.h"

namespace dequant {
namespace {

constexpr std::string_view kTempSuffix = ".tmp";
constexpr size_t kTempRandom = 12;

}  // namespace

AtomicFile::AtomicFile(std::string path, uint64_t size, bool overwrite)
    : path_(std::move(path)), size_(size), overwrite_(overwrite) {
  const size_t start = NameStart(path_);
  folder_ = start == 0 ? "." : path_.substr(0, start);
  std::string name = path_.substr(start);
  if (name.empty() || name == "." || name == "..") {
    throw Error(path_, Error::kNoOffset, "",
                "is a directory; name a file in it");
  }
  // The temporary's name is longer and must still be one.
  constexpr size_t kMaxStem = 200;
  if (name.size() > kMaxStem) {
    size_t end = kMaxStem;
    while (end > 0 && (name[end] & 0xC0) == 0x80) --end;  // inside a character
    name.resize(end);
  }
  temp_folder_ = start == 0 ? "./" : folder_;
  temp_prefix_ = "." + name + ".";

  FileStatus status;
  if (const auto error = StatusOf(folder_, &status)) {
    throw Error(
        path_, Error::kNoOffset, "",
        error == std::errc::no_such_file_or_directory
            ? "its directory " + folder_ + " does not exist; create it first"
            : "cannot use its directory: " + ErrorText(error));
  }
  if (status.kind != FileKind::kDirectory) {
    throw Error(path_, Error::kNoOffset, "", folder_ + " is not a directory");
  }
  if (!StatusOf(path_, &status) && status.kind != FileKind::kRegular) {
    throw Error(path_, Error::kNoOffset, "",
                std::string("is ") + status.KindText() +
                    ", not a regular file; name another output");
  }
  if (!overwrite_ && !StatusOf(path_, &status, false)) {
    Fail("", std::make_error_code(std::errc::file_exists));
  }

  // Allocating beyond this limit would raise SIGXFSZ in a program of whose
  // signals we know nothing.
  if (const uint64_t limit = FileSizeLimit(); size_ > limit) {
    Fail("needs " + BytesText(size_) +
             ", but this process may write files of " + BytesText(limit) +
             " (ulimit -f)",
         std::make_error_code(std::errc::file_too_large));
  }
  RemoveStale();
  Create();
  try {
    Allocate();
  } catch (...) {
    RemoveTemp();
    throw;
  }
}

AtomicFile::~AtomicFile() { RemoveTemp(); }

void AtomicFile::RemoveTemp() {
  fd_ = Fd();  // Windows removes no file that is open
  if (!temp_.empty()) RemoveFile(temp_);
}

void AtomicFile::Fail(const std::string& what, std::error_code error) const {
  std::string reason = error == std::errc::file_exists
                           ? "exists already; --force overwrites it"
                           : what + ": " + ErrorText(error);
  throw Error(path_, Error::kNoOffset, "", std::move(reason));
}

void AtomicFile::Allocate() {
  const std::error_code error = Reserve();
  if (!error) return;
  std::string what = "needs " + BytesText(size_);
  const auto free = FreeSpace(folder_);
  if (error == std::errc::no_space_on_device && free) {
    what += ", but " + folder_ + " has room for " + BytesText(*free);
  }
  Fail(what, error);
}

void AtomicFile::RemoveStale() const {
  std::vector<std::string> names;
  ListFolder(folder_, &names);
  for (const std::string& name : names) {
    if (name.size() == temp_prefix_.size() + kTempRandom + kTempSuffix.size() &&
        name.starts_with(temp_prefix_) && name.ends_with(kTempSuffix)) {
      RemoveIfDead(temp_folder_ + name);
    }
  }
}

std::string AtomicFile::NewTempPath() const {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::random_device random;
  std::string path = temp_folder_ + temp_prefix_;
  for (size_t i = 0; i < kTempRandom; ++i) {
    path += kLetters[random() % kLetters.size()];
  }
  return path + std::string(kTempSuffix);
}

void AtomicFile::Write(uint64_t offset, std::span<const uint8_t> bytes) {
  if (!RangeFits(offset, bytes.size(), size_)) {
    throw Error(path_, static_cast<int64_t>(offset), "",
                "write of " + Count(bytes.size(), "byte") +
                    " outside the planned " + Count(size_, "byte"));
  }
  if (const auto error = WriteAt(fd_.get(), offset, bytes)) {
    throw Error(path_, static_cast<int64_t>(offset), "",
                "cannot write (" + BytesText(size_) +
                    " needed in all): " + ErrorText(error));
  }
}

}  // namespace dequant

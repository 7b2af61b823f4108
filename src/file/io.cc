#include "src/file/io.h"

#include "dequant/error.h"
#include "src/file/text.h"

namespace dequant {

const char* FileStatus::KindText() const {
  switch (kind) {
    case FileKind::kDirectory:
      return "a directory";
    case FileKind::kFifo:
      return "a FIFO";
    case FileKind::kDevice:
      return "a device";
    case FileKind::kSocket:
      return "a socket";
    default:
      return "a file";
  }
}

Fd OpenRegular(const std::string& path, FileStatus* status) {
  Fd fd = OpenToRead(path);
  const std::error_code error = fd ? StatusOf(fd.get(), status) : LastError();
  if (error) {
    throw Error(path, Error::kNoOffset, "", "cannot open: " + ErrorText(error));
  }
  if (status->kind != FileKind::kRegular) {
    throw Error(
        path, Error::kNoOffset, "",
        std::string("is ") + status->KindText() + ", not a regular file");
  }
  return fd;
}

std::string ReadWhole(const std::string& path, uint64_t limit) {
  FileStatus status;
  const Fd fd = OpenRegular(path, &status);
  if (status.size > limit) {
    throw Error(path, Error::kNoOffset, "",
                "holds " + BytesText(status.size) + ", more than the " +
                    BytesText(limit) + " expected of such a file");
  }
  std::string text(status.size, '\0');
  size_t got = 0;
  if (const std::error_code error = ReadAt(
          fd.get(), 0, {reinterpret_cast<uint8_t*>(text.data()), text.size()},
          &got)) {
    throw Error(path, 0, "", "cannot read: " + ErrorText(error));
  }
  text.resize(got);
  return text;
}

}  // namespace dequant

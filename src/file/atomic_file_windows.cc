#include <cstring>
#include <vector>

#include "src/file/atomic_file.h"
#include "src/file/win32.h"

namespace dequant {
namespace {

/// Whether the file goes when its last handle is closed.
bool SetGoes(const Fd& fd, bool goes) {
  FILE_DISPOSITION_INFO info = {};
  info.DeleteFile = goes;
  return ::SetFileInformationByHandle(HandleOf(fd.get()), FileDispositionInfo,
                                      &info, sizeof(info));
}

std::error_code Rename(const Fd& fd, const std::string& to, bool overwrite) {
  const std::wstring wide = WidePath(to);
  std::vector<char> buffer(sizeof(FILE_RENAME_INFO) +
                           wide.size() * sizeof(wchar_t));
  auto* const info = reinterpret_cast<FILE_RENAME_INFO*>(buffer.data());
  info->ReplaceIfExists = overwrite;
  info->FileNameLength = static_cast<DWORD>(wide.size() * sizeof(wchar_t));
  std::memcpy(info->FileName, wide.data(), info->FileNameLength);
  return ::SetFileInformationByHandle(HandleOf(fd.get()), FileRenameInfo, info,
                                      static_cast<DWORD>(buffer.size()))
             ? std::error_code()
             : LastError();
}

}  // namespace

void AtomicFile::Create() {
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string temp = NewTempPath();
    // Shared with nobody, so that others cannot remove it.
    fd_ = FdOf(::CreateFileW(WidePath(temp).c_str(),
                             GENERIC_READ | GENERIC_WRITE | DELETE, 0, nullptr,
                             CREATE_NEW, FILE_ATTRIBUTE_NORMAL, nullptr));
    if (fd_) {
      if (!SetGoes(fd_, true)) temp_ = temp;
      return;
    }
    const std::error_code error = LastError();
    if (error != std::errc::file_exists) {
      Fail("cannot create a file in its directory", error);
    }
  }
  Fail("cannot create a file in its directory",
       std::make_error_code(std::errc::file_exists));
}

std::error_code AtomicFile::Reserve() const {
  // Not every file system reserves.
  FILE_ALLOCATION_INFO room = {};
  room.AllocationSize.QuadPart = static_cast<LONGLONG>(size_);
  const bool reserved = ::SetFileInformationByHandle(
      HandleOf(fd_.get()), FileAllocationInfo, &room, sizeof(room));
  if (!reserved && LastError() == std::errc::no_space_on_device) {
    return LastError();
  }
  const auto free = FreeSpace(folder_);
  if (!reserved && free && size_ > *free) {
    return std::make_error_code(std::errc::no_space_on_device);
  }
  FILE_END_OF_FILE_INFO end = {};
  end.EndOfFile.QuadPart = static_cast<LONGLONG>(size_);
  return ::SetFileInformationByHandle(HandleOf(fd_.get()), FileEndOfFileInfo,
                                      &end, sizeof(end))
             ? std::error_code()
             : LastError();
}

void AtomicFile::RemoveIfDead(const std::string& temp) {
  RemoveFile(temp);  // which a living writer does not let happen
}

void AtomicFile::Sync() {
  if (synced_) return;
  if (!::FlushFileBuffers(HandleOf(fd_.get()))) {
    Fail("cannot bring the data to the disk", LastError());
  }
  synced_ = true;
}

void AtomicFile::Publish() {
  SetGoes(fd_, false);
  std::error_code error;
  // A target that another program, such as a virus scanner, has open cannot be
  // replaced; most close it soon.
  for (int attempt = 0; attempt < 50; ++attempt) {
    error = Rename(fd_, path_, overwrite_);
    if (error != std::errc::permission_denied || !overwrite_) break;
    ::Sleep(20);
  }
  if (error) {
    SetGoes(fd_, true);
    Fail("cannot give the finished file its name", error);
  }
  temp_.clear();
  if (synced_ && !::FlushFileBuffers(HandleOf(fd_.get()))) {
    Fail("cannot bring its name to the disk", LastError());
  }
  fd_ = Fd();  // now others may open it
}

}  // namespace dequant

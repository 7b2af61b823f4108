#include <fcntl.h>
#include <io.h>

#include <algorithm>
#include <limits>

#include "src/file/io.h"
#include "src/file/win32.h"

namespace dequant {
namespace {

// Others may write, rename and delete what is open here, as on POSIX: whether
// the file has changed is checked.
constexpr DWORD kShareAll =
    FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
constexpr uint32_t kMostAtOnce = 1 << 30;  // a call takes 32 bits

Fd Open(const std::string& path, DWORD access, DWORD flags) {
  // Without FILE_FLAG_BACKUP_SEMANTICS a folder cannot be opened.
  return FdOf(::CreateFileW(WidePath(path).c_str(), access, kShareAll, nullptr,
                            OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS | flags,
                            nullptr));
}

uint64_t Join(DWORD high, DWORD low) { return uint64_t{high} << 32 | low; }

/// Where a synchronous handle shall read or write.
OVERLAPPED At(uint64_t offset) {
  OVERLAPPED at = {};
  at.Offset = static_cast<DWORD>(offset);
  at.OffsetHigh = static_cast<DWORD>(offset >> 32);
  return at;
}

}  // namespace

std::wstring Wide(std::string_view utf8) {
  const auto size = static_cast<int>(utf8.size());
  const int n = ::MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS,
                                      utf8.data(), size, nullptr, 0);
  std::wstring wide(static_cast<size_t>(n), L'\0');
  ::MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, utf8.data(), size,
                        wide.data(), n);
  return wide;
}

std::string Utf8(std::wstring_view wide) {
  const auto size = static_cast<int>(wide.size());
  const int n = ::WideCharToMultiByte(CP_UTF8, 0, wide.data(), size, nullptr, 0,
                                      nullptr, nullptr);
  std::string utf8(static_cast<size_t>(n), '\0');
  ::WideCharToMultiByte(CP_UTF8, 0, wide.data(), size, utf8.data(), n, nullptr,
                        nullptr);
  return utf8;
}

std::wstring WidePath(const std::string& path) {
  constexpr std::wstring_view kLong = L"\\\\?\\", kShare = L"\\\\";
  const std::wstring wide = Wide(path);
  std::wstring full(::GetFullPathNameW(wide.c_str(), 0, nullptr, nullptr), 0);
  full.resize(::GetFullPathNameW(wide.c_str(), static_cast<DWORD>(full.size()),
                                 full.data(), nullptr));
  // Longer ones have to say that they are meant so; 12 is what a folder leaves
  // for a name.
  if (full.size() < MAX_PATH - 12 || full.starts_with(kLong)) return full;
  if (full.starts_with(kShare)) {
    return std::wstring(kLong) + L"UNC" + full.substr(1);
  }
  return std::wstring(kLong) + full;
}

HANDLE HandleOf(int fd) {
  return reinterpret_cast<HANDLE>(::_get_osfhandle(fd));
}

Fd FdOf(HANDLE handle) {
  if (handle == INVALID_HANDLE_VALUE) return Fd();
  const int fd =
      ::_open_osfhandle(reinterpret_cast<intptr_t>(handle), _O_BINARY);
  if (fd < 0) {
    ::CloseHandle(handle);
    ::SetLastError(ERROR_TOO_MANY_OPEN_FILES);
  }
  return Fd(fd);
}

Fd::~Fd() {
  if (fd_ >= 0) ::_close(fd_);
}

std::error_code LastError() {
  return {static_cast<int>(::GetLastError()), std::system_category()};
}

std::string ErrorText(std::error_code error) {
  if (error.category() != std::system_category()) return error.message();
  // Not message(), which is in the code page of the system.
  wchar_t text[512];
  const DWORD n = ::FormatMessageW(
      FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS |
          FORMAT_MESSAGE_MAX_WIDTH_MASK,
      nullptr, static_cast<DWORD>(error.value()), 0, text, 512, nullptr);
  std::wstring_view line(text, n);
  line = line.substr(0, line.find_last_not_of(L" .") + 1);
  return line.empty() ? "error " + std::to_string(error.value()) : Utf8(line);
}

std::error_code StatusOf(int fd, FileStatus* status) {
  *status = {};
  switch (::GetFileType(HandleOf(fd))) {
    case FILE_TYPE_DISK:
      break;
    case FILE_TYPE_CHAR:
      status->kind = FileKind::kDevice;
      return {};
    case FILE_TYPE_PIPE:
      status->kind = FileKind::kFifo;
      return {};
    default:
      return {};
  }
  BY_HANDLE_FILE_INFORMATION info;
  if (!::GetFileInformationByHandle(HandleOf(fd), &info)) return LastError();
  status->kind = info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY
                     ? FileKind::kDirectory
                     : FileKind::kRegular;
  status->size = Join(info.nFileSizeHigh, info.nFileSizeLow);
  status->device = info.dwVolumeSerialNumber;
  status->number = Join(info.nFileIndexHigh, info.nFileIndexLow);
  status->written.first = static_cast<int64_t>(Join(
      info.ftLastWriteTime.dwHighDateTime, info.ftLastWriteTime.dwLowDateTime));
  return {};
}

std::error_code StatusOf(const std::string& path, FileStatus* status,
                         bool follow) {
  const Fd fd = Open(path, FILE_READ_ATTRIBUTES,
                     follow ? 0 : FILE_FLAG_OPEN_REPARSE_POINT);
  return fd ? StatusOf(fd.get(), status) : LastError();
}

Fd OpenToRead(const std::string& path) { return Open(path, GENERIC_READ, 0); }

std::error_code ReadAt(int fd, uint64_t offset, std::span<uint8_t> out,
                       size_t* got) {
  size_t done = 0;
  while (done < out.size()) {
    const auto n =
        static_cast<DWORD>(std::min<size_t>(out.size() - done, kMostAtOnce));
    OVERLAPPED at = At(offset + done);
    DWORD read = 0;
    if (!::ReadFile(HandleOf(fd), out.data() + done, n, &read, &at) &&
        ::GetLastError() != ERROR_HANDLE_EOF) {
      return LastError();
    }
    if (read == 0) break;
    done += read;
  }
  *got = done;
  return {};
}

std::error_code WriteAt(int fd, uint64_t offset,
                        std::span<const uint8_t> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const auto n =
        static_cast<DWORD>(std::min<size_t>(bytes.size() - done, kMostAtOnce));
    OVERLAPPED at = At(offset + done);
    DWORD put = 0;
    if (!::WriteFile(HandleOf(fd), bytes.data() + done, n, &put, &at)) {
      return LastError();
    }
    // Would loop for ever.
    if (put == 0) return std::make_error_code(std::errc::io_error);
    done += put;
  }
  return {};
}

void WillReadAt(int, uint64_t, uint64_t) {}

const uint8_t* MapFile(int fd, uint64_t size) {
  const HANDLE mapping =
      ::CreateFileMappingW(HandleOf(fd), nullptr, PAGE_READONLY, 0, 0, nullptr);
  if (!mapping) return nullptr;
  const void* const map = ::MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, size);
  const DWORD error = ::GetLastError();
  ::CloseHandle(mapping);  // the view keeps it
  ::SetLastError(error);
  return static_cast<const uint8_t*>(map);
}

void UnmapFile(const uint8_t* map, uint64_t) { ::UnmapViewOfFile(map); }

std::error_code ListFolder(const std::string& folder,
                           std::vector<std::string>* names) {
  WIN32_FIND_DATAW entry;
  const HANDLE find = ::FindFirstFileW(WidePath(folder + "/*").c_str(), &entry);
  if (find == INVALID_HANDLE_VALUE) return LastError();
  do {
    names->push_back(Utf8(entry.cFileName));
  } while (::FindNextFileW(find, &entry));
  ::FindClose(find);
  return {};
}

size_t NameStart(std::string_view path) {
  return path.find_last_of("/\\:") + 1;
}

void RemoveFile(const std::string& path) {
  ::DeleteFileW(WidePath(path).c_str());
}

std::optional<uint64_t> FreeSpace(const std::string& folder) {
  ULARGE_INTEGER free;
  if (!::GetDiskFreeSpaceExW(WidePath(folder).c_str(), &free, nullptr,
                             nullptr)) {
    return std::nullopt;
  }
  return free.QuadPart;
}

uint64_t FileSizeLimit() { return std::numeric_limits<uint64_t>::max(); }

}  // namespace dequant

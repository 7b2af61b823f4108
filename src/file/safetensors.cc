// safetensors: u64 length of the header, the header (JSON, padded with spaces),
// then the data of all tensors without holes.
#include "dequant/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "src/file/atomic_file.h"
#include "src/file/checked.h"
#include "src/file/io.h"
#include "src/file/json.h"
#include "src/file/text.h"

namespace dequant {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the standard loader's limit
constexpr std::string_view kMetadata = "__metadata__";

struct DtypeSize {
  std::string_view name;
  size_t bytes;
};
constexpr std::array<DtypeSize, 17> kDtypes = {{{"BOOL", 1},
                                                {"U8", 1},
                                                {"I8", 1},
                                                {"F8_E4M3", 1},
                                                {"F8_E5M2", 1},
                                                {"F8_E8M0", 1},
                                                {"U16", 2},
                                                {"I16", 2},
                                                {"F16", 2},
                                                {"BF16", 2},
                                                {"U32", 4},
                                                {"I32", 4},
                                                {"F32", 4},
                                                {"U64", 8},
                                                {"I64", 8},
                                                {"F64", 8},
                                                {"C64", 8}}};

/// Bytes of a tensor, if they can be told and fit.
std::optional<uint64_t> TensorBytes(const SafetensorsEntry& e) {
  const auto n = ElementCount(e.shape);
  return n ? CheckedMul(*n, SafetensorsSizeOf(e.dtype)) : std::nullopt;
}

SafetensorsEntry ParseEntry(const std::string& path, const std::string& name,
                            const json& value) {
  const auto fail = [&](const std::string& reason) {
    throw Error(path, static_cast<int64_t>(kLengthBytes), Tensor(name), reason);
  };
  if (!value.is_object() || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets")) {
    fail("must be an object with dtype, shape and data_offsets");
  }
  SafetensorsEntry e;
  e.name = name;
  if (!value["dtype"].is_string()) fail("its dtype is not a string");
  e.dtype = value["dtype"].get<std::string>();
  e.shape = ShapeFromJson(value["shape"], path, Tensor(name));
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 ||
      !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
    fail("its data_offsets are not two integers >= 0");
  }
  e.begin = offsets[0].get<uint64_t>();
  e.end = offsets[1].get<uint64_t>();
  if (e.begin > e.end) fail("its data_offsets run backwards");
  if (SafetensorsSizeOf(e.dtype) != 0) {
    const auto bytes = TensorBytes(e);
    if (!bytes || *bytes != e.end - e.begin) {
      fail("its data_offsets span " + Count(e.end - e.begin, "byte") +
           ", but shape " + ShapeText(e.shape) + " of " + Escape(e.dtype) +
           " takes " + (bytes ? std::to_string(*bytes) : "more than 2^63 - 1"));
    }
  }
  return e;
}

/// Reads and checks the header of an open file.
SafetensorsHeader ReadHeader(const std::string& path, int fd, uint64_t size,
                             bool need_data) {
  const auto fail = [&](uint64_t at, const std::string& reason) {
    throw Error(path, static_cast<int64_t>(at), "", reason);
  };
  const auto read = [&](uint64_t at, void* to, uint64_t n) {
    size_t got = 0;
    if (const auto error =
            ReadAt(fd, at, {static_cast<uint8_t*>(to), n}, &got)) {
      fail(at, "cannot read: " + ErrorText(error));
    }
    if (got < n) fail(at, "file changed while reading");
  };

  uint64_t length = 0;
  if (size < kLengthBytes) {
    fail(0, "is not a safetensors file: it has " + Count(size, "byte"));
  }
  read(0, &length, kLengthBytes);
  if (length > kMaxHeader || length > size - kLengthBytes) {
    fail(0,
         "is not a safetensors file, or truncated: its first 8 bytes announce "
         "a header of " +
             Count(length, "byte") + ", " +
             std::to_string(size - kLengthBytes) + " follow");
  }
  std::string text(length, '\0');
  read(kLengthBytes, text.data(), length);
  if (!text.starts_with('{')) {
    fail(kLengthBytes,
         "is not a safetensors file: its header does not start "
         "with '{'");
  }
  const json header = ParseJson(text, path, kLengthBytes);

  SafetensorsHeader out;
  out.data_offset = kLengthBytes + length;
  for (const auto& [name, value] : header.items()) {
    if (name != kMetadata) {
      out.tensors.push_back(ParseEntry(path, name, value));
      continue;
    }
    for (const auto& [key, text_value] : value.items()) {
      if (!text_value.is_string()) {
        fail(kLengthBytes, "__metadata__ holds more than strings");
      }
      out.metadata[key] = text_value.get<std::string>();
    }
  }
  std::sort(out.tensors.begin(), out.tensors.end(), [](auto& a, auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t end = 0;
  for (const SafetensorsEntry& e : out.tensors) {
    if (e.begin != end) {
      throw Error(path, static_cast<int64_t>(kLengthBytes), Tensor(e.name),
                  "its data starts at " + std::to_string(e.begin) +
                      (e.begin < end ? ", inside another tensor's"
                                     : ", behind a hole") +
                      "; " + std::to_string(end) + " was due");
    }
    end = e.end;
  }
  const uint64_t room = size - out.data_offset;
  if (need_data && end != room) {
    fail(out.data_offset, "holds " + Count(room, "byte") +
                              " of data, its header "
                              "describes " +
                              std::to_string(end));
  }
  return out;
}

}  // namespace

size_t SafetensorsSizeOf(std::string_view dtype) {
  for (const DtypeSize& d : kDtypes) {
    if (d.name == dtype) return d.bytes;
  }
  return 0;
}

SafetensorsHeader ReadSafetensorsHeader(const std::string& path,
                                        bool need_data) {
  FileStatus status;
  const Fd fd = OpenRegular(path, &status);
  return ReadHeader(path, fd.get(), status.size, need_data);
}

std::vector<std::string> SafetensorsShards(const std::string& path) {
  constexpr uint64_t kMaxIndex = 256 << 20;
  if (!path.ends_with(".index.json")) return {path};
  const json index = ParseJson(ReadWhole(path, kMaxIndex), path);
  if (!index.is_object() || !index.contains("weight_map") ||
      !index["weight_map"].is_object()) {
    throw Error(path, Error::kNoOffset, "", "has no object weight_map");
  }
  std::set<std::string> names;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) {
      throw Error(path, Error::kNoOffset, Tensor(name),
                  "its file is no string");
    }
    names.insert(file.get<std::string>());
  }
  const std::string folder = path.substr(0, NameStart(path));
  std::vector<std::string> paths;
  for (const std::string& name : names) paths.push_back(folder + name);
  return paths;
}

struct SafetensorsFile::Impl {
  std::string path;
  Fd fd;
  SafetensorsHeader header;
};

SafetensorsFile::SafetensorsFile(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept =
    default;
SafetensorsFile::~SafetensorsFile() = default;

SafetensorsFile SafetensorsFile::Open(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  FileStatus status;
  impl->path = path;
  impl->fd = OpenRegular(path, &status);
  impl->header = ReadHeader(path, impl->fd.get(), status.size, true);
  return SafetensorsFile(std::move(impl));
}

const std::string& SafetensorsFile::path() const { return impl_->path; }
const SafetensorsHeader& SafetensorsFile::header() const {
  return impl_->header;
}

void SafetensorsFile::Read(const SafetensorsEntry& e, uint64_t begin,
                           std::span<uint8_t> out) const {
  const uint64_t at = impl_->header.data_offset + e.begin + begin;
  const auto fail = [&](const std::string& reason) {
    throw Error(impl_->path, static_cast<int64_t>(at), Tensor(e.name), reason);
  };
  if (!RangeFits(begin, out.size(), e.end - e.begin)) {
    fail("read outside its " + Count(e.end - e.begin, "byte"));
  }
  size_t got = 0;
  if (const auto error = ReadAt(impl_->fd.get(), at, out, &got)) {
    fail("cannot read: " + ErrorText(error));
  }
  if (got < out.size()) {
    fail("file changed while reading: it ends here");
  }
}

struct SafetensorsWriter::Impl {
  std::vector<SafetensorsEntry> entries;
  uint64_t data_offset = 0;
  uint64_t size = 0;
  std::optional<AtomicFile> file;
};

SafetensorsWriter::SafetensorsWriter(
    std::string path, std::vector<SafetensorsEntry> entries,
    const std::map<std::string, std::string>& metadata, bool overwrite)
    : impl_(std::make_unique<Impl>()) {
  // Written by hand, because the order of the keys is the order of the data;
  // nlohmann escapes the strings.
  std::string header =
      "{\"" + std::string(kMetadata) + "\":" + json(metadata).dump();
  uint64_t end = 0;
  for (SafetensorsEntry& e : entries) {
    const auto fail = [&](const std::string& reason) {
      throw Error(path, Error::kNoOffset, Tensor(e.name), reason);
    };
    if (e.name == kMetadata) {
      fail(
          "this name is reserved in safetensors; leave the tensor out with "
          "--exclude");
    }
    if (SafetensorsSizeOf(e.dtype) == 0) {
      fail("safetensors has no dtype " + Escape(e.dtype));
    }
    const auto bytes = TensorBytes(e);
    const auto next = bytes ? CheckedAdd(end, *bytes) : std::nullopt;
    if (!next) fail("the output would pass 2^63 - 1 bytes");
    e.begin = end;
    e.end = end = *next;
    header += "," + json(e.name).dump() + ":{\"dtype\":\"" + e.dtype +
              "\",\"shape\":" + json(e.shape).dump() + ",\"data_offsets\":[" +
              std::to_string(e.begin) + "," + std::to_string(e.end) + "]}";
    if (header.size() > kMaxHeader) break;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > kMaxHeader) {
    throw Error(path, Error::kNoOffset, "",
                "its header would pass the " + BytesText(kMaxHeader) +
                    " that safetensors allows; --max-shard-size splits it");
  }
  impl_->data_offset = kLengthBytes + header.size();
  const auto size = CheckedAdd(impl_->data_offset, end);
  if (!size) {
    throw Error(path, Error::kNoOffset, "",
                "the output would pass 2^63 - 1 bytes");
  }
  impl_->size = *size;
  impl_->entries = std::move(entries);
  impl_->file.emplace(std::move(path), *size, overwrite);
  const uint64_t length = header.size();
  header.insert(0, reinterpret_cast<const char*>(&length), kLengthBytes);
  impl_->file->Write(
      0, {reinterpret_cast<const uint8_t*>(header.data()), header.size()});
}

SafetensorsWriter::~SafetensorsWriter() = default;

const std::vector<SafetensorsEntry>& SafetensorsWriter::entries() const {
  return impl_->entries;
}
uint64_t SafetensorsWriter::size() const { return impl_->size; }

void SafetensorsWriter::Write(const SafetensorsEntry& e, uint64_t begin,
                              std::span<const uint8_t> bytes) {
  impl_->file->Write(impl_->data_offset + e.begin + begin, bytes);
}

void SafetensorsWriter::Sync() { impl_->file->Sync(); }
void SafetensorsWriter::Commit() { impl_->file->Publish(); }

}  // namespace dequant

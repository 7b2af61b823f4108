// An open GGUF file: what the parser found, checked against itself and the size
// of the file; and its data.
#include "dequant/gguf.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "src/file/checked.h"
#include "src/file/gguf_parser.h"
#include "src/file/io.h"
#include "src/file/name_index.h"
#include "src/file/text.h"

namespace dequant {
namespace {

struct RemovedType {
  uint32_t id;
  const char* name;
};
constexpr RemovedType kRemovedTypes[] = {
    {4, "Q4_2"},        {5, "Q4_3"},        {31, "Q4_0_4_4"},
    {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"},   {36, "IQ4_NL_4_4"},
    {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"},
};

}  // namespace

std::string TypeName(int32_t type_id) {
  if (const TypeInfo* type = FindType(type_id)) return std::string(type->name);
  const auto id = static_cast<uint32_t>(type_id);
  for (const RemovedType& r : kRemovedTypes) {
    if (r.id == id) {
      return "removed type " + std::string(r.name) + " (" + std::to_string(id) +
             ")";
    }
  }
  return "unknown(" + std::to_string(id) + ")";
}

struct GgufFile::Impl {
  std::string path;
  Fd fd;
  FileStatus status;
  uint64_t size = 0;
  ParsedGguf parsed;
  NameIndex keys, names;
  std::vector<std::string> warnings;

  std::mutex map_mutex;
  const uint8_t* map = nullptr;

  ~Impl() {
    if (map) UnmapFile(map, size);
  }
};

namespace {

/// Where in the file the offset field of a row stands.
uint64_t OffsetField(const TensorInfo& t) {
  return t.table_offset + 8 + t.name.size() + 4 + 8 * t.dims.size() + 4;
}

std::string RangeText(const TensorInfo& t) {
  return "[" + std::to_string(t.offset) + ", " +
         std::to_string(t.offset + t.bytes) + ")";
}

}  // namespace

GgufFile::GgufFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

namespace {

/// Throws unless every tensor's data lies inside the file and shares no byte
/// with another's; turns offsets into positions in the file.
void PlaceData(const std::string& path, uint64_t size, uint64_t table_end,
               uint64_t alignment, std::vector<TensorInfo>& tensors,
               std::vector<std::string>& warnings) {
  const uint64_t start = AlignUp(table_end, alignment).value();
  const uint64_t room = size > start ? size - start : 0;
  uint64_t data_end = table_end;
  bool open_end = false;  // an unknown type: nobody knows where its data ends
  for (TensorInfo& t : tensors) {
    const auto fail = [&](const std::string& reason) {
      throw Error(path, static_cast<int64_t>(OffsetField(t)), Tensor(t.name),
                  reason);
    };
    if (t.offset % alignment != 0) {
      fail("its offset " + std::to_string(t.offset) +
           " is no multiple of the alignment " + std::to_string(alignment));
    }
    if (!RangeFits(t.offset, t.bytes, room)) {
      fail("its data (" + Count(t.bytes, "byte") + " at offset " +
           std::to_string(t.offset) +
           " of the data) ends outside the file, which has " +
           Count(room, "byte") +
           " of data: the file is truncated or damaged; "
           "download it again");
    }
    t.offset += start;
    data_end = std::max(data_end, t.offset + t.bytes);
    open_end |= t.type == nullptr;
  }

  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const TensorInfo& t : tensors) {
    if (t.bytes > 0) order.push_back(&t);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorInfo *a = order[i - 1], *b = order[i];
    if (b->offset - a->offset >= a->bytes) continue;
    // The row that comes later in the table is the one to blame.
    if (a->table_offset > b->table_offset) std::swap(a, b);
    throw Error(path, static_cast<int64_t>(OffsetField(*b)), Tensor(b->name),
                "its data " + RangeText(*b) + " overlaps " + RangeText(*a) +
                    " of " + Tensor(a->name));
  }

  const uint64_t padded = AlignUp(data_end, alignment).value_or(data_end);
  if (!open_end && size > padded) {
    warnings.push_back(BytesText(size - padded) +
                       " behind the last tensor belong to none (at byte " +
                       std::to_string(padded) + ")");
  }
}

void WarnOfUnknownTypes(const std::vector<TensorInfo>& tensors,
                        std::vector<std::string>& warnings) {
  std::map<uint32_t, std::pair<uint64_t, const TensorInfo*>> unknown;
  for (const TensorInfo& t : tensors) {
    if (t.type) continue;
    auto& [count, first] = unknown[static_cast<uint32_t>(t.type_id)];
    if (count++ == 0) first = &t;
  }
  for (const auto& [id, row] : unknown) {
    warnings.push_back(Count(row.first, "tensor") + " of " +
                       TypeName(static_cast<int32_t>(id)) + ", first " +
                       Tensor(row.second->name) + " at byte " +
                       std::to_string(row.second->table_offset) +
                       ": listed, but cannot be converted");
  }
}

}  // namespace

GgufFile GgufFile::Open(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  Impl& f = *impl;
  f.path = path;
  f.fd = OpenRegular(path, &f.status);
  f.size = f.status.size;

  f.parsed = ParseGguf(f.path, f.fd.get(), f.size);
  std::vector<KeyValue>& metadata = f.parsed.metadata;
  std::vector<TensorInfo>& tensors = f.parsed.tensors;

  f.keys.Reserve(metadata.size());
  for (size_t i = 0; i < metadata.size(); ++i) f.keys.Add(metadata[i].key, i);
  if (const auto twice = f.keys.Build()) {
    const KeyValue& kv = metadata[twice->second];
    throw Error(path, static_cast<int64_t>(kv.offset), Key(kv.key),
                "occurs twice, first at byte " +
                    std::to_string(metadata[twice->first].offset));
  }
  f.names.Reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) f.names.Add(tensors[i].name, i);
  if (const auto twice = f.names.Build()) {
    const TensorInfo& t = tensors[twice->second];
    throw Error(path, static_cast<int64_t>(t.table_offset), Tensor(t.name),
                "occurs twice, first at byte " +
                    std::to_string(tensors[twice->first].table_offset));
  }
  WarnOfUnknownTypes(tensors, f.warnings);
  PlaceData(f.path, f.size, f.parsed.end, f.parsed.alignment, tensors,
            f.warnings);
  return GgufFile(std::move(impl));
}

const std::string& GgufFile::path() const { return impl_->path; }
uint32_t GgufFile::version() const { return impl_->parsed.version; }
uint64_t GgufFile::alignment() const { return impl_->parsed.alignment; }
uint64_t GgufFile::size() const { return impl_->size; }
const std::vector<KeyValue>& GgufFile::metadata() const {
  return impl_->parsed.metadata;
}
const std::vector<TensorInfo>& GgufFile::tensors() const {
  return impl_->parsed.tensors;
}
const std::vector<std::string>& GgufFile::warnings() const {
  return impl_->warnings;
}
int GgufFile::fd() const { return impl_->fd.get(); }

const KeyValue* GgufFile::Find(std::string_view key) const {
  const auto i = impl_->keys.Find(key);
  return i ? &impl_->parsed.metadata[*i] : nullptr;
}

const TensorInfo* GgufFile::FindTensor(std::string_view name) const {
  const auto i = impl_->names.Find(name);
  return i ? &impl_->parsed.tensors[*i] : nullptr;
}

void GgufFile::Read(const TensorInfo& t, uint64_t begin,
                    std::span<uint8_t> out) const {
  const auto fail = [&](uint64_t at, const std::string& reason) {
    throw Error(impl_->path, static_cast<int64_t>(at), Tensor(t.name), reason);
  };
  if (!RangeFits(begin, out.size(), t.bytes)) {
    fail(t.offset, "bytes [" + std::to_string(begin) + ", +" +
                       std::to_string(out.size()) + ") lie outside its " +
                       Count(t.bytes, "byte"));
  }
  const uint64_t at = t.offset + begin;
  size_t got = 0;
  if (const auto error = ReadAt(impl_->fd.get(), at, out, &got)) {
    fail(at, "cannot read: " + ErrorText(error));
  }
  if (got < out.size()) {
    fail(at + got, "file changed while reading: it ends here, but had " +
                       BytesText(impl_->size) + " when opened");
  }
}

void GgufFile::WillRead(const TensorInfo& t, uint64_t begin,
                        uint64_t bytes) const {
  if (!RangeFits(begin, bytes, t.bytes)) return;
  WillReadAt(impl_->fd.get(), t.offset + begin, bytes);
}

std::span<const uint8_t> GgufFile::Map(const TensorInfo& t) const {
  if (t.bytes == 0) return {};
  const std::lock_guard lock(impl_->map_mutex);
  if (!impl_->map) {
    impl_->map = MapFile(impl_->fd.get(), impl_->size);
    if (!impl_->map) {
      throw Error(impl_->path, Error::kNoOffset, "",
                  "cannot map: " + ErrorText(LastError()));
    }
  }
  return {impl_->map + t.offset, t.bytes};
}

void GgufFile::CheckUnchanged() const {
  FileStatus now;
  if (const auto error = StatusOf(impl_->fd.get(), &now)) {
    throw Error(impl_->path, Error::kNoOffset, "",
                "cannot check the file again: " + ErrorText(error));
  }
  if (now != impl_->status) {
    throw Error(
        impl_->path, Error::kNoOffset, "",
        "file changed while reading; start again when nothing writes to "
        "it any more");
  }
}

}  // namespace dequant

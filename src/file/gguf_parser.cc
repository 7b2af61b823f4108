// GGUF, little-endian, versions 2 and 3:
//
//   "GGUF"  u32 version  u64 tensors  u64 entries
//   entries * { string key, u32 value type, value }
//   tensors * { string name, u32 rank, u64 dims[rank] (innermost first),
//               u32 ggml type, u64 offset into the data }
//   padding to `general.alignment` (32), then the data
//
// A string is a u64 length and bytes; an array a u32 element type, a u64 count
// and elements. A number from the file is compared with what is left of the
// file before it sizes, indexes or multiplies anything.
#include "src/file/gguf_parser.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "src/file/checked.h"
#include "src/file/gguf_value.h"
#include "src/file/io.h"
#include "src/file/text.h"

namespace dequant {
namespace {

// Where the fields of the header stand.
constexpr uint64_t kVersionAt = 4, kTensorsAt = 8, kEntriesAt = 16;
constexpr uint64_t kHeaderBytes = 24;
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;       // 1-byte key, a bool
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;  // 1-byte name, rank 0
constexpr uint64_t kMaxNameBytes = 65535;
constexpr uint32_t kMaxRank = 8;
constexpr int kMaxNesting = 8;
constexpr uint32_t kMaxAlignment = 1 << 20;
// A file may be sparse: what it claims costs it nothing, but us memory.
constexpr uint64_t kMaxMetadata = uint64_t{1} << 30;

std::string_view Text(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The fewest bytes that a value can take.
uint64_t MinBytes(KvType t) {
  return t == KvType::kString  ? 8
         : t == KvType::kArray ? 4 + 8
                               : ScalarBytes(t);
}

/// What a file is whose first bytes are not "GGUF".
std::string DescribeMagic(std::string_view head, uint64_t size) {
  const auto starts = [&](std::string_view s) { return head.starts_with(s); };
  if (starts("FUGG")) {
    return "is a big-endian GGUF file (magic FUGG); only little-endian files "
           "are "
           "read: convert it with gguf_convert_endian.py of the gguf package";
  }
  for (const std::string_view old :
       {"lmgg", "ggml", "fmgg", "ggmf", "tjgg", "ggjt", "algg", "ggla"}) {
    if (starts(old)) {
      return "is a model in the old " +
             std::string(
                 old[0] == 'g' ? old : std::string(old.rbegin(), old.rend())) +
             " format of before GGUF: convert it to GGUF with a llama.cpp of "
             "2023, or get a GGUF file of the model";
    }
  }
  if (starts("gguf")) {
    return "has the magic 'gguf' in lower case instead of 'GGUF': the file is "
           "damaged";
  }
  if (starts("PK\x03\x04")) {
    return "is a ZIP archive, perhaps a PyTorch checkpoint, not GGUF";
  }
  if (starts("version https://git-lfs")) {
    return "is a Git LFS pointer, not the model: run `git lfs pull`";
  }
  if (starts("\xEF\xBB\xBF")) {
    return "starts with a UTF-8 byte order mark: a text tool has rewritten the "
           "file; download it again";
  }
  if (starts("\x1F\x8B") || starts("\x28\xB5\x2F\xFD") ||
      starts("\xFD"
             "7zXZ")) {
    return "is compressed: unpack it first";
  }
  std::string_view text = head;
  while (!text.empty() && std::strchr(" \t\r\n", text[0]))
    text.remove_prefix(1);
  if (text.starts_with("<")) {
    return "is an HTML or XML page, not a model: the download link needs a "
           "login "
           "or has moved";
  }
  if (head.size() > 8 && head[8] == '{' &&
      Load<uint64_t>(reinterpret_cast<const uint8_t*>(head.data())) <= size) {
    return "is a safetensors file, not GGUF: its tensors are dense already";
  }
  return "is not a GGUF file: it starts with '" + Escape(head.substr(0, 4)) +
         "' instead of 'GGUF'";
}

/// The front of a file in private memory, filled as parsing asks for it.
class Front {
 public:
  Front(const std::string& path, int fd, uint64_t size)
      : path_(path), fd_(fd), size_(size) {}

  const uint8_t* data() const { return data_.get(); }

  /// Makes bytes [0, end) available; `end` is at most the size of the file.
  void Fill(uint64_t end) {
    if (end <= filled_) return;
    constexpr uint64_t kLeast = 256 << 10, kMost = 4 << 20;
    const uint64_t step = std::clamp(filled_, kLeast, kMost);
    const uint64_t target = std::min(size_, std::max(end, filled_ + step));
    Resize(target);
    size_t got = 0;
    if (const auto error = ReadAt(
            fd_, filled_, {data_.get() + filled_, target - filled_}, &got)) {
      throw Error(path_, static_cast<int64_t>(filled_), "",
                  "cannot read: " + ErrorText(error));
    }
    if (got < target - filled_) {
      throw Error(path_, static_cast<int64_t>(filled_ + got), "",
                  "file changed while reading: it ends here, but had " +
                      BytesText(size_) + " when opened");
    }
    filled_ = target;
  }

  /// Gives back what lies behind `end` and hands over the rest.
  std::unique_ptr<uint8_t[], FreeBytes> Release(uint64_t end) {
    if (end > 0) Resize(end);
    return std::move(data_);
  }

 private:
  void Resize(uint64_t bytes) {
    // realloc moves pages, not bytes, once the block is large.
    auto* p = static_cast<uint8_t*>(std::realloc(data_.get(), bytes));
    if (!p) throw std::bad_alloc();
    static_cast<void>(data_.release());
    data_.reset(p);
  }

  const std::string& path_;
  int fd_;
  uint64_t size_;
  uint64_t filled_ = 0;
  std::unique_ptr<uint8_t[], FreeBytes> data_;
};

/// Reads the front of the file once, from its first byte to the end of the
/// tensor table.
class Parser {
 public:
  Parser(const std::string& path, int fd, uint64_t size)
      : path_(path), size_(size), front_(path, fd, size) {}

  ParsedGguf Parse() {
    const uint64_t tensors = Header();
    for (uint64_t i = 0; i < entries_; ++i) Entry();
    const uint64_t entries_end = pos_;
    subject_ = Subject::kNone;
    CheckCount(kTensorsAt, tensors, kMinTensorBytes, "the tensor count");
    for (uint64_t i = 0; i < tensors; ++i) TensorRow();
    out_.end = pos_;
    MakeViews(entries_end);
    return std::move(out_);
  }

 private:
  enum class Subject { kNone, kKey, kTensor };

  /// While parsing, the bytes may move; now they stay where they are.
  void MakeViews(uint64_t entries_end) {
    out_.bytes = front_.Release(pos_);
    const uint8_t* bytes = out_.bytes.get();
    for (size_t i = 0; i < out_.metadata.size(); ++i) {
      KeyValue& kv = out_.metadata[i];
      const bool last = i + 1 == out_.metadata.size();
      const uint64_t end = last ? entries_end : out_.metadata[i + 1].offset;
      kv.file = path_;
      kv.key = StringAt(bytes, kv.offset);
      uint64_t value = kv.offset + 8 + kv.key.size() + 4;
      if (kv.type == KvType::kString) value += 8;
      if (kv.type == KvType::kArray) value += 4 + 8;
      kv.bytes = {bytes + value, end - value};
    }
    for (TensorInfo& t : out_.tensors) t.name = StringAt(bytes, t.table_offset);
  }

  static std::string_view StringAt(const uint8_t* bytes, uint64_t offset) {
    return {reinterpret_cast<const char*>(bytes + offset + 8),
            Load<uint64_t>(bytes + offset)};
  }

  [[noreturn]] void Fail(uint64_t offset, std::string reason) const {
    std::string subject;
    if (subject_ != Subject::kNone) {
      const auto name = StringAt(front_.data(), subject_offset_);
      subject = subject_ == Subject::kKey ? Key(name) : Tensor(name);
    }
    throw Error(path_, static_cast<int64_t>(offset), std::move(subject),
                std::move(reason));
  }

  uint64_t left() const { return size_ - pos_; }

  /// Bytes [pos, pos + n) of the file, in memory.
  const uint8_t* Need(uint64_t n, const char* what) {
    if (n > left()) {
      Fail(pos_, "the file is truncated: " + std::string(what) + " takes " +
                     Count(n, "byte") + ", " + std::to_string(left()) +
                     " are left; download it again");
    }
    if (n > kMaxMetadata - pos_) {
      Fail(pos_, "the metadata takes more than " + BytesText(kMaxMetadata));
    }
    front_.Fill(pos_ + n);
    return front_.data() + pos_;
  }

  template <class T>
  T Get(const char* what) {
    const T v = Load<T>(Need(sizeof(T), what));
    pos_ += sizeof(T);
    return v;
  }

  /// A count of things that each take at least `min_bytes` of what is left.
  uint64_t GetCount(uint64_t min_bytes, const char* what) {
    const uint64_t at = pos_;
    const auto n = Get<uint64_t>(what);
    CheckCount(at, n, min_bytes, what);
    return n;
  }

  void CheckCount(uint64_t at, uint64_t n, uint64_t min_bytes,
                  const char* what) const {
    if (n > left() / min_bytes) {
      Fail(at, std::string(what) + " is " + std::to_string(n) + ", but the " +
                   Count(left(), "byte") +
                   " left in the file can hold at most " +
                   std::to_string(left() / min_bytes) +
                   ": the file is truncated or damaged; download it again");
    }
  }

  uint64_t Header() {
    if (size_ == 0) Fail(0, "the file is empty; download it again");
    front_.Fill(std::min<uint64_t>(size_, 64));
    const std::string_view head(reinterpret_cast<const char*>(front_.data()),
                                std::min<uint64_t>(size_, 64));
    if (!head.starts_with("GGUF")) {
      if (std::string_view("GGUF").starts_with(head)) {
        Fail(0, "the file is truncated: it has " + Count(size_, "byte") +
                    ", a GGUF header takes " + std::to_string(kHeaderBytes) +
                    "; download it again");
      }
      Fail(0, DescribeMagic(head, size_));
    }
    pos_ = kVersionAt;
    const uint32_t version = out_.version = Get<uint32_t>("the version");
    if (version != 2 && version != 3) {
      if (version == 1) {
        Fail(kVersionAt,
             "is GGUF version 1, of August 2023; versions 2 and 3 are read: "
             "get a newer file of the model");
      }
      if (version != 0 && __builtin_bswap32(version) <= 0xFF) {
        Fail(kVersionAt,
             "is a big-endian GGUF file (version " + std::to_string(version) +
                 "); only little-endian files are read: convert it with "
                 "gguf_convert_endian.py of the gguf package");
      }
      Fail(kVersionAt,
           "is GGUF version " + std::to_string(version) +
               "; versions 2 and 3 are read" +
               (version > 3 ? ": a newer dequant may read it" : ""));
    }
    const uint64_t n = Get<uint64_t>("the tensor count");
    entries_ = Get<uint64_t>("the metadata count");
    CheckCount(kTensorsAt, n, kMinTensorBytes, "the tensor count");
    CheckCount(kEntriesAt, entries_, kMinEntryBytes, "the metadata count");
    return n;
  }

  /// A key or a tensor's name; from here on errors speak of it.
  std::string_view GetName(Subject subject) {
    const bool is_key = subject == Subject::kKey;
    const std::string_view what = is_key ? "the key" : "the tensor name";
    const uint64_t at = pos_;
    const uint64_t n =
        GetCount(1, is_key ? "the key length" : "the tensor name length");
    const auto fail = [&](uint64_t offset, std::string_view reason) {
      Fail(offset, std::string(what) + std::string(reason));
    };
    if (n == 0) fail(at, " is empty");
    if (n > kMaxNameBytes) {
      fail(at, " has " + std::to_string(n) + " bytes; at most " +
                   std::to_string(kMaxNameBytes) + " are allowed");
    }
    const std::string_view name = Text({Need(n, what.data()), n});
    pos_ += n;
    subject_ = subject;
    subject_offset_ = at;
    if (const size_t bad = FindInvalidUtf8(name); bad != name.npos) {
      fail(at + 8 + bad, " is not valid UTF-8");
    }
    if (const size_t bad = name.find('\0'); bad != name.npos) {
      fail(at + 8 + bad, " contains a NUL byte");
    }
    return name;
  }

  KvType GetValueType(const char* what) {
    const uint64_t at = pos_;
    const auto t = Get<uint32_t>(what);
    if (t >= kKvTypes) {
      Fail(at, std::string(what) + " " + std::to_string(t) +
                   " does not exist; types are 0 to 12");
    }
    return static_cast<KvType>(t);
  }

  void Entry() {
    subject_ = Subject::kNone;
    KeyValue kv{};
    kv.offset = pos_;
    // The view is good until the next byte is asked for.
    const bool is_alignment = GetName(Subject::kKey) == "general.alignment";
    const uint64_t type_at = pos_;
    kv.type = kv.element_type = GetValueType("value type");
    kv.count = 1;
    if (is_alignment) {
      Alignment(type_at, kv.type);
    } else if (kv.type == KvType::kArray) {
      kv.element_type =
          static_cast<KvType>(Load<uint32_t>(Need(12, "an array")));
      kv.count = Load<uint64_t>(front_.data() + pos_ + 4);
      Array(1);
    } else {
      Value(kv.type, 0);
    }
    out_.metadata.push_back(kv);
  }

  void Alignment(uint64_t type_at, KvType type) {
    if (type != KvType::kUint32) {
      Fail(type_at,
           "is of type " + std::string(Name(type)) + ", must be uint32");
    }
    const uint64_t at = pos_;
    const uint32_t alignment = out_.alignment = Get<uint32_t>("the alignment");
    if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
      Fail(at, "is " + std::to_string(alignment) +
                   ", must be a power of two up to " +
                   std::to_string(kMaxAlignment));
    }
  }

  void Value(KvType type, int depth) {
    if (type == KvType::kArray) {
      Array(depth + 1);
    } else if (type == KvType::kString) {
      const uint64_t n = GetCount(1, "a string's length");
      Need(n, "a string");
      pos_ += n;
    } else {
      Scalars(type, 1);
    }
  }

  void Scalars(KvType type, uint64_t count) {
    const uint64_t n = count * ScalarBytes(type);  // count was checked: no wrap
    const uint8_t* p = Need(n, "the value");
    if (type == KvType::kBool) {
      const uint8_t* bad =
          std::find_if(p, p + n, [](uint8_t b) { return b > 1; });
      if (bad != p + n) {
        Fail(pos_ + static_cast<uint64_t>(bad - p),
             "a bool is " + std::to_string(*bad) + ", must be 0 or 1");
      }
    }
    pos_ += n;
  }

  void Array(int depth) {
    if (depth > kMaxNesting) {
      Fail(pos_, "arrays are nested more than " + std::to_string(kMaxNesting) +
                     " deep");
    }
    const KvType type = GetValueType("array element type");
    const uint64_t n = GetCount(MinBytes(type), "the array's length");
    if (ScalarBytes(type) != 0) {
      Scalars(type, n);
    } else {
      for (uint64_t i = 0; i < n; ++i) Value(type, depth);
    }
  }

  void TensorRow() {
    subject_ = Subject::kNone;
    TensorInfo t{};
    t.table_offset = pos_;
    GetName(Subject::kTensor);

    const uint64_t rank_at = pos_;
    const auto rank = Get<uint32_t>("the number of dimensions");
    if (rank > kMaxRank) {
      Fail(rank_at, "has " + std::to_string(rank) + " dimensions; at most " +
                        std::to_string(kMaxRank) + " are allowed");
    }
    const uint64_t dims_at = pos_;
    t.dims.resize(rank);
    for (uint64_t& d : t.dims) d = Get<uint64_t>("a dimension");

    const uint64_t type_at = pos_;
    t.type_id = static_cast<int32_t>(Get<uint32_t>("the tensor type"));
    t.type = FindType(t.type_id);

    const auto elements = ElementCount(t.dims);
    if (!elements) {
      Fail(dims_at, "dimensions " + ShapeText(t.dims) +
                        " make more than 2^63 - 1 elements");
    }
    t.elements = *elements;
    if (t.type) SetBytes(t, dims_at, type_at);
    t.offset = Get<uint64_t>("the tensor offset");
    out_.tensors.push_back(std::move(t));
  }

  void SetBytes(TensorInfo& t, uint64_t dims_at, uint64_t type_at) const {
    const auto block = static_cast<uint64_t>(t.type->block_elements);
    const uint64_t row = t.dims.empty() ? 1 : t.dims[0];
    if (row % block != 0) {
      Fail(t.dims.empty() ? type_at : dims_at,
           "a row of " + Count(row, "element") + " is no multiple of the " +
               std::to_string(block) + " of a " + std::string(t.type->name) +
               " block");
    }
    const auto bytes = CheckedMul(t.elements / block,
                                  static_cast<uint64_t>(t.type->block_bytes));
    if (!bytes) {
      Fail(dims_at, "dimensions " + ShapeText(t.dims) +
                        " make more than 2^63 - 1 bytes of " +
                        std::string(t.type->name));
    }
    t.bytes = *bytes;
  }

  const std::string& path_;
  const uint64_t size_;
  Front front_;
  uint64_t pos_ = 0;
  uint64_t entries_ = 0;
  ParsedGguf out_;
  Subject subject_ = Subject::kNone;
  uint64_t subject_offset_ = 0;
};

}  // namespace

ParsedGguf ParseGguf(const std::string& path, int fd, uint64_t size) {
  return Parser(path, fd, size).Parse();
}

}  // namespace dequant

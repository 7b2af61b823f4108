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
#include "dequant/gguf.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <optional>

#include "src/file/checked.h"
#include "src/file/io.h"
#include "src/file/name_index.h"
#include "src/file/text.h"

namespace dequant {
namespace {

static_assert(std::endian::native == std::endian::little,
              "metadata and blocks are used as they stand in the file");

constexpr uint64_t kHeaderBytes = 24;
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;       // 1-byte key, a bool
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;  // 1-byte name, rank 0
constexpr uint64_t kMaxNameBytes = 65535;
constexpr uint32_t kMaxRank = 8;
constexpr int kMaxNesting = 8;
constexpr uint32_t kDefaultAlignment = 32;
constexpr uint32_t kMaxAlignment = 1 << 20;
// A file may be sparse: what it claims costs it nothing, but us memory.
constexpr uint64_t kMaxMetadata = uint64_t{1} << 30;

template <class T>
T Load(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}

std::string_view Text(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Bytes of a scalar; 0 for strings, arrays and types that do not exist.
uint64_t ScalarBytes(KvType t) {
  switch (t) {
    case KvType::kUint8:
    case KvType::kInt8:
    case KvType::kBool:
      return 1;
    case KvType::kUint16:
    case KvType::kInt16:
      return 2;
    case KvType::kUint32:
    case KvType::kInt32:
    case KvType::kFloat32:
      return 4;
    case KvType::kUint64:
    case KvType::kInt64:
    case KvType::kFloat64:
      return 8;
    case KvType::kString:
    case KvType::kArray:
      break;
  }
  return 0;
}

/// The fewest bytes that a value can take.
uint64_t MinBytes(KvType t) {
  return t == KvType::kString  ? 8
         : t == KvType::kArray ? 4 + 8
                               : ScalarBytes(t);
}

constexpr uint32_t kKvTypes = 13;

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

std::string_view Name(KvType t) {
  constexpr std::string_view kNames[kKvTypes] = {
      "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
      "bool",  "string", "array",  "uint64", "int64",  "float64"};
  const auto i = static_cast<uint32_t>(t);
  return i < kKvTypes ? kNames[i] : "?";
}

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

// ---------------------------------------------------------------------------
// Values

namespace {

[[noreturn]] void WrongType(const KeyValue& kv, const char* wanted) {
  std::string is(Name(kv.type));
  if (kv.type == KvType::kArray)
    is += " of " + std::string(Name(kv.element_type));
  throw Error(std::string(kv.file), static_cast<int64_t>(kv.offset),
              Key(kv.key), "is of type " + is + ", not " + wanted);
}

const uint8_t* Element(const KeyValue& kv, uint64_t index, const char* wanted) {
  const uint64_t size = ScalarBytes(kv.element_type);
  if (size == 0) WrongType(kv, wanted);
  if (index >= kv.count) {
    throw Error(std::string(kv.file), static_cast<int64_t>(kv.offset),
                Key(kv.key),
                "has " + Count(kv.count, "element") + ", none with index " +
                    std::to_string(index));
  }
  return kv.bytes.data() + index * size;
}

[[noreturn]] void OutOfRange(const KeyValue& kv, std::string reason) {
  throw Error(std::string(kv.file), static_cast<int64_t>(kv.offset),
              Key(kv.key), std::move(reason));
}

/// An integer or bool, widened; `is_negative` tells how to read the bits.
uint64_t Integer(const KeyValue& kv, uint64_t index, bool* is_negative) {
  const uint8_t* p = Element(kv, index, "an integer");
  int64_t s = 0;
  switch (kv.element_type) {
    case KvType::kUint8:
    case KvType::kBool:
      return *p;
    case KvType::kUint16:
      return Load<uint16_t>(p);
    case KvType::kUint32:
      return Load<uint32_t>(p);
    case KvType::kUint64:
      return Load<uint64_t>(p);
    case KvType::kInt8:
      s = Load<int8_t>(p);
      break;
    case KvType::kInt16:
      s = Load<int16_t>(p);
      break;
    case KvType::kInt32:
      s = Load<int32_t>(p);
      break;
    case KvType::kInt64:
      s = Load<int64_t>(p);
      break;
    default:
      WrongType(kv, "an integer");
  }
  *is_negative = s < 0;
  return static_cast<uint64_t>(s);
}

std::string NumberText(double v, bool single) {
  char text[64];
  const auto r =
      single ? std::to_chars(text, text + sizeof(text), static_cast<float>(v))
             : std::to_chars(text, text + sizeof(text), v);
  return std::string(text, r.ptr);
}

/// Appends the text of a value at `p` and returns the position after it. What
/// is beyond `max_elements` of an array is walked over in silence.
const uint8_t* Append(std::string* out, KvType type, const uint8_t* p,
                      size_t max_elements) {
  if (type == KvType::kString) {
    const auto n = Load<uint64_t>(p);
    if (out)
      *out += "\"" + Escape({reinterpret_cast<const char*>(p + 8), n}) + "\"";
    return p + 8 + n;
  }
  if (type == KvType::kArray) {
    const auto element = static_cast<KvType>(Load<uint32_t>(p));
    const auto count = Load<uint64_t>(p + 4);
    p += 12;
    if (out) *out += '[';
    for (uint64_t i = 0; i < count; ++i) {
      std::string* to = i < max_elements ? out : nullptr;
      if (to && i > 0) *to += ", ";
      p = Append(to, element, p, max_elements / 2);
    }
    if (out && count > max_elements) {
      *out += ", ... " + std::to_string(count) + " in all";
    }
    if (out) *out += ']';
    return p;
  }
  const uint64_t size = ScalarBytes(type);
  if (out) {
    const KeyValue one{"", "", type, type, 1, {p, size}, 0};
    if (type == KvType::kBool) {
      *out += *p ? "true" : "false";
    } else if (type == KvType::kFloat32 || type == KvType::kFloat64) {
      *out += NumberText(one.AsFloat(), type == KvType::kFloat32);
    } else {
      bool negative = false;
      const uint64_t bits = Integer(one, 0, &negative);
      *out += negative ? std::to_string(static_cast<int64_t>(bits))
                       : std::to_string(bits);
    }
  }
  return p + size;
}

}  // namespace

bool KeyValue::IsInteger() const {
  return ScalarBytes(element_type) != 0 && element_type != KvType::kFloat32 &&
         element_type != KvType::kFloat64;
}

uint64_t KeyValue::AsUint(uint64_t index) const {
  bool negative = false;
  const uint64_t bits = Integer(*this, index, &negative);
  if (negative) {
    OutOfRange(*this,
               "is negative: " + std::to_string(static_cast<int64_t>(bits)));
  }
  return bits;
}

int64_t KeyValue::AsInt(uint64_t index) const {
  bool negative = false;
  const uint64_t bits = Integer(*this, index, &negative);
  if (!negative && bits > kMaxSize) {
    OutOfRange(*this, "is too large: " + std::to_string(bits));
  }
  return static_cast<int64_t>(bits);
}

double KeyValue::AsFloat(uint64_t index) const {
  const uint8_t* p = Element(*this, index, "a number");
  if (element_type == KvType::kFloat32) return Load<float>(p);
  if (element_type == KvType::kFloat64) return Load<double>(p);
  bool negative = false;
  const uint64_t bits = Integer(*this, index, &negative);
  return negative ? static_cast<double>(static_cast<int64_t>(bits))
                  : static_cast<double>(bits);
}

std::string_view KeyValue::AsString() const {
  if (type != KvType::kString) WrongType(*this, "a string");
  return Text(bytes);
}

std::vector<std::string_view> KeyValue::AsStrings() const {
  if (type != KvType::kArray || element_type != KvType::kString) {
    WrongType(*this, "an array of strings");
  }
  std::vector<std::string_view> out;
  out.reserve(count);
  const uint8_t* p = bytes.data();
  for (uint64_t i = 0; i < count; ++i) {
    const auto n = Load<uint64_t>(p);
    out.push_back({reinterpret_cast<const char*>(p + 8), n});
    p += 8 + n;
  }
  return out;
}

std::string KeyValue::ToString(size_t max_elements) const {
  std::string out;
  // Strings and arrays are stored right behind their lengths.
  const size_t head = type == KvType::kString  ? 8
                      : type == KvType::kArray ? 12
                                               : 0;
  Append(&out, type, bytes.data() - head, max_elements);
  return out;
}

// ---------------------------------------------------------------------------
// The file

namespace {

struct Free {
  void operator()(uint8_t* p) const { std::free(p); }
};

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
    const int64_t got =
        ReadAt(fd_, filled_, {data_.get() + filled_, target - filled_});
    if (got < 0) {
      throw Error(path_, static_cast<int64_t>(filled_), "",
                  "cannot read: " + ErrnoText(static_cast<int>(-got)));
    }
    if (static_cast<uint64_t>(got) < target - filled_) {
      throw Error(path_, static_cast<int64_t>(filled_) + got, "",
                  "file changed while reading: it ends here, but had " +
                      BytesText(size_) + " when opened");
    }
    filled_ = target;
  }

  /// Gives back what lies behind `end` and hands over the rest.
  std::unique_ptr<uint8_t[], Free> Release(uint64_t end) {
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
  std::unique_ptr<uint8_t[], Free> data_;
};

}  // namespace

struct GgufFile::Impl {
  std::string path;
  Fd fd;
  struct stat status = {};
  uint64_t size = 0;
  uint32_t version = 0;
  uint64_t alignment = kDefaultAlignment;
  std::unique_ptr<uint8_t[], Free> front;  // what keys, values and names view
  std::vector<KeyValue> metadata;
  std::vector<TensorInfo> tensors;
  NameIndex keys, names;
  std::vector<std::string> warnings;

  std::mutex map_mutex;
  const uint8_t* map = nullptr;

  ~Impl() {
    if (map) ::munmap(const_cast<uint8_t*>(map), size);
  }
};

namespace {

/// Reads the front of the file once, from its first byte to the end of the
/// tensor table.
class Parser {
 public:
  Parser(const std::string& path, int fd, uint64_t size)
      : path_(path), size_(size), front_(path, fd, size) {}

  void Parse() {
    const uint64_t tensors = Header();
    for (uint64_t i = 0; i < entries_; ++i) Entry();
    entries_end_ = pos_;
    subject_ = Subject::kNone;
    CheckTensorCount(tensors);
    for (uint64_t i = 0; i < tensors; ++i) TensorRow();
    subject_ = Subject::kNone;
  }

  uint32_t version = 0;
  uint32_t alignment = kDefaultAlignment;
  std::vector<KeyValue> metadata;
  std::vector<TensorInfo> tensors;  // `offset` still counts from the data

  uint64_t end() const { return pos_; }

  /// The bytes parsed, with every key, value and name a view of them.
  std::unique_ptr<uint8_t[], Free> Finish(std::string_view path) {
    auto bytes = front_.Release(pos_);
    for (size_t i = 0; i < metadata.size(); ++i) {
      KeyValue& kv = metadata[i];
      const uint64_t end =
          i + 1 < metadata.size() ? metadata[i + 1].offset : entries_end_;
      kv.file = path;
      kv.key = StringAt(bytes.get(), kv.offset);
      uint64_t value = kv.offset + 8 + kv.key.size() + 4;
      if (kv.type == KvType::kString) value += 8;
      if (kv.type == KvType::kArray) value += 4 + 8;
      kv.bytes = {bytes.get() + value, end - value};
    }
    for (TensorInfo& t : tensors)
      t.name = StringAt(bytes.get(), t.table_offset);
    return bytes;
  }

 private:
  enum class Subject { kNone, kKey, kTensor };

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
    constexpr uint64_t kMagicBytes = 4, kVersionAt = 4, kTensorsAt = 8;
    if (size_ == 0) Fail(0, "the file is empty; download it again");
    front_.Fill(std::min<uint64_t>(size_, 64));
    const std::string_view head(reinterpret_cast<const char*>(front_.data()),
                                std::min<uint64_t>(size_, 64));
    if (!head.starts_with("GGUF")) {
      if (std::string_view("GGUF").starts_with(head)) {
        Fail(0, "the file is truncated: it has " + Count(size_, "byte") +
                    ", a GGUF header takes 24; download it again");
      }
      Fail(0, DescribeMagic(head, size_));
    }
    pos_ = kMagicBytes;
    version = Get<uint32_t>("the version");
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
    CheckCount(kTensorsAt + 8, entries_, kMinEntryBytes, "the metadata count");
    static_assert(kTensorsAt + 16 == kHeaderBytes);
    return n;
  }

  void CheckTensorCount(uint64_t n) const {
    CheckCount(8, n, kMinTensorBytes, "the tensor count");
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
    metadata.push_back(kv);
  }

  void Alignment(uint64_t type_at, KvType type) {
    if (type != KvType::kUint32) {
      Fail(type_at,
           "is of type " + std::string(Name(type)) + ", must be uint32");
    }
    const uint64_t at = pos_;
    alignment = Get<uint32_t>("the alignment");
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
    tensors.push_back(std::move(t));
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
  uint64_t entries_end_ = 0;
  Subject subject_ = Subject::kNone;
  uint64_t subject_offset_ = 0;
};

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
  f.size = static_cast<uint64_t>(f.status.st_size);

  Parser parser(f.path, f.fd.get(), f.size);
  parser.Parse();
  f.version = parser.version;
  f.alignment = parser.alignment;
  f.front = parser.Finish(f.path);
  f.metadata = std::move(parser.metadata);
  f.tensors = std::move(parser.tensors);

  f.keys.Reserve(f.metadata.size());
  for (size_t i = 0; i < f.metadata.size(); ++i)
    f.keys.Add(f.metadata[i].key, i);
  if (const auto twice = f.keys.Build()) {
    const KeyValue& kv = f.metadata[twice->second];
    throw Error(path, static_cast<int64_t>(kv.offset), Key(kv.key),
                "occurs twice, first at byte " +
                    std::to_string(f.metadata[twice->first].offset));
  }
  f.names.Reserve(f.tensors.size());
  for (size_t i = 0; i < f.tensors.size(); ++i)
    f.names.Add(f.tensors[i].name, i);
  if (const auto twice = f.names.Build()) {
    const TensorInfo& t = f.tensors[twice->second];
    throw Error(path, static_cast<int64_t>(t.table_offset), Tensor(t.name),
                "occurs twice, first at byte " +
                    std::to_string(f.tensors[twice->first].table_offset));
  }
  WarnOfUnknownTypes(f.tensors, f.warnings);
  PlaceData(f.path, f.size, parser.end(), f.alignment, f.tensors, f.warnings);
  return GgufFile(std::move(impl));
}

const std::string& GgufFile::path() const { return impl_->path; }
uint32_t GgufFile::version() const { return impl_->version; }
uint64_t GgufFile::alignment() const { return impl_->alignment; }
uint64_t GgufFile::size() const { return impl_->size; }
const std::vector<KeyValue>& GgufFile::metadata() const {
  return impl_->metadata;
}
const std::vector<TensorInfo>& GgufFile::tensors() const {
  return impl_->tensors;
}
const std::vector<std::string>& GgufFile::warnings() const {
  return impl_->warnings;
}
int GgufFile::fd() const { return impl_->fd.get(); }

const KeyValue* GgufFile::Find(std::string_view key) const {
  const auto i = impl_->keys.Find(key);
  return i ? &impl_->metadata[*i] : nullptr;
}

const TensorInfo* GgufFile::FindTensor(std::string_view name) const {
  const auto i = impl_->names.Find(name);
  return i ? &impl_->tensors[*i] : nullptr;
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
  const int64_t got = ReadAt(impl_->fd.get(), at, out);
  if (got < 0) fail(at, "cannot read: " + ErrnoText(static_cast<int>(-got)));
  if (static_cast<uint64_t>(got) < out.size()) {
    fail(at + static_cast<uint64_t>(got),
         "file changed while reading: it ends here, but had " +
             BytesText(impl_->size) + " when opened");
  }
}

std::span<const uint8_t> GgufFile::Map(const TensorInfo& t) const {
  if (t.bytes == 0) return {};
  const std::lock_guard lock(impl_->map_mutex);
  if (!impl_->map) {
    void* p =
        ::mmap(nullptr, impl_->size, PROT_READ, MAP_SHARED, impl_->fd.get(), 0);
    if (p == MAP_FAILED) {
      throw Error(impl_->path, Error::kNoOffset, "",
                  "cannot map: " + ErrnoText(errno));
    }
    impl_->map = static_cast<const uint8_t*>(p);
  }
  return {impl_->map + t.offset, t.bytes};
}

void GgufFile::CheckUnchanged() const {
  struct stat now;
  if (::fstat(impl_->fd.get(), &now) != 0) {
    throw Error(impl_->path, Error::kNoOffset, "",
                "cannot check the file again: " + ErrnoText(errno));
  }
  const struct stat& then = impl_->status;
  if (now.st_size != then.st_size || now.st_ino != then.st_ino ||
      now.st_dev != then.st_dev || now.st_mtim.tv_sec != then.st_mtim.tv_sec ||
      now.st_mtim.tv_nsec != then.st_mtim.tv_nsec) {
    throw Error(
        impl_->path, Error::kNoOffset, "",
        "file changed while reading; start again when nothing writes to "
        "it any more");
  }
}

}  // namespace dequant

// Metadata values as numbers and as text. The parser has checked them: every
// length fits, every type exists.
#include "src/file/gguf_value.h"

#include <charconv>

#include "src/file/checked.h"
#include "src/file/text.h"

namespace dequant {

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

std::string_view Name(KvType t) {
  constexpr std::string_view kNames[kKvTypes] = {
      "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
      "bool",  "string", "array",  "uint64", "int64",  "float64"};
  const auto i = static_cast<uint32_t>(t);
  return i < kKvTypes ? kNames[i] : "?";
}

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
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
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

}  // namespace dequant

// GGUF files written field by field, so that a test can break any of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "dequant/gguf.h"

namespace dequant {

/// For std::filesystem, which takes chars in the code page of the system.
inline std::filesystem::path U8Path(std::string_view path) {
  return std::u8string(path.begin(), path.end());
}

/// In the message where there is no such file.
#ifdef _WIN32
inline constexpr char kNoSuchFile[] = "cannot open: ";
#else
inline constexpr char kNoSuchFile[] = "No such file";
#endif

/// A folder that is removed with its content.
class TempDir {
 public:
  TempDir() {
    std::random_device random;
    do {
      path_ = std::filesystem::temp_directory_path() /
              ("dequant_" + std::to_string(random()));
    } while (!std::filesystem::create_directory(path_));
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string operator/(std::string_view name) const {
    return path_.generic_string() + "/" + std::string(name);
  }
  /// The names in it, sorted.
  std::vector<std::string> List() const {
    std::vector<std::string> names;
    for (const auto& e : std::filesystem::directory_iterator(path_)) {
      names.push_back(e.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

inline void WriteFile(const std::string& path, std::string_view bytes) {
  // Truncating a file in place makes ext4 write it to the disk at once.
  std::filesystem::remove(path);
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out) throw std::runtime_error("cannot write " + path);
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
std::string Bytes(T v) {
  return std::string(reinterpret_cast<const char*>(&v), sizeof(T));
}
inline std::string Str(std::string_view s) {
  return Bytes<uint64_t>(s.size()) + std::string(s);
}

/// Keys and tensors in, the bytes of a file out. Build() notes where each field
/// lies: "version", "n_tensors", "n_kv"; for entry i "kvI", "kvI.key",
/// "kvI.type", "kvI.value"; for tensor i "tI", "tI.name", "tI.rank", "tI.dimJ",
/// "tI.type", "tI.offset", "tI.data"; "data".
class GgufBuilder {
 public:
  uint32_t version = 3;
  uint32_t alignment = 32;  // of the layout; the key is up to the test
  uint64_t gap = 0;         // before the first tensor's data
  bool pad_end = true;

  GgufBuilder& Kv(std::string key, KvType type, std::string value) {
    kvs_.push_back({std::move(key), static_cast<uint32_t>(type), value});
    return *this;
  }
  GgufBuilder& Kv(std::string key, std::string_view text) {
    return Kv(std::move(key), KvType::kString, Str(text));
  }
  GgufBuilder& Kv(std::string key, uint32_t v) {
    return Kv(std::move(key), KvType::kUint32, Bytes(v));
  }
  GgufBuilder& Kv(std::string key, uint16_t v) {
    return Kv(std::move(key), KvType::kUint16, Bytes(v));
  }
  template <class T>
  GgufBuilder& Array(std::string key, KvType type, std::vector<T> values) {
    return Kv(std::move(key), KvType::kArray, ArrayBytes(type, values));
  }
  /// The shape that a tensor really has, outermost first.
  GgufBuilder& OrigShape(std::string_view name, std::vector<int32_t> shape) {
    return Array("comfy.gguf.orig_shape." + std::string(name), KvType::kInt32,
                 std::move(shape));
  }

  template <class T>
  static std::string ArrayBytes(KvType type, const std::vector<T>& values) {
    std::string bytes =
        Bytes(static_cast<uint32_t>(type)) + Bytes<uint64_t>(values.size());
    for (const T& v : values) {
      if constexpr (std::is_same_v<T, std::string>) {
        bytes += Str(v);
      } else {
        bytes += Bytes(v);
      }
    }
    return bytes;
  }

  /// `dims` as in the file: innermost first.
  GgufBuilder& Tensor(std::string name, std::vector<uint64_t> dims,
                      uint32_t type, std::string data) {
    tensors_.push_back({std::move(name), std::move(dims), type, data});
    return *this;
  }
  /// With bytes that follow a pattern, as many as the type needs.
  GgufBuilder& Tensor(std::string name, std::vector<uint64_t> dims,
                      uint32_t type) {
    const TypeInfo* t = FindType(static_cast<int32_t>(type));
    uint64_t n = t ? static_cast<uint64_t>(t->block_bytes) : 32;
    for (const uint64_t d : dims) n *= d;
    if (t) n /= static_cast<uint64_t>(t->block_elements);
    std::string data(n, '\0');
    for (size_t i = 0; i < n; ++i) {
      data[i] = static_cast<char>((i * 7 + tensors_.size() * 31) & 0x3F);
    }
    return Tensor(std::move(name), std::move(dims), type, std::move(data));
  }

  std::string Build() {
    marks_.clear();
    std::string s = "GGUF";
    const auto mark = [&](const std::string& name) { marks_[name] = s.size(); };
    mark("version");
    s += Bytes(version);
    mark("n_tensors");
    s += Bytes<uint64_t>(tensors_.size());
    mark("n_kv");
    s += Bytes<uint64_t>(kvs_.size());
    for (size_t i = 0; i < kvs_.size(); ++i) {
      const std::string p = "kv" + std::to_string(i);
      mark(p);
      s += Bytes<uint64_t>(kvs_[i].key.size());
      mark(p + ".key");
      s += kvs_[i].key;
      mark(p + ".type");
      s += Bytes(kvs_[i].type);
      mark(p + ".value");
      s += kvs_[i].value;
    }
    mark("table");
    uint64_t offset = gap;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const Row& t = tensors_[i];
      const std::string p = "t" + std::to_string(i);
      mark(p);
      s += Bytes<uint64_t>(t.name.size());
      mark(p + ".name");
      s += t.name;
      mark(p + ".rank");
      s += Bytes<uint32_t>(t.dims.size());
      for (size_t j = 0; j < t.dims.size(); ++j) {
        mark(p + ".dim" + std::to_string(j));
        s += Bytes(t.dims[j]);
      }
      mark(p + ".type");
      s += Bytes(t.type);
      mark(p + ".offset");
      s += Bytes(offset);
      offset = Padded(offset + t.data.size());
    }
    if (!tensors_.empty()) {
      s.resize(Padded(s.size()));
      mark("data");
      s.resize(s.size() + gap);
      for (size_t i = 0; i < tensors_.size(); ++i) {
        mark("t" + std::to_string(i) + ".data");
        s += tensors_[i].data;
        if (pad_end || i + 1 < tensors_.size()) {
          s.resize(marks_["data"] + Padded(s.size() - marks_["data"]));
        }
      }
    }
    return s;
  }

  /// Where Build() put a field.
  uint64_t At(const std::string& mark) const { return marks_.at(mark); }

 private:
  struct Entry {
    std::string key;
    uint32_t type;
    std::string value;
  };
  struct Row {
    std::string name;
    std::vector<uint64_t> dims;
    uint32_t type;
    std::string data;
  };
  uint64_t Padded(uint64_t n) const {
    return (n + alignment - 1) / alignment * alignment;
  }

  std::vector<Entry> kvs_;
  std::vector<Row> tensors_;
  std::map<std::string, uint64_t> marks_;
};

/// Overwrites bytes of a file in memory.
template <class T>
std::string Patched(std::string file, uint64_t at, T v) {
  std::memcpy(file.data() + at, &v, sizeof(T));
  return file;
}

/// A small file with some of everything. Entry 4 is an array of strings, 5 one
/// of uint16; tensor 0 is Q8_0, 1 is F32, 2 is I8.
inline GgufBuilder Baseline() {
  GgufBuilder b;
  b.Kv("general.architecture", "test")
      .Kv("general.alignment", uint32_t{32})
      .Kv("test.flag", KvType::kBool, Bytes<uint8_t>(1))
      .Kv("test.float", KvType::kFloat32, Bytes(1.5f))
      .Array<std::string>("test.words", KvType::kString, {"one", "", "three"})
      .Array<uint16_t>("test.numbers", KvType::kUint16, {1, 2, 65535})
      .Tensor("quant.weight", {64, 3}, 8)
      .Tensor("plain.weight", {5, 2}, 0)
      .Tensor("bytes", {7}, 24);
  return b;
}

}  // namespace dequant

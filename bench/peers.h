// Other dequantizers, loaded at run time.
#pragma once

#include <cstdint>
#include <string>

#include "dequant/dequant.h"

namespace dequant::bench {

/// A library with the C ABI of dequant: this program's own, or another build.
struct Build {
  int (*run)(int32_t, const void*, int32_t, void*, int64_t, int);
  int64_t (*block_elements)(int32_t);
  int64_t (*block_bytes)(int32_t);
  const char* (*target)();

  bool Has(const TypeInfo& type) const {
    return block_elements(type.id) == type.block_elements &&
           block_bytes(type.id) == type.block_bytes;
  }
};
Build OwnBuild();
/// Ends the program with a message if `path` is not such a library.
Build LoadBuild(const std::string& path);

/// `n` elements at `src` to F32.
using ToFloatFn = void (*)(const void* src, float* dst, int64_t n);

/// The dequantizers of a libggml-base.
class Ggml {
 public:
  /// Ends the program with a message if `path` is no such library.
  explicit Ggml(const std::string& path);

  /// nullptr where that ggml does not know the type, or knows another layout.
  ToFloatFn Find(const TypeInfo& type) const;

  /// "" if the library does not tell.
  const std::string& version() const { return version_; }

 private:
  // The start of ggml's struct of that name in its ggml.h, up to to_float.
  struct ggml_type_traits {
    const char* type_name;
    int64_t blck_size;
    int64_t blck_size_interleave;
    size_t type_size;
    bool is_quantized;
    ToFloatFn to_float;
  };
  const ggml_type_traits* (*traits_)(int32_t type);
  std::string version_;
};

}  // namespace dequant::bench

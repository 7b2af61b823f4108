// blocks -> values: the types of GGUF and the call that dequantizes them.
//
// Numeric contract, the same bits on every target, thread count and split:
//  * F32 output equals ggml's scalar `to_float` for finite scales.
//  * F16 and BF16 output is that F32 value rounded once, to nearest even;
//    overflow gives Inf; subnormals are kept whatever the caller's FTZ and DAZ.
//  * NaN in, NaN out, as one canonical quiet NaN: F32 0x7FC00000, F16 0x7E00,
//    BF16 0x7FC0. Only a non-finite scale can make one.
//  * F32 to F32, F16 to F16, BF16 to BF16 are copied bit for bit.
//  * Any byte pattern is valid input. Exactly the given bytes are read and
//    written, not one more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dequant {

/// The types that values can be written as; the numbers are ggml's ids.
enum class DType : int32_t { kF32 = 0, kF16 = 1, kBF16 = 30 };

/// Bytes of one value: 4, 2 or 2.
constexpr size_t SizeOf(DType t) { return t == DType::kF32 ? 4 : 2; }
/// "F32", "F16" or "BF16".
constexpr std::string_view Name(DType t) {
  return t == DType::kF32 ? "F32" : t == DType::kF16 ? "F16" : "BF16";
}

enum class TypeKind {
  kBlock,   ///< quantized: blocks of several elements
  kFloat,   ///< F32, F16, BF16: converted on request
  kCopied,  ///< F64 and integers: only ever copied
};

/// One ggml tensor type.
struct TypeInfo {
  std::string_view name;   ///< as ggml and the gguf package spell it: "Q4_K"
  int32_t id;              ///< the number in the file
  int64_t block_elements;  ///< 1 for plain types
  int64_t block_bytes;
  TypeKind kind;

  double bits_per_weight() const {
    return 8.0 * static_cast<double>(block_bytes) /
           static_cast<double>(block_elements);
  }
};

/// Every known type, in the order of its id.
std::span<const TypeInfo> Types();

/// The type with that id or name (any case); nullptr if unknown.
const TypeInfo* FindType(int32_t id);
const TypeInfo* FindType(std::string_view name);

/// What can be wrong with a call of Dequantize; 0 is success.
enum class Status : int {
  kOk = 0,
  kUnknownType = -1,     ///< src_type is no ggml type that we know
  kNotConvertible = -2,  ///< F64 and integers are copied by the caller
  kBadOutput = -3,       ///< the output type is not F32, F16 or BF16
  kPartialBlock = -4,    ///< n is negative or no multiple of the block
  kNullPointer = -5,     ///< src or dst is null while n > 0
  kBadThreads = -6,      ///< threads is negative
  kBadTarget = -7,       ///< DEQUANT_TARGET names a target this CPU lacks
};
const char* ErrorString(Status s);

/// Dequantizes `n` elements of ggml type `src_type` at `src` (n /
/// block_elements blocks) to `n` values of type `out` at `dst`. Neither needs
/// any alignment; they may not overlap. (An output of 64 MiB and more, which is
/// written past the caches, is fastest if aligned to 64 bytes.) `threads`: 0
/// for all that OpenMP offers; small inputs stay on the calling thread whatever
/// it says.
Status Dequantize(int32_t src_type, const void* src, DType out, void* dst,
                  int64_t n, int threads = 0);

/// The Highway target in use, such as "AVX2": the best that this CPU has, or
/// the one that DEQUANT_TARGET names.
const char* Target();

/// The targets that were compiled and that this CPU can run, best first.
std::vector<std::string> Targets();

/// Forces a target by name for the whole process ("" for the best again).
/// Returns false and changes nothing if this CPU or build lacks it.
bool SetTarget(std::string_view name);

}  // namespace dequant

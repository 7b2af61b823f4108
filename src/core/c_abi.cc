#include "dequant/dequant.h"
#include "dequant/dequant_c.h"

using dequant::DType;
using dequant::FindType;
using dequant::Status;

int dequant_run(int32_t src_type, const void* src, int32_t dst_type, void* dst,
                int64_t n, int threads) {
  return static_cast<int>(dequant::Dequantize(
      src_type, src, static_cast<DType>(dst_type), dst, n, threads));
}

const char* dequant_error_string(int code) {
  return dequant::ErrorString(static_cast<Status>(code));
}

int64_t dequant_block_elements(int32_t type) {
  const auto* t = FindType(type);
  return t ? t->block_elements : 0;
}

int64_t dequant_block_bytes(int32_t type) {
  const auto* t = FindType(type);
  return t ? t->block_bytes : 0;
}

const char* dequant_type_name(int32_t type) {
  const auto* t = FindType(type);
  return t ? t->name.data() : nullptr;  // a literal: it ends with a NUL
}

const char* dequant_target(void) { return dequant::Target(); }

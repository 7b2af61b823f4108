/* The C ABI of dequant. Types are ggml ids. */
#ifndef DEQUANT_DEQUANT_C_H_
#define DEQUANT_DEQUANT_C_H_

#include <stdint.h>

#if defined(_WIN32)
#define DEQUANT_API __declspec(dllexport)
#else
#define DEQUANT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Dequantizes n elements, a multiple of the block of src_type. dst_type is 0
   (F32), 1 (F16) or 30 (BF16). threads 0: all. Returns 0, or < 0 for an error.
   src and dst may have any alignment and may not overlap; exactly n elements
   are read and written. */
DEQUANT_API int dequant_run(int32_t src_type, const void* src, int32_t dst_type,
                            void* dst, int64_t n, int threads);

/* What an error code of dequant_run means; never NULL. */
DEQUANT_API const char* dequant_error_string(int code);

/* Elements and bytes of one block; 0 for an unknown type. */
DEQUANT_API int64_t dequant_block_elements(int32_t type);
DEQUANT_API int64_t dequant_block_bytes(int32_t type);

/* "Q4_K"; NULL for an unknown type. */
DEQUANT_API const char* dequant_type_name(int32_t type);

/* The Highway target in use, such as "AVX2"; if DEQUANT_TARGET names one that
   this CPU lacks, a message that lists those it has. */
DEQUANT_API const char* dequant_target(void);

#ifdef __cplusplus
}
#endif

#endif /* DEQUANT_DEQUANT_C_H_ */

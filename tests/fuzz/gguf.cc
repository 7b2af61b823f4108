// Arbitrary bytes as a GGUF file: an Error or a table whose every range lies
// inside the file, never anything else.
#include "dequant/gguf.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int fd = memfd_create("fuzz.gguf", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(fd);
  if (ftruncate(fd, 0) != 0 ||
      pwrite(fd, data, size, 0) != static_cast<ssize_t>(size)) {
    std::abort();
  }
  try {
    const auto file = dequant::GgufFile::Open(path);
    for (const dequant::KeyValue& kv : file.metadata()) kv.ToString();
    for (const dequant::TensorInfo& t : file.tensors()) {
      if (t.offset > size || t.bytes > size - t.offset) std::abort();
      std::vector<uint8_t> bytes(t.bytes);
      file.Read(t, 0, bytes);
    }
  } catch (const dequant::Error& e) {
    if (std::string(e.what()).find('\n') != std::string::npos) std::abort();
  }
  return 0;
}

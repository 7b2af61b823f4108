#include "bench/peers.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "dequant/dequant_c.h"

namespace dequant::bench {
namespace {

void* Open(const std::string& path) {
  // A bare name would be looked up in the system's folders.
  const std::string file =
      path.find('/') == std::string::npos ? "./" + path : path;
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "dequant_bench: %s\n", dlerror());
    std::exit(2);
  }
  return library;
}

template <typename Fn>
void Look(void* library, const char* name, Fn* fn) {
  *fn = reinterpret_cast<Fn>(dlsym(library, name));
  if (*fn == nullptr) {
    std::fprintf(stderr, "dequant_bench: %s\n", dlerror());
    std::exit(2);
  }
}

}  // namespace

Build OwnBuild() {
  return {dequant_run, dequant_block_elements, dequant_block_bytes,
          dequant_target};
}

Build LoadBuild(const std::string& path) {
  void* library = Open(path);
  Build build;
  Look(library, "dequant_run", &build.run);
  Look(library, "dequant_block_elements", &build.block_elements);
  Look(library, "dequant_block_bytes", &build.block_bytes);
  Look(library, "dequant_target", &build.target);
  return build;
}

Ggml::Ggml(const std::string& path) {
  void* library = Open(path);
  Look(library, "ggml_get_type_traits", &traits_);
  if (void* version = dlsym(library, "ggml_version")) {
    version_ = reinterpret_cast<const char* (*)()>(version)();
  }
}

ToFloatFn Ggml::Find(const TypeInfo& type) const {
  // ggml aborts on a number that it does not know. F32 shows that the struct is
  // as declared here; F32 itself has no to_float.
  const ggml_type_traits* f32 = traits_(0);
  if (f32->blck_size != 1 || f32->type_size != 4 || f32->is_quantized) {
    std::fprintf(stderr, "dequant_bench: another ABI of ggml\n");
    std::exit(2);
  }
  const ggml_type_traits* t = traits_(type.id);
  if (t->blck_size != type.block_elements ||
      static_cast<int64_t>(t->type_size) != type.block_bytes) {
    return nullptr;
  }
  return t->to_float;
}

}  // namespace dequant::bench

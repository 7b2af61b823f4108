#include <dequant/dequant.h>
#include <dequant/error.h>
#include <dequant/gguf.h>

#include <iostream>

int main() {
  std::cout << dequant::Types().size() << " types, " << dequant::Target()
            << "\n";
  try {
    dequant::GgufFile::Open("missing.gguf");
  } catch (const dequant::Error& e) {
    std::cout << e.what() << "\n";
    return 0;
  }
  return 1;
}

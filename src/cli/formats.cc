// dequant formats: the types that can be read.
#include <cstdio>
#include <iostream>

#include "src/cli/cli.h"

namespace dequant::cli {
namespace {

const char* KindText(TypeKind k) {
  switch (k) {
    case TypeKind::kBlock:
      return "quantized";
    case TypeKind::kFloat:
      return "float";
    case TypeKind::kCopied:
      return "copied";
  }
  return "?";
}

int Run(bool markdown) {
  Table table({"format", "id", "elements", "bytes", "bits per weight", "kind"});
  for (const TypeInfo& t : Types()) {
    char bits[32];
    std::snprintf(bits, sizeof(bits), "%.4g", t.bits_per_weight());
    table.Add({std::string(t.name), std::to_string(t.id),
               std::to_string(t.block_elements), std::to_string(t.block_bytes),
               bits, KindText(t.kind)});
  }
  if (markdown) {
    table.PrintMarkdown(std::cout);
  } else {
    table.Print(std::cout);
  }
  return 0;
}

}  // namespace

void AddFormats(CLI::App& app, Command* command) {
  auto* sub = app.add_subcommand(
      "formats", "List the tensor types: name, id, block, bits per weight");
  auto markdown = std::make_shared<bool>(false);
  sub->add_flag("--markdown", *markdown, "As the table of the README");
  sub->footer(
      "Examples:\n"
      "  dequant formats\n"
      "  dequant formats --markdown");
  sub->callback([=] { *command = [=] { return Run(*markdown); }; });
}

}  // namespace dequant::cli

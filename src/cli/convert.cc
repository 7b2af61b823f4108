// dequant convert: GGUF -> safetensors.
#include <cstdio>
#include <iostream>

#include "src/cli/cli.h"
#include "src/file/text.h"

namespace dequant::cli {
namespace {

struct Options {
  std::string in, out, dtype = "f16";
  ReferenceOptions reference;
  ConvertOptions convert;
  bool quiet = false, progress = false, json = false;
};

void PrintSummary(const Options& o, const ConvertSummary& s) {
  std::cout << Count(s.tensors, "tensor") << ": "
            << TypeCounts(s.tensors_per_type) << '\n';
  for (const std::string& line : s.shapes.Lines()) std::cout << line << '\n';
  if (!s.skipped.empty()) {
    std::cout << "skipped " << Count(s.skipped.size(), "tensor")
              << " of types that are not known\n";
  }
  char text[160];
  std::snprintf(
      text, sizeof(text), "%.2f s, %.2f GB/s of output, target %s, %s",
      s.seconds,
      s.seconds > 0 ? static_cast<double>(s.bytes_out) / s.seconds / 1e9 : 0.0,
      Target(), o.dtype.c_str());
  std::cout << BytesText(s.bytes_in) << " in, " << BytesText(s.bytes_out)
            << " out\n"
            << text << '\n';
  for (const std::string& path : s.outputs)
    std::cout << "wrote " << path << '\n';
}

void PrintSummaryJson(const ConvertSummary& s) {
  PrintJson({{"outputs", s.outputs},
             {"tensors", s.tensors},
             {"types", s.tensors_per_type},
             {"shapes", ToJson(s.shapes)},
             {"skipped", s.skipped},
             {"bytes_in", s.bytes_in},
             {"bytes_out", s.bytes_out},
             {"seconds", s.seconds},
             {"target", Target()},
             {"warnings", s.warnings}});
}

int Run(Options& o) {
  o.convert.dtype = o.dtype == "f32"    ? DType::kF32
                    : o.dtype == "bf16" ? DType::kBF16
                                        : DType::kF16;
  CatchStopSignals();
  o.convert.reference = o.reference.Load();
  ConvertSummary summary;
  {
    ProgressDisplay display(o.quiet, o.progress);
    o.convert.progress = display.Function();
    summary = Convert(o.in, o.out, o.convert);
  }
  PrintWarnings(o.in, summary.warnings);
  if (o.json) {
    PrintSummaryJson(summary);
  } else if (!o.quiet) {
    PrintSummary(o, summary);
  }
  return 0;
}

}  // namespace

void AddConvert(CLI::App& app, Command* command) {
  auto* sub = app.add_subcommand(
      "convert",
      "Write a GGUF model as safetensors, every tensor dense and in "
      "its true shape");
  auto o = std::make_shared<Options>();
  sub->add_option("IN.gguf", o->in,
                  "GGUF file, any shard of a set, or a folder with one model")
      ->required();
  sub->add_option("-o,--output", o->out, "The safetensors file to write")
      ->required();
  sub->add_option("--dtype", o->dtype, "Type of what was quantized")
      ->transform(CLI::IsMember({"f16", "bf16", "f32"}, CLI::ignore_case))
      ->capture_default_str();
  sub->add_flag(
      "--cast-all", o->convert.cast_all,
      "Cast plain F32, F16 and BF16 tensors too; integers are copied");
  AddThreads(*sub, &o->convert.threads);
  o->reference.AddTo(*sub);
  AddFilters(*sub, &o->convert.include, &o->convert.exclude);
  sub->add_option("--max-shard-size", o->convert.max_shard_size,
                  "Split the output: NAME-00001-of-0000N.safetensors and an "
                  "index; 5GB, 500MB, 2GiB, ...")
      ->transform(CLI::AsSizeValue(true));
  sub->add_flag("--force", o->convert.force, "Overwrite the output");
  AddOutput(*sub, &o->json, &o->progress, &o->quiet);
  sub->footer(
      "Examples:\n"
      "  dequant convert model-Q4_K_M.gguf -o model.safetensors\n"
      "  dequant convert model.gguf -o model.safetensors --dtype bf16 "
      "--cast-all\n"
      "  dequant convert unet.gguf -o unet.safetensors --like "
      "original.safetensors\n"
      "  dequant convert model-00001-of-00003.gguf -o out.safetensors "
      "--max-shard-size 5GB\n"
      "  dequant convert model.gguf -o layer0.safetensors --include "
      "'^blk\\.0\\.'");
  sub->callback([o, command] { *command = [o] { return Run(*o); }; });
}

}  // namespace dequant::cli

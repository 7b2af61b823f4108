// dequant convert: GGUF -> safetensors.
#include <cstdio>
#include <iostream>

#include "src/cli/cli.h"
#include "src/file/text.h"
#include "src/model/name_filter.h"

namespace dequant::cli {
namespace {

struct Options {
  std::string in, out, dtype = "f16";
  std::vector<std::string> dtype_for;
  bool no_fold = false;
  ReferenceOptions reference;
  ConvertOptions convert;
  bool quiet = false, progress = false, json = false;
};

std::optional<DType> ParseDType(const std::string& text) {
  const std::string lower = CLI::detail::to_lower(text);
  if (lower == "f32") return DType::kF32;
  if (lower == "f16") return DType::kF16;
  if (lower == "bf16") return DType::kBF16;
  return std::nullopt;
}

/// "REGEX=f32"; what stands before the last '=' is the expression.
DTypeRule ParseRule(const std::string& text) {
  const size_t at = text.rfind('=');
  const auto dtype =
      at == text.npos ? std::nullopt : ParseDType(text.substr(at + 1));
  if (!dtype) {
    throw CLI::ValidationError("'" + Escape(text) +
                               "' is not REGEX=f32, REGEX=f16 or REGEX=bf16");
  }
  return {text.substr(0, at), *dtype};
}

CLI::Validator IsRule() {
  return CLI::Validator(
      [](const std::string& text) -> std::string {
        try {
          const DTypeRules compiled({ParseRule(text)});
        } catch (const CLI::ValidationError& e) {
          return e.what();
        } catch (const Error& e) {
          return e.reason();
        }
        return "";
      },
      "REGEX=DTYPE");
}

void PrintSummary(const Options& o, const ConvertSummary& s) {
  std::cout << Count(s.tensors, "tensor") << ": "
            << TypeCounts(s.tensors_per_type) << '\n';
  for (const std::string& line : s.shapes.Lines()) std::cout << line << '\n';
  if (!s.skipped.empty()) {
    std::cout << "skipped " << Count(s.skipped.size(), "tensor")
              << " of types that are not known\n";
  }
  if (!s.folded.empty()) {
    std::cout << "multiplied scales into "
              << Count(s.folded.size(), "NVFP4 weight") << '\n';
  }
  if (!s.input_scales.empty()) {
    std::cout << "left alone " << Count(s.input_scales.size(), "scale")
              << " of inputs\n";
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
  auto folded = nlohmann::ordered_json::array();
  for (const auto& [weight, scale] : s.folded) {
    folded.push_back({{"weight", weight}, {"scale", scale}});
  }
  PrintJson({{"outputs", s.outputs},
             {"tensors", s.tensors},
             {"types", s.tensors_per_type},
             {"shapes", ToJson(s.shapes)},
             {"skipped", s.skipped},
             {"folded", std::move(folded)},
             {"input_scales", s.input_scales},
             {"bytes_in", s.bytes_in},
             {"bytes_out", s.bytes_out},
             {"seconds", s.seconds},
             {"target", Target()},
             {"warnings", s.warnings}});
}

int Run(Options& o) {
  o.convert.dtype = *ParseDType(o.dtype);  // checked by the parser
  for (const std::string& rule : o.dtype_for) {
    o.convert.dtype_for.push_back(ParseRule(rule));
  }
  o.convert.fold = !o.no_fold;
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
  sub->add_option("--dtype-for", o->dtype_for,
                  "Type of the tensors whose name contains a match, plain "
                  "floats too; may be repeated, the first match counts")
      ->check(IsRule())
      ->allow_extra_args(false);
  sub->add_flag("--no-fold", o->no_fold,
                "Keep the scales of NVFP4 weights (NAME.scale, "
                "NAME.weight.scale) apart instead of multiplying them in");
  AddThreads(*sub, &o->convert.threads);
  o->reference.AddTo(*sub);
  AddFilters(*sub, &o->convert.include, &o->convert.exclude);
  sub->add_option("--max-shard-size", o->convert.max_shard_size,
                  "Split the output: NAME-00001-of-0000N.safetensors and an "
                  "index; 5GB, 500MB, 2GiB, ...")
      ->transform(CLI::AsSizeValue(true));
  sub->add_flag("--force", o->convert.force, "Overwrite the output");
  sub->add_flag("--sync", o->convert.sync,
                "Wait until the output is on the disk; without it, as with cp, "
                "a power failure soon after may lose data");
  AddStrict(*sub, &o->convert.strict);
  AddOutput(*sub, &o->json, &o->progress, &o->quiet);
  sub->footer(
      "Examples:\n"
      "  dequant convert model-Q4_K_M.gguf -o model.safetensors\n"
      "  dequant convert model.gguf -o model.safetensors --dtype bf16 "
      "--cast-all\n"
      "  dequant convert model.gguf -o model.safetensors --dtype-for "
      "'norm|bias=f32'\n"
      "  dequant convert unet.gguf -o unet.safetensors --like "
      "original.safetensors\n"
      "  dequant convert model-00001-of-00003.gguf -o out.safetensors "
      "--max-shard-size 5GB\n"
      "  dequant convert model.gguf -o layer0.safetensors --include "
      "'^blk\\.0\\.'");
  sub->callback([o, command] { *command = [o] { return Run(*o); }; });
}

}  // namespace dequant::cli

// dequant verify: a GGUF model against a safetensors file.
#include <cmath>
#include <cstdio>
#include <iostream>

#include "src/cli/cli.h"
#include "src/file/text.h"

namespace dequant::cli {
namespace {

struct Options {
  std::string in, safetensors;
  ReferenceOptions reference;
  VerifyOptions verify;
  bool quiet = false, progress = false, json = false;
};

std::string Number(double v) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", v);
  return text;
}

std::string Note(const TensorCheck& c) {
  std::string note = c.not_compared;
  if (!c.same_shape()) {
    note += (note.empty() ? "" : "; ") + ShapeText(c.shape) + ", theirs " +
            ShapeText(c.theirs_shape);
  }
  if (c.rows_permuted) {
    note += (note.empty() ? "" : "; ") +
            std::string("rows look permuted (rotary Q/K order?)");
  }
  return note;
}

void PrintNames(const std::vector<std::string>& names, const char* what) {
  if (names.empty()) return;
  std::cout << Count(names.size(), "tensor") << ' ' << what << ':';
  constexpr size_t kNamed = 5;
  for (size_t i = 0; i < std::min(names.size(), kNamed); ++i) {
    std::cout << ' ' << Escape(names[i]);
  }
  std::cout << (names.size() > kNamed ? " ...\n" : "\n");
}

void PrintText(const VerifyReport& r) {
  Table table({"different", "of", "max error", "RMS error", "SNR dB",
               "NaN/theirs", "Inf/theirs", "types", "tensor", "note"});
  uint64_t differing = 0, shapes = 0;
  for (const TensorCheck& c : r.tensors) {
    if (c.identical()) continue;
    differing += c.different > 0 || !c.not_compared.empty();
    shapes += !c.same_shape();
    table.Add({std::to_string(c.different), std::to_string(c.elements),
               Number(c.max_error), Number(c.rms_error),
               c.different > 0 ? Number(c.snr_db) : "",
               std::to_string(c.nans) + "/" + std::to_string(c.theirs_nans),
               std::to_string(c.infs) + "/" + std::to_string(c.theirs_infs),
               c.type + " " + Escape(c.dtype), Escape(c.name), Note(c)});
  }
  if (r.identical < r.tensors.size()) {
    table.Print(std::cout);
    std::cout << '\n';
  }
  std::cout << r.identical << " of " << Count(r.tensors.size(), "tensor")
            << " identical to the last bit; " << differing
            << " with other values, " << shapes << " with another shape\n";
  if (shapes > 0) {
    std::cout << "shapes are compared with what the GGUF says; --like or "
                 "--shapes, as given to convert, corrects that\n";
  }
  PrintNames(r.missing, "missing in the safetensors file");
  PrintNames(r.extra, "only in the safetensors file");
  PrintNames(r.skipped, "of types that are not known");
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%.2f s", r.seconds);
  std::cout << (r.by_dequant ? "written by dequant: "
                             : "not written by dequant, taken as a reference: ")
            << (r.ok()         ? "ok"
                : r.by_dequant ? "NOT what this GGUF gives"
                               : "names or shapes disagree")
            << ", " << seconds << ", target " << Target() << '\n';
}

void PrintJsonReport(const VerifyReport& r) {
  using nlohmann::ordered_json;
  // JSON has no infinity: null.
  const auto finite = [](double v) {
    return std::isfinite(v) ? ordered_json(v) : ordered_json();
  };
  ordered_json json = {{"ok", r.ok()},
                       {"by_dequant", r.by_dequant},
                       {"identical", r.identical},
                       {"missing", r.missing},
                       {"extra", r.extra},
                       {"skipped", r.skipped},
                       {"seconds", r.seconds},
                       {"target", Target()},
                       {"tensors", ordered_json::array()}};
  for (const TensorCheck& c : r.tensors) {
    json["tensors"].push_back({{"name", c.name},
                               {"type", c.type},
                               {"dtype", c.dtype},
                               {"identical", c.identical()},
                               {"shape", c.shape},
                               {"theirs_shape", c.theirs_shape},
                               {"not_compared", c.not_compared},
                               {"elements", c.elements},
                               {"different", c.different},
                               {"max_error", finite(c.max_error)},
                               {"rms_error", finite(c.rms_error)},
                               {"snr_db", finite(c.snr_db)},
                               {"nan", c.nans},
                               {"theirs_nan", c.theirs_nans},
                               {"inf", c.infs},
                               {"theirs_inf", c.theirs_infs},
                               {"rows_permuted", c.rows_permuted}});
  }
  PrintJson(json);
}

int Run(Options& o) {
  CatchStopSignals();
  o.verify.reference = o.reference.Load();
  VerifyReport report;
  {
    ProgressDisplay display(o.quiet, o.progress);
    o.verify.progress = display.Function();
    report = Verify(o.in, o.safetensors, o.verify);
  }
  PrintWarnings(o.in, report.warnings);
  if (o.json) {
    PrintJsonReport(report);
  } else if (!o.quiet) {
    PrintText(report);
  }
  return report.ok() ? 0 : 1;
}

}  // namespace

void AddVerify(CLI::App& app, Command* command) {
  auto* sub = app.add_subcommand(
      "verify",
      "Derive every tensor again and compare it with a safetensors file, bit "
      "for bit; with another reference also by error");
  auto o = std::make_shared<Options>();
  sub->add_option("IN.gguf", o->in,
                  "GGUF file, any shard of a set, or a folder with one model")
      ->required();
  sub->add_option("OUT.safetensors", o->safetensors,
                  "What convert wrote, or any reference; also an .index.json")
      ->required();
  AddThreads(*sub, &o->verify.threads);
  o->reference.AddTo(*sub);
  AddFilters(*sub, &o->verify.include, &o->verify.exclude);
  AddOutput(*sub, &o->json, &o->progress, &o->quiet);
  sub->footer(
      "Exit code 0: of convert's output, every bit is right; of another file, "
      "every\ntensor was found with the same shape.\n"
      "Examples:\n"
      "  dequant verify model.gguf model.safetensors\n"
      "  dequant verify unet.gguf unet.safetensors --like "
      "original.safetensors\n"
      "  dequant verify model.gguf original.safetensors    (errors of the "
      "quantization)");
  sub->callback([o, command] { *command = [o] { return Run(*o); }; });
}

}  // namespace dequant::cli

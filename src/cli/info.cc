// dequant info: what a GGUF file holds, and where each shape comes from.
#include <iostream>

#include "src/cli/cli.h"
#include "src/file/text.h"
#include "src/model/plan.h"

namespace dequant::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string in;
  ReferenceOptions reference;
  bool json = false, strict = false;
};

struct Row {
  const ModelTensor* tensor;
  ResolvedShape shape;
};

/// A value as JSON; of an array its length and first elements.
ordered_json ValueJson(const KeyValue& kv) {
  constexpr uint64_t kMaxElements = 16;
  const auto scalar = [&](uint64_t i) -> ordered_json {
    if (kv.element_type == KvType::kBool) return kv.AsUint(i) != 0;
    if (!kv.IsInteger()) return kv.AsFloat(i);
    return kv.element_type == KvType::kUint64 ? ordered_json(kv.AsUint(i))
                                              : ordered_json(kv.AsInt(i));
  };
  if (kv.type == KvType::kString) return kv.AsString();
  if (kv.type != KvType::kArray) return scalar(0);
  ordered_json first = ordered_json::array();
  if (kv.element_type == KvType::kString) {
    for (const std::string_view s : kv.AsStrings()) {
      if (first.size() == kMaxElements) break;
      first.push_back(s);
    }
  } else if (kv.element_type != KvType::kArray) {
    for (uint64_t i = 0; i < std::min(kv.count, kMaxElements); ++i) {
      first.push_back(scalar(i));
    }
  }
  return {{"element_type", Name(kv.element_type)},
          {"count", kv.count},
          {"first", std::move(first)}};
}

void PrintJsonInfo(const ModelFiles& model, const std::vector<Row>& rows,
                   const ShapeReport& shapes,
                   const std::map<std::string, uint64_t>& types,
                   const ScaleReport& scales,
                   const std::vector<std::string>& warnings) {
  ordered_json json;
  for (const GgufFile& f : model.files()) {
    ordered_json metadata = ordered_json::object();
    // Not through operator[]: an ordered object is searched for each key.
    auto& entries = metadata.get_ref<ordered_json::object_t&>();
    for (const KeyValue& kv : f.metadata()) {
      entries.push_back(
          {std::string(kv.key),
           ordered_json{{"type", Name(kv.type)}, {"value", ValueJson(kv)}}});
    }
    json["files"].push_back({{"path", f.path()},
                             {"version", f.version()},
                             {"bytes", f.size()},
                             {"alignment", f.alignment()},
                             {"tensors", f.tensors().size()},
                             {"metadata", std::move(metadata)}});
  }
  json["types"] = types;
  json["shapes"] = ToJson(shapes);
  json["tensors"] = ordered_json::array();
  for (const Row& row : rows) {
    const TensorInfo& t = *row.tensor->info;
    json["tensors"].push_back({{"name", t.name},
                               {"type", TypeName(t.type_id)},
                               {"type_id", static_cast<uint32_t>(t.type_id)},
                               {"shape", row.shape.shape},
                               {"shape_source", Name(row.shape.source)},
                               {"dims", t.dims},
                               {"elements", t.elements},
                               {"bytes", t.bytes},
                               {"offset", t.offset},
                               {"file", row.tensor->file->path()}});
  }
  json["scales"] = ordered_json::array();
  for (const WeightScale& s : scales.scales) {
    json["scales"].push_back({{"weight", s.weight.info->name},
                              {"scale", s.scale.info->name},
                              {"factors", s.scale.info->elements}});
  }
  json["input_scales"] = ordered_json::array();
  for (const ModelTensor& t : scales.of_inputs) {
    json["input_scales"].push_back(t.info->name);
  }
  json["warnings"] = warnings;
  PrintJson(json);
}

void PrintText(const ModelFiles& model, const std::vector<Row>& rows,
               const ShapeReport& shapes,
               const std::map<std::string, uint64_t>& types,
               const ScaleReport& scales) {
  for (const GgufFile& f : model.files()) {
    std::cout << f.path() << ": GGUF version " << f.version() << ", "
              << BytesText(f.size()) << ", "
              << Count(f.tensors().size(), "tensor") << ", "
              << f.metadata().size() << " metadata entries, alignment "
              << f.alignment() << '\n';
    for (const KeyValue& kv : f.metadata()) {
      std::string text = kv.ToString();
      constexpr size_t kMaxText = 300;
      if (text.size() > kMaxText) text = text.substr(0, kMaxText) + "...";
      std::cout << "  " << Escape(kv.key) << " = " << text << '\n';
    }
  }
  std::cout << '\n';
  if (!rows.empty()) {
    Table table({"bytes", "type", "shape", "from", "tensor"});
    for (const Row& row : rows) {
      const TensorInfo& t = *row.tensor->info;
      table.Add({std::to_string(t.bytes), TypeName(t.type_id),
                 ShapeText(row.shape.shape),
                 std::string(Name(row.shape.source)), Escape(t.name)});
    }
    table.Print(std::cout);
    std::cout << '\n';
  }
  uint64_t bytes = 0, elements = 0;
  for (const Row& row : rows) {
    bytes += row.tensor->info->bytes;
    elements += row.tensor->info->elements;
  }
  std::cout << Count(rows.size(), "tensor") << ": " << TypeCounts(types) << "; "
            << elements << " elements, " << BytesText(bytes) << '\n';
  for (const std::string& line : shapes.Lines()) std::cout << line << '\n';
  if (!scales.scales.empty()) {
    std::cout << Count(scales.scales.size(), "NVFP4 weight")
              << " with a scale that convert multiplies in\n";
  }
  if (!scales.of_inputs.empty()) {
    std::cout << Count(scales.of_inputs.size(), "scale")
              << " of inputs, left alone\n";
  }
}

int Run(const Options& o) {
  const ModelFiles model = ModelFiles::Open(o.in);
  const auto reference = o.reference.Load();
  std::vector<std::string> warnings = model.warnings();
  std::vector<Row> rows;
  rows.reserve(model.tensors().size());
  ShapeReport shapes;
  std::map<std::string, uint64_t> types;
  for (const ModelTensor& t : model.tensors()) {
    ResolvedShape shape;
    try {
      shape = ResolveShape(model, t, reference ? &*reference : nullptr);
    } catch (const Error& e) {
      // Shown, so that one can see what is wrong; `convert` stops here.
      warnings.push_back(e.subject() + ": " + e.reason());
      shape.shape.assign(t.info->dims.rbegin(), t.info->dims.rend());
      shape.file_shape = shape.shape;
      shape.source = shape.file_source = ShapeSource::kDims;
    }
    shapes.Add(t.info->name, shape);
    ++types[TypeName(t.info->type_id)];
    rows.push_back({&t, std::move(shape)});
  }
  const ScaleReport scales = FindScales(model);
  warnings.insert(warnings.end(), scales.warnings.begin(),
                  scales.warnings.end());
  if (o.strict) RejectWarnings(o.in, warnings);
  if (o.json) {
    PrintJsonInfo(model, rows, shapes, types, scales, warnings);
  } else {
    PrintText(model, rows, shapes, types, scales);
  }
  PrintWarnings(o.in, warnings);
  return 0;
}

}  // namespace

void AddInfo(CLI::App& app, Command* command) {
  auto* sub = app.add_subcommand(
      "info", "Show metadata, tensors, and where each shape comes from");
  auto o = std::make_shared<Options>();
  sub->add_option("IN.gguf", o->in,
                  "GGUF file, any shard of a set, or a folder with one model")
      ->required();
  sub->add_flag("--json", o->json, "As JSON, with every name in full");
  o->reference.AddTo(*sub);
  AddStrict(*sub, &o->strict);
  sub->footer(
      "Examples:\n"
      "  dequant info model.gguf\n"
      "  dequant info model.gguf --json\n"
      "  dequant info unet.gguf --like original.safetensors    (which shapes "
      "disagree?)");
  sub->callback([o, command] { *command = [o] { return Run(*o); }; });
}

}  // namespace dequant::cli

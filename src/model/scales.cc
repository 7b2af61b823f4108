// The tensors that belong to NVFP4 weights. The blocks of NVFP4 carry a scale
// per 16 elements in a narrow range; what is left to give a weight its
// magnitude, one F32 factor or one per expert, is a tensor of its own, which
// ggml multiplies into the result of the matrix product.
#include <algorithm>

#include "dequant/model.h"
#include "src/file/text.h"

namespace dequant {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr int32_t kNvfp4 = 40;

std::optional<ModelTensor> FindTensor(const ModelFiles& model,
                                      const GgufFile& first,
                                      const std::string& name) {
  if (const TensorInfo* t = first.FindTensor(name)) return {{&first, t}};
  for (const GgufFile& file : model.files()) {
    if (const TensorInfo* t = file.FindTensor(name)) return {{&file, t}};
  }
  return std::nullopt;
}

/// Why `scale` cannot be multiplied into `weight`; empty if it can.
std::string WhyNot(const TensorInfo& weight, const TensorInfo& scale) {
  if (scale.type_id != static_cast<int32_t>(DType::kF32)) {
    return "its type is " + TypeName(scale.type_id) + ", not F32";
  }
  // A weight of one dimension has none for which a factor would make sense.
  const uint64_t outermost = weight.dims.size() > 1 ? weight.dims.back() : 1;
  if (scale.elements == 1 || scale.elements == outermost) return "";
  return "it has " + Count(scale.elements, "element") + ", not 1" +
         (outermost == 1 ? "" : " or " + std::to_string(outermost));
}

}  // namespace

ScaleReport FindScales(const ModelFiles& model) {
  ScaleReport report;
  for (const ModelTensor& t : model.tensors()) {
    const std::string_view name = t.info->name;
    if (t.info->type_id != kNvfp4 || !name.ends_with(kWeight)) continue;
    const std::string stem(name.substr(0, name.size() - kWeight.size()));
    const std::string whole(name);
    for (const std::string& prefix : {stem, whole}) {
      const auto input = FindTensor(model, *t.file, prefix + ".input_scale");
      if (input) report.of_inputs.push_back(*input);
    }

    auto scale = FindTensor(model, *t.file, stem + ".scale");
    const auto other = FindTensor(model, *t.file, whole + ".scale");
    const auto warn = [&](const TensorInfo& s, const std::string& why) {
      report.warnings.push_back(Tensor(s.name) + " is not multiplied into " +
                                Tensor(name) + ": " + why +
                                "; both are kept as they are");
    };
    if (scale && other) {
      warn(*scale->info, "there is also " + Tensor(other->info->name));
      continue;
    }
    if (!scale) scale = other;
    if (!scale) continue;
    if (const std::string why = WhyNot(*t.info, *scale->info); !why.empty()) {
      warn(*scale->info, why);
    } else {
      report.scales.push_back({t, *scale});
    }
  }
  return report;
}

}  // namespace dequant

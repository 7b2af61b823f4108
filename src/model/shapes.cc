// Which shape a tensor has in the model. A GGUF file's dims do not always tell:
// ggml's writer drops leading 1s and holds four dimensions at most.
#include <algorithm>

#include "dequant/model.h"
#include "src/file/checked.h"
#include "src/file/io.h"
#include "src/file/json.h"
#include "src/file/text.h"

namespace dequant {
namespace {

using nlohmann::json;

constexpr std::string_view kOrigShapePrefix = "comfy.gguf.orig_shape.";
constexpr uint64_t kMaxJson = 256 << 20;

/// The shape that the key gives, outermost first; nothing without a key.
std::optional<std::vector<uint64_t>> OrigShape(const ModelFiles& model,
                                               const ModelTensor& t,
                                               const KeyValue** key) {
  std::string name(kOrigShapePrefix);
  name += t.info->name;
  // A shard's tensors may have their keys in the first shard.
  const KeyValue* kv = t.file->Find(name);
  if (!kv) kv = model.Find(name);
  if (!kv) return std::nullopt;
  *key = kv;
  if (kv->type != KvType::kArray || !kv->IsInteger()) {
    throw Error(std::string(kv->file), static_cast<int64_t>(kv->offset),
                Key(kv->key), "is not an array of integers");
  }
  std::vector<uint64_t> shape(kv->count);
  for (uint64_t i = 0; i < kv->count; ++i) shape[i] = kv->AsUint(i);
  return shape;
}

}  // namespace

std::string_view Name(ShapeSource s) {
  switch (s) {
    case ShapeSource::kDims:
      return "dims";
    case ShapeSource::kOrigShape:
      return "orig_shape";
    case ShapeSource::kReference:
      return "reference";
  }
  return "?";
}

ShapeReference ShapeReference::FromSafetensors(const std::string& path) {
  ShapeReference reference{path, {}};
  for (const std::string& shard : SafetensorsShards(path)) {
    // Only the header counts: a reference may come without its data.
    for (SafetensorsEntry& e : ReadSafetensorsHeader(shard, false).tensors) {
      reference.shapes[std::move(e.name)] = std::move(e.shape);
    }
  }
  return reference;
}

ShapeReference ShapeReference::FromJson(const std::string& path) {
  const json shapes = ParseJson(ReadWhole(path, kMaxJson), path);
  if (!shapes.is_object()) {
    throw Error(path, Error::kNoOffset, "",
                "must be an object of tensor names and their shapes");
  }
  ShapeReference reference{path, {}};
  for (const auto& [name, shape] : shapes.items()) {
    reference.shapes[name] = ShapeFromJson(shape, path, Tensor(name));
  }
  return reference;
}

ResolvedShape ResolveShape(const ModelFiles& model, const ModelTensor& t,
                           const ShapeReference* reference) {
  const TensorInfo& info = *t.info;
  const std::vector<uint64_t> dims(info.dims.rbegin(), info.dims.rend());
  const auto check = [&](const std::vector<uint64_t>& shape,
                         const std::string& from, uint64_t offset) {
    const auto n = ElementCount(shape);
    if (n && *n == info.elements) return;
    throw Error(t.file->path(), static_cast<int64_t>(offset), Tensor(info.name),
                "shape " + ShapeText(shape) + " from " + from + " makes " +
                    (n ? Count(*n, "element") : "more than 2^63 - 1 elements") +
                    ", but the file's dims " + ShapeText(dims) + " make " +
                    std::to_string(info.elements));
  };

  const auto entry = reference ? reference->shapes.find(info.name)
                               : decltype(reference->shapes.begin())();
  const bool referenced = reference && entry != reference->shapes.end();
  ResolvedShape out{dims, ShapeSource::kDims, dims, ShapeSource::kDims};
  try {
    const KeyValue* key = nullptr;
    if (auto shape = OrigShape(model, t, &key)) {
      check(*shape, "key '" + Escape(key->key) + "'", key->offset);
      out.shape = out.file_shape = std::move(*shape);
      out.source = out.file_source = ShapeSource::kOrigShape;
    }
  } catch (const Error&) {
    if (!referenced) throw;  // a reference also mends a broken key
  }
  if (referenced) {
    check(entry->second, reference->file, info.table_offset);
    out.shape = entry->second;
    out.source = ShapeSource::kReference;
  }
  return out;
}

void ShapeReport::Add(std::string_view name, const ResolvedShape& r) {
  ++counts[r.source];
  if (r.shape != r.file_shape) {
    corrected.push_back(
        {std::string(name), r.shape, r.file_shape, r.file_source});
  }
}

std::vector<std::string> ShapeReport::Lines() const {
  std::vector<std::string> lines;
  std::string sources;
  for (const auto& [source, n] : counts) {
    if (!sources.empty()) sources += ", ";
    sources += std::to_string(n) + " from ";
    sources += source == ShapeSource::kDims        ? "the file's dims"
               : source == ShapeSource::kOrigShape ? "orig_shape keys"
                                                   : "the reference";
  }
  if (!sources.empty()) lines.push_back("shapes: " + sources);
  for (const ShapeSource source :
       {ShapeSource::kDims, ShapeSource::kOrigShape}) {
    constexpr size_t kNamed = 5;
    uint64_t n = 0;
    std::string names;
    for (const CorrectedShape& c : corrected) {
      if (c.file_source != source) continue;
      if (n++ >= kNamed) continue;
      names += "\n  " + Escape(c.name) + " " + ShapeText(c.file_shape) +
               " -> " + ShapeText(c.shape);
    }
    if (n == 0) continue;
    std::string line = Count(n, "tensor");
    line += n == 1 ? " has" : " have";
    line += source == ShapeSource::kDims
                ? " only the dims to go by, and the reference disagrees:"
                : " an orig_shape key that the reference overrules:";
    line += names;
    if (n > kNamed)
      line += "\n  ... and " + std::to_string(n - kNamed) +
              " more (all with --json)";
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace dequant

// GGUF -> safetensors. First the plan: which tensors, their shapes, types,
// shards and places. Then slices of about half a MiB go through buffers that
// stay in the caches: read, dequantize, write, from any thread in any order;
// since every byte's place is planned, the output does not depend on it.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "dequant/model.h"
#include "dequant/version.h"
#include "src/file/atomic_file.h"
#include "src/file/checked.h"
#include "src/file/text.h"
#include "src/model/name_filter.h"
#include "src/model/parallel.h"

namespace dequant {
namespace {

constexpr uint64_t kSliceBytes = 512 << 10;  // of output, about
constexpr std::string_view kExtension = ".safetensors";

struct Planned {
  ModelTensor source;
  SafetensorsEntry entry;
  std::optional<DType> dtype;  // nothing: bytes are copied
  size_t shard = 0;
  size_t index = 0;  // among the entries of the shard

  uint64_t elements() const { return source.info->elements; }
  uint64_t out_bytes() const {
    return dtype ? elements() * SizeOf(*dtype) : source.info->bytes;
  }
};

/// A run of whole blocks of one tensor.
struct Slice {
  size_t tensor;
  uint64_t block;
  uint64_t blocks;
};

std::optional<DType> OutputType(const TypeInfo& type, const ConvertOptions& o) {
  if (type.kind == TypeKind::kBlock ||
      (type.kind == TypeKind::kFloat && o.cast_all &&
       type.id != static_cast<int32_t>(o.dtype))) {
    return o.dtype;
  }
  return std::nullopt;
}

/// The tensors to write, in the order of the model.
std::vector<Planned> SelectTensors(const ModelFiles& model,
                                   const ConvertOptions& options,
                                   ConvertSummary& summary) {
  const NameFilter filter(options.include, options.exclude);
  const ShapeReference* reference =
      options.reference ? &*options.reference : nullptr;
  std::vector<Planned> plan;
  for (const ModelTensor& t : model.tensors()) {
    if (!filter.Accepts(t.info->name)) continue;
    if (!t.info->type) {
      summary.skipped.emplace_back(t.info->name);
      continue;
    }
    ResolvedShape shape = ResolveShape(model, t, reference);
    summary.shapes.Add(t.info->name, shape);
    ++summary.tensors_per_type[std::string(t.info->type->name)];
    Planned p{t, {}, OutputType(*t.info->type, options)};
    p.entry.name = t.info->name;
    p.entry.dtype = p.dtype ? Name(*p.dtype) : t.info->type->name;
    p.entry.shape = std::move(shape.shape);
    summary.bytes_in += t.info->bytes;
    summary.bytes_out += p.out_bytes();
    plan.push_back(std::move(p));
  }
  summary.tensors = plan.size();
  if (plan.empty() && !model.tensors().empty()) {
    summary.warnings.push_back("no tensor is left to convert");
  }
  if (reference && !plan.empty() &&
      !summary.shapes.counts.contains(ShapeSource::kReference)) {
    summary.warnings.push_back(Escape(reference->file) +
                               " names none of the model's tensors");
  }
  return plan;
}

/// Fills the shards in the order of the model, as the Hugging Face tools do.
/// Returns their number.
size_t AssignShards(std::vector<Planned>& plan, uint64_t max_bytes) {
  size_t shard = 0;
  uint64_t bytes = 0;
  for (Planned& p : plan) {
    if (max_bytes > 0 && bytes > 0 &&
        !RangeFits(bytes, p.out_bytes(), max_bytes)) {
      ++shard;
      bytes = 0;
    }
    bytes += p.out_bytes();
    p.shard = shard;
  }
  return shard + 1;
}

/// Small facts of the model that safetensors can carry: strings, by string.
std::map<std::string, std::string> Metadata(const ModelFiles& model) {
  std::map<std::string, std::string> out = {{"format", "pt"},
                                            {"dequant.version", kVersion}};
  const std::string& path = model.files()[0].path();
  const std::string name = path.substr(path.rfind('/') + 1);
  if (FindInvalidUtf8(name) == name.npos) out["dequant.source"] = name;

  constexpr size_t kMaxText = 4096, kMaxEntries = 256;
  std::string prefix;
  const KeyValue* arch = model.Find("general.architecture");
  if (arch && arch->type == KvType::kString) {
    prefix = std::string(arch->AsString()) + ".";
  }
  for (const KeyValue& kv : model.files()[0].metadata()) {
    const bool wanted =
        kv.key.starts_with("general.") ||
        (!prefix.empty() && prefix != "." && kv.key.starts_with(prefix));
    if (!wanted || kv.type == KvType::kArray || kv.bytes.size() > kMaxText ||
        kv.key.size() > kMaxText || out.size() >= kMaxEntries) {
      continue;
    }
    std::string text(kv.type == KvType::kString ? std::string(kv.AsString())
                                                : kv.ToString());
    if (FindInvalidUtf8(text) == text.npos) {
      out["gguf." + std::string(kv.key)] = std::move(text);
    }
  }
  return out;
}

/// "DIR/NAME-00001-of-00003.safetensors"
std::string ShardPath(const std::string& stem, size_t i, size_t count) {
  char tail[64];
  std::snprintf(tail, sizeof(tail), "-%05zu-of-%05zu", i + 1, count);
  return stem + tail + std::string(kExtension);
}

std::string BaseName(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

/// NAME.safetensors.index.json
std::string IndexText(const std::vector<Planned>& plan,
                      const std::vector<std::string>& paths,
                      uint64_t total_bytes) {
  nlohmann::json map = nlohmann::json::object();
  for (const Planned& p : plan) map[p.entry.name] = BaseName(paths[p.shard]);
  const nlohmann::ordered_json index = {
      {"metadata", {{"total_size", total_bytes}}}, {"weight_map", map}};
  return index.dump(2) + "\n";
}

void RefuseInputAsOutput(const ModelFiles& model, const std::string& path) {
  if (const GgufFile* file = model.Holds(path)) {
    throw Error(
        path, Error::kNoOffset, "",
        "is the input " + file->path() + " itself; name another output");
  }
}

std::vector<Slice> CutIntoSlices(const std::vector<Planned>& plan) {
  std::vector<Slice> slices;
  for (size_t i = 0; i < plan.size(); ++i) {
    const TypeInfo& type = *plan[i].source.info->type;
    const auto block = static_cast<uint64_t>(type.block_elements);
    const uint64_t blocks = plan[i].elements() / block;
    const uint64_t block_out = plan[i].dtype
                                   ? block * SizeOf(*plan[i].dtype)
                                   : static_cast<uint64_t>(type.block_bytes);
    const uint64_t step = std::max<uint64_t>(1, kSliceBytes / block_out);
    for (uint64_t b = 0; b < blocks; b += step) {
      slices.push_back({i, b, std::min(step, blocks - b)});
    }
  }
  return slices;
}

}  // namespace

ConvertSummary Convert(const std::string& in, const std::string& out,
                       const ConvertOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  // With no elements: says whether DEQUANT_TARGET can be had, before the work.
  if (const Status s = Dequantize(static_cast<int32_t>(DType::kF32), nullptr,
                                  options.dtype, nullptr, 0);
      s != Status::kOk) {
    throw Error("", Error::kNoOffset, "", ErrorString(s));
  }
  const ModelFiles model = ModelFiles::Open(in);
  ConvertSummary summary;
  summary.warnings = model.warnings();
  std::vector<Planned> plan = SelectTensors(model, options, summary);
  const size_t shards = AssignShards(plan, options.max_shard_size);

  const std::string stem = out.ends_with(kExtension)
                               ? out.substr(0, out.size() - kExtension.size())
                               : out;
  std::vector<std::string> paths;
  for (size_t i = 0; i < shards; ++i) {
    paths.push_back(shards == 1 ? out : ShardPath(stem, i, shards));
  }
  summary.outputs = paths;
  if (shards > 1) {
    summary.outputs.push_back(stem + std::string(kExtension) + ".index.json");
  }
  for (const std::string& path : summary.outputs)
    RefuseInputAsOutput(model, path);

  // Wide types first, as safetensors itself writes: then every tensor lies at a
  // multiple of its element size.
  const auto metadata = Metadata(model);
  std::vector<std::unique_ptr<SafetensorsWriter>> writers;
  for (size_t shard = 0; shard < shards; ++shard) {
    std::vector<Planned*> members;
    for (Planned& p : plan) {
      if (p.shard == shard) members.push_back(&p);
    }
    std::stable_sort(members.begin(), members.end(), [](auto* a, auto* b) {
      return SafetensorsSizeOf(a->entry.dtype) >
             SafetensorsSizeOf(b->entry.dtype);
    });
    std::vector<SafetensorsEntry> entries;
    for (Planned* p : members) {
      p->index = entries.size();
      entries.push_back(p->entry);
    }
    writers.push_back(std::make_unique<SafetensorsWriter>(
        paths[shard], std::move(entries), metadata, options.force));
  }
  std::optional<AtomicFile> index;
  if (shards > 1) {
    const std::string text = IndexText(plan, paths, summary.bytes_out);
    index.emplace(summary.outputs.back(), text.size(), options.force);
    index->Write(0,
                 {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

  const std::vector<Slice> slices = CutIntoSlices(plan);
  const auto work = [&](size_t i, Scratch& scratch) -> uint64_t {
    const Slice& s = slices[i];
    const Planned& p = plan[s.tensor];
    const TensorInfo& info = *p.source.info;
    const auto block_bytes = static_cast<uint64_t>(info.type->block_bytes);
    std::span<uint8_t> bytes = scratch.in.Get(s.blocks * block_bytes);
    p.source.file->Read(info, s.block * block_bytes, bytes);
    uint64_t begin = s.block * block_bytes;
    if (p.dtype) {
      const auto elements = static_cast<uint64_t>(info.type->block_elements);
      const uint64_t n = s.blocks * elements;
      const std::span<uint8_t> values = scratch.out.Get(n * SizeOf(*p.dtype));
      const Status status =
          Dequantize(info.type_id, bytes.data(), *p.dtype, values.data(),
                     static_cast<int64_t>(n), 1);
      if (status != Status::kOk) {
        throw Error(p.source.file->path(), static_cast<int64_t>(info.offset),
                    Tensor(info.name), ErrorString(status));
      }
      bytes = values;
      begin = s.block * elements * SizeOf(*p.dtype);
    }
    SafetensorsWriter& writer = *writers[p.shard];
    writer.Write(writer.entries()[p.index], begin, bytes);
    return bytes.size();
  };
  ParallelFor(slices.size(), options.threads, summary.bytes_out,
              options.progress, work);
  model.CheckUnchanged();

  // All on the disk before the first appears; the index, which makes a set of
  // the shards, last.
  for (const auto& w : writers) w->Sync();
  if (index) index->Sync();
  if (options.progress &&
      !options.progress(summary.bytes_out, summary.bytes_out)) {
    throw Cancelled();
  }
  size_t published = 0;
  try {
    for (const auto& w : writers) {
      w->Commit();
      ++published;
    }
    if (index) index->Publish();
  } catch (...) {
    // Without --force all of these names were free before.
    for (size_t i = 0; i < published && !options.force; ++i) {
      ::unlink(paths[i].c_str());
    }
    throw;
  }
  summary.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  return summary;
}

}  // namespace dequant

// GGUF -> safetensors. First the plan: which tensors, their shapes and types
// (plan.h), shards and places. Then slices of about half a MiB go through
// buffers that stay in the caches: read, dequantize, write, from any thread in
// any order; since every byte's place is planned, the output does not depend on
// it. Writing is pwrite: into a mapped file it takes half as long again.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "dequant/model.h"
#include "dequant/version.h"
#include "src/file/atomic_file.h"
#include "src/file/checked.h"
#include "src/file/io.h"
#include "src/file/text.h"
#include "src/model/plan.h"

namespace dequant {
namespace {

constexpr uint64_t kSliceBytes = 512 << 10;  // of output, about
constexpr std::string_view kExtension = ".safetensors";

/// Where a tensor goes.
struct Place {
  size_t shard = 0;
  size_t index = 0;  // among the entries of the shard
};

/// Fills the shards in the order of the model, as the Hugging Face tools do.
std::vector<Place> AssignShards(std::span<const PlannedTensor> plan,
                                uint64_t max_bytes) {
  std::vector<Place> places;
  size_t shard = 0;
  uint64_t bytes = 0;
  for (const PlannedTensor& p : plan) {
    if (max_bytes > 0 && bytes > 0 &&
        !RangeFits(bytes, p.out_bytes(), max_bytes)) {
      ++shard;
      bytes = 0;
    }
    bytes += p.out_bytes();
    places.push_back({shard});
  }
  return places;
}

std::string BaseName(const std::string& path) {
  return path.substr(NameStart(path));
}

/// Small facts of the model that safetensors can carry: strings, by string.
std::map<std::string, std::string> Metadata(const ModelFiles& model,
                                            bool fold) {
  std::map<std::string, std::string> out = {{"format", "pt"},
                                            {"dequant.version", kVersion}};
  if (!fold) out["dequant.fold"] = "no";  // for verify
  const std::string name = BaseName(model.files()[0].path());
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

/// NAME.safetensors.index.json
std::string IndexText(std::span<const PlannedTensor> plan,
                      std::span<const Place> places,
                      const std::vector<std::string>& paths,
                      uint64_t total_bytes) {
  nlohmann::json map = nlohmann::json::object();
  for (size_t i = 0; i < plan.size(); ++i) {
    map[plan[i].info().name] = BaseName(paths[places[i].shard]);
  }
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

}  // namespace

ConvertSummary Convert(const std::string& in, const std::string& out,
                       const ConvertOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  CheckTarget();
  const ModelFiles model = ModelFiles::Open(in);
  ConvertSummary summary;
  const std::vector<PlannedTensor> plan =
      PlanTensors(model, options, RulesOf(options), summary);
  if (options.strict) RejectWarnings(in, summary.warnings);
  std::vector<Place> places = AssignShards(plan, options.max_shard_size);
  const size_t shards = places.empty() ? 1 : places.back().shard + 1;

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
  const auto metadata = Metadata(model, options.fold);
  std::vector<std::unique_ptr<SafetensorsWriter>> writers;
  for (size_t shard = 0; shard < shards; ++shard) {
    std::vector<size_t> members;
    for (size_t i = 0; i < plan.size(); ++i) {
      if (places[i].shard == shard) members.push_back(i);
    }
    std::stable_sort(members.begin(), members.end(), [&](size_t a, size_t b) {
      return SafetensorsSizeOf(plan[a].out_type()) >
             SafetensorsSizeOf(plan[b].out_type());
    });
    std::vector<SafetensorsEntry> entries;
    for (const size_t i : members) {
      places[i].index = entries.size();
      entries.push_back({std::string(plan[i].info().name),
                         std::string(plan[i].out_type()), plan[i].shape.shape});
    }
    writers.push_back(std::make_unique<SafetensorsWriter>(
        paths[shard], std::move(entries), metadata, options.force));
  }
  std::optional<AtomicFile> index;
  if (shards > 1) {
    const std::string text = IndexText(plan, places, paths, summary.bytes_out);
    index.emplace(summary.outputs.back(), text.size(), options.force);
    index->Write(0,
                 {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

  const std::vector<Slice> slices = CutIntoSlices(plan, kSliceBytes);
  ForEachSlice(plan, slices, 0, options, summary.bytes_out,
               [&](size_t i, Scratch& scratch) -> uint64_t {
                 const Slice& s = slices[i];
                 const PlannedTensor& p = plan[s.tensor];
                 const auto bytes = scratch.out.Get(s.blocks * p.block_out());
                 ReadBlocks(p, p.dtype, s.block, s.blocks, bytes, scratch);
                 SafetensorsWriter& writer = *writers[places[s.tensor].shard];
                 writer.Write(writer.entries()[places[s.tensor].index],
                              s.block * p.block_out(), bytes);
                 return bytes.size();
               });
  model.CheckUnchanged();

  if (options.sync) {
    for (const auto& w : writers) w->Sync();
    if (index) index->Sync();
  }
  if (options.progress &&
      !options.progress(summary.bytes_out, summary.bytes_out)) {
    throw Cancelled();
  }
  // The index, which makes a set of the shards, last.
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
      RemoveFile(paths[i]);
    }
    throw;
  }
  summary.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  return summary;
}

}  // namespace dequant

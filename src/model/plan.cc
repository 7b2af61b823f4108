#include "src/model/plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <unordered_set>

#include "src/core/float_env.h"
#include "src/file/checked.h"
#include "src/file/text.h"
#include "src/model/name_filter.h"

namespace dequant {

PlanRules RulesOf(const LoadOptions& o) {
  PlanRules rules;
  const auto by_name = std::make_shared<DTypeRules>(o.dtype_for);
  rules.dtype = [&o, by_name](const TensorInfo& t) -> std::optional<DType> {
    if (t.type->kind == TypeKind::kCopied) return std::nullopt;
    const auto asked = by_name->Find(t.name);
    const bool convert =
        asked || o.cast_all || t.type->kind == TypeKind::kBlock;
    const DType to = asked.value_or(o.dtype);
    if (!convert || t.type_id == static_cast<int32_t>(to)) return std::nullopt;
    return to;
  };
  rules.fold = [&o](const WeightScale&) { return o.fold; };
  return rules;
}

std::vector<PlannedTensor> PlanTensors(const ModelFiles& model,
                                       const CommonOptions& options,
                                       const PlanRules& rules,
                                       LoadSummary& summary) {
  const NameFilter filter(options.include, options.exclude);
  const ShapeReference* reference =
      options.reference ? &*options.reference : nullptr;
  summary.warnings = model.warnings();

  // A scale goes where its weight goes, whatever the filters say of its own
  // name; and where the weight stays, it is a tensor like any other.
  const ScaleReport report = FindScales(model);
  std::vector<WeightScale> folds;
  std::unordered_set<const TensorInfo*> folded;
  for (const WeightScale& s : report.scales) {
    if (!filter.Accepts(s.weight.info->name) || !rules.fold(s)) continue;
    folds.push_back(s);
    folded.insert(s.scale.info);
    summary.folded.emplace_back(s.weight.info->name, s.scale.info->name);
  }
  for (const ModelTensor& t : report.of_inputs) {
    if (filter.Accepts(t.info->name)) {
      summary.input_scales.emplace_back(t.info->name);
    }
  }
  summary.warnings.insert(summary.warnings.end(), report.warnings.begin(),
                          report.warnings.end());

  std::vector<PlannedTensor> plan;
  auto fold = folds.begin();  // in the order of the model, as the loop
  for (const ModelTensor& t : model.tensors()) {
    if (folded.contains(t.info) || !filter.Accepts(t.info->name)) continue;
    if (!t.info->type) {
      summary.skipped.emplace_back(t.info->name);
      continue;
    }
    PlannedTensor p{t, std::nullopt, rules.dtype(*t.info),
                    ResolveShape(model, t, reference)};
    if (fold != folds.end() && fold->weight.info == t.info) {
      p.scale = (fold++)->scale;
    }
    summary.shapes.Add(t.info->name, p.shape);
    ++summary.tensors_per_type[std::string(t.info->type->name)];
    const auto bytes = p.dtype ? CheckedMul(t.info->elements, SizeOf(*p.dtype))
                               : std::optional(t.info->bytes);
    const auto sum =
        bytes ? CheckedAdd(summary.bytes_out, *bytes) : std::nullopt;
    if (!sum) {
      throw Error(t.file->path(), static_cast<int64_t>(t.info->table_offset),
                  Tensor(t.info->name),
                  "with it the output would pass 2^63 - 1 bytes");
    }
    summary.bytes_in += t.info->bytes;
    summary.bytes_out = *sum;
    plan.push_back(std::move(p));
  }
  summary.tensors = plan.size();
  if (plan.empty() && !model.tensors().empty()) {
    summary.warnings.push_back("no tensor is left to work on");
  }
  if (reference && !plan.empty() &&
      !summary.shapes.counts.contains(ShapeSource::kReference)) {
    summary.warnings.push_back(Escape(reference->file) +
                               " names none of the model's tensors");
  }
  return plan;
}

void RejectWarnings(const std::string& path,
                    const std::vector<std::string>& warnings) {
  if (warnings.empty()) return;
  std::string reason = warnings[0];
  if (warnings.size() > 1) {
    reason +=
        "; and " + Count(warnings.size() - 1, "more warning") + " (--strict)";
  } else {
    reason += " (--strict)";
  }
  throw Error(path, Error::kNoOffset, "", std::move(reason));
}

void CheckTarget() {
  const Status s = Dequantize(static_cast<int32_t>(DType::kF32), nullptr,
                              DType::kF32, nullptr, 0);
  if (s != Status::kOk) throw Error("", Error::kNoOffset, "", ErrorString(s));
}

std::vector<Slice> CutIntoSlices(std::span<const PlannedTensor> tensors,
                                 uint64_t out_bytes) {
  std::vector<Slice> slices;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint64_t blocks = tensors[i].blocks();
    const uint64_t step =
        std::max<uint64_t>(1, out_bytes / tensors[i].block_out());
    for (uint64_t b = 0; b < blocks; b += step) {
      slices.push_back({i, b, std::min(step, blocks - b)});
    }
  }
  return slices;
}

void ForEachSlice(std::span<const PlannedTensor> tensors,
                  std::span<const Slice> slices, uint64_t group_bytes,
                  const CommonOptions& options, uint64_t total,
                  const WorkFn& work) {
  std::vector<size_t> ends;  // of the groups
  uint64_t bytes = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    bytes += slices[i].blocks * tensors[slices[i].tensor].block_out();
    if (bytes < group_bytes && i + 1 < slices.size()) continue;
    ends.push_back(i + 1);
    bytes = 0;
  }
  // Some tens of MB: enough for a disk to be busy while a thread computes.
  constexpr size_t kAhead = 64;
  const auto announce = [&](size_t i) {
    if (i >= slices.size()) return;
    const Slice& s = slices[i];
    const PlannedTensor& t = tensors[s.tensor];
    t.source.file->WillRead(t.info(), s.block * t.block_bytes(),
                            s.blocks * t.block_bytes());
  };
  for (size_t i = 0; i < kAhead; ++i) announce(i);
  ParallelFor(ends.size(), options.threads, total, options.progress,
              [&](size_t group, Scratch& scratch) {
                uint64_t done = 0;
                for (size_t i = group > 0 ? ends[group - 1] : 0;
                     i < ends[group]; ++i) {
                  announce(i + kAhead);
                  done += work(i, scratch);
                }
                return done;
              });
}

void DequantizeOrThrow(const ModelTensor& t, int32_t type, const void* from,
                       DType to, void* out, uint64_t elements) {
  const Status s =
      Dequantize(type, from, to, out, static_cast<int64_t>(elements), 1);
  if (s != Status::kOk) {
    throw Error(t.file->path(), static_cast<int64_t>(t.info->offset),
                Tensor(t.info->name), ErrorString(s));
  }
}

namespace {

/// Multiplies in F32; NaN is the canonical one.
void Multiply(std::span<float> values, float factor) {
  const DefaultFloatEnv env;
  const float nan = std::bit_cast<float>(0x7FC00000u);
  for (float& v : values) {
    v *= factor;
    v = std::isnan(v) ? nan : v;
  }
}

/// Blocks `block` to `block + blocks` at `packed`, times their factors.
void DequantizeScaled(const PlannedTensor& t, DType dtype,
                      const uint8_t* packed, uint64_t block, uint64_t blocks,
                      uint8_t* out, Scratch& scratch) {
  constexpr uint64_t kRun = 4096;  // elements: 16 KiB, in the nearest cache
  const uint64_t elements = t.block_elements();
  const uint64_t per_factor = t.blocks() / t.scale->info->elements;
  const uint64_t first = block / per_factor;
  const uint64_t factors = (block + blocks - 1) / per_factor - first + 1;
  const auto bytes = scratch.factors.Get(factors * sizeof(float));
  t.scale->file->Read(*t.scale->info, first * sizeof(float), bytes);
  const auto* factor = reinterpret_cast<const float*>(bytes.data());
  const auto values_bytes =
      scratch.values.Get(std::max(kRun, elements) * sizeof(float));
  auto* values = reinterpret_cast<float*>(values_bytes.data());

  const uint64_t most = std::max<uint64_t>(1, kRun / elements);
  for (uint64_t end = block + blocks; block < end;) {
    const uint64_t same = per_factor - block % per_factor;
    const uint64_t run = std::min({most, same, end - block});
    const uint64_t n = run * elements;
    DequantizeOrThrow(t.source, t.info().type_id, packed, DType::kF32, values,
                      n);
    Multiply({values, n}, factor[block / per_factor - first]);
    DequantizeOrThrow(t.source, static_cast<int32_t>(DType::kF32), values,
                      dtype, out, n);
    block += run;
    packed += run * t.block_bytes();
    out += n * SizeOf(dtype);
  }
}

}  // namespace

void ReadBlocks(const PlannedTensor& t, std::optional<DType> dtype,
                uint64_t block, uint64_t blocks, std::span<uint8_t> out,
                Scratch& scratch) {
  const uint64_t block_bytes = t.block_bytes();
  if (!dtype) {
    t.source.file->Read(t.info(), block * block_bytes, out);
    return;
  }
  // Not from a mapping: if the file shrinks, pread gives an error, a mapping a
  // signal. And pieces that stay in a core's cache cost no more.
  constexpr uint64_t kPiece = 128 << 10;
  const uint64_t block_out = t.block_elements() * SizeOf(*dtype);
  const uint64_t step = std::max<uint64_t>(1, kPiece / block_bytes);
  uint8_t* to = out.data();
  for (const uint64_t end = block + blocks; block < end;) {
    const uint64_t n = std::min(step, end - block);
    const auto packed = scratch.in.Get(n * block_bytes);
    t.source.file->Read(t.info(), block * block_bytes, packed);
    if (t.scale) {
      DequantizeScaled(t, *dtype, packed.data(), block, n, to, scratch);
    } else {
      DequantizeOrThrow(t.source, t.info().type_id, packed.data(), *dtype, to,
                        n * t.block_elements());
    }
    block += n;
    to += n * block_out;
  }
}

}  // namespace dequant

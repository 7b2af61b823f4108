// GGUF against safetensors. One pass compares bits; only tensors that differ
// are read a second time for error figures, and those far off a third time, to
// see whether their rows stand in another order.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "dequant/model.h"
#include "src/file/text.h"
#include "src/model/name_filter.h"
#include "src/model/plan.h"

namespace dequant {
namespace {

constexpr uint64_t kSliceBytes = 512 << 10;  // of our side, about

std::optional<DType> DTypeOf(std::string_view safetensors) {
  for (const DType t : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (Name(t) == safetensors) return t;
  }
  return std::nullopt;
}

/// A tensor of the safetensors file.
struct Theirs {
  const SafetensorsFile* file = nullptr;
  const SafetensorsEntry* entry = nullptr;

  std::span<const uint8_t> Read(uint64_t begin, uint64_t n, Buffer& b) const {
    const auto out = b.Get(n);
    file->Read(*entry, begin, out);
    return out;
  }
};

/// Bytes of a value; of what is not dequantized, of a block.
uint64_t ValueBytes(const PlannedTensor& t) {
  return t.dtype ? SizeOf(*t.dtype) : t.block_bytes();
}

/// Values of a slice whose bits differ.
uint64_t CountDifferent(const PlannedTensor& t, const Theirs& theirs,
                        const Slice& s, Scratch& scratch) {
  const auto a = scratch.out.Get(s.blocks * t.block_out());
  ReadBlocks(t, t.dtype, s.block, s.blocks, a, scratch);
  const auto b = theirs.Read(s.block * t.block_out(), a.size(), scratch.other);
  if (std::memcmp(a.data(), b.data(), a.size()) == 0) return 0;
  const uint64_t size = ValueBytes(t);
  uint64_t different = 0;
  for (uint64_t i = 0; i < a.size(); i += size) {
    different += std::memcmp(a.data() + i, b.data() + i, size) != 0;
  }
  return different;
}

struct Figures {
  double max_error = 0, error = 0, signal = 0;  // sums of squares
  uint64_t finite = 0, nans = 0, theirs_nans = 0, infs = 0, theirs_infs = 0;

  void Add(const Figures& o) {
    max_error = std::max(max_error, o.max_error);
    error += o.error;
    signal += o.signal;
    finite += o.finite;
    nans += o.nans;
    theirs_nans += o.theirs_nans;
    infs += o.infs;
    theirs_infs += o.theirs_infs;
  }
};

/// The same run of blocks of both sides as F32.
struct Values {
  const float* ours;
  const float* theirs;
};
Values Decode(const PlannedTensor& t, const Theirs& theirs, uint64_t block,
              uint64_t blocks, Scratch& scratch) {
  const uint64_t n = blocks * t.block_elements();
  const auto out = scratch.out.Get(2 * n * sizeof(float));
  auto* values = reinterpret_cast<float*>(out.data());
  ReadBlocks(t, DType::kF32, block, blocks, out.first(n * sizeof(float)),
             scratch);
  const auto b =
      theirs.Read(block * t.block_out(), blocks * t.block_out(), scratch.other);
  DequantizeOrThrow(t.source, static_cast<int32_t>(*t.dtype), b.data(),
                    DType::kF32, values + n, n);
  return {values, values + n};
}

Figures Measure(const PlannedTensor& t, const Theirs& theirs, const Slice& s,
                Scratch& scratch) {
  const Values v = Decode(t, theirs, s.block, s.blocks, scratch);
  Figures f;
  for (uint64_t i = 0; i < s.blocks * t.block_elements(); ++i) {
    const double a = v.ours[i], b = v.theirs[i];
    f.nans += std::isnan(a);
    f.theirs_nans += std::isnan(b);
    f.infs += std::isinf(a);
    f.theirs_infs += std::isinf(b);
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    f.max_error = std::max(f.max_error, std::abs(a - b));
    f.error += (a - b) * (a - b);
    f.signal += b * b;
    ++f.finite;
  }
  return f;
}

void Fill(TensorCheck& c, const Figures& f) {
  c.max_error = f.max_error;
  c.rms_error =
      f.finite ? std::sqrt(f.error / static_cast<double>(f.finite)) : 0;
  c.snr_db = f.error > 0 ? 10 * std::log10(f.signal / f.error)
                         : std::numeric_limits<double>::infinity();
  c.nans = f.nans;
  c.theirs_nans = f.theirs_nans;
  c.infs = f.infs;
  c.theirs_infs = f.theirs_infs;
}

/// Whether rows have the same norms, but not in the same places: converters
/// permute the rows of Q and K for llama-style rotary embeddings.
bool RowsPermuted(const PlannedTensor& t, const Theirs& other,
                  Scratch& scratch) {
  const std::vector<uint64_t>& dims = t.info().dims;
  constexpr uint64_t kMaxRow = 1 << 20;
  if (dims.size() != 2 || dims[1] < 4 || dims[0] < 16 || dims[0] > kMaxRow) {
    return false;
  }
  std::vector<double> ours, theirs;
  const uint64_t row_blocks = dims[0] / t.block_elements();
  for (uint64_t row = 0; row < dims[1]; ++row) {
    const Values v = Decode(t, other, row * row_blocks, row_blocks, scratch);
    double a = 0, b = 0;
    for (uint64_t i = 0; i < dims[0]; ++i) {
      a += static_cast<double>(v.ours[i]) * v.ours[i];
      b += static_cast<double>(v.theirs[i]) * v.theirs[i];
    }
    if (!std::isfinite(a) || !std::isfinite(b)) return false;
    ours.push_back(std::sqrt(a));
    theirs.push_back(std::sqrt(b));
  }
  const auto distance = [&] {
    double sum = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      sum += std::abs(ours[i] - theirs[i]);
    }
    return sum;
  };
  const double in_place = distance();
  std::sort(ours.begin(), ours.end());
  std::sort(theirs.begin(), theirs.end());
  return distance() < in_place / 4;
}

/// Why the values of a pair cannot be compared; empty if they can.
std::string WhyNot(const TensorInfo& t, const SafetensorsEntry& e) {
  const uint64_t size = SafetensorsSizeOf(e.dtype);
  if (size == 0 || (e.end - e.begin) / size != t.elements) {
    return "other number of elements";
  }
  const bool copied = t.type->kind == TypeKind::kCopied;
  if (copied ? e.dtype != t.type->name : !DTypeOf(e.dtype)) {
    return std::string(t.type->name) + " and " + e.dtype +
           " cannot be compared";
  }
  return "";
}

}  // namespace

bool VerifyReport::ok() const {
  if (!missing.empty()) return false;
  return std::all_of(tensors.begin(), tensors.end(), [&](auto& c) {
    return by_dequant ? c.identical()
                      : c.not_compared.empty() && c.same_shape();
  });
}

VerifyReport Verify(const std::string& in, const std::string& safetensors,
                    const VerifyOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const ModelFiles model = ModelFiles::Open(in);
  const NameFilter filter(options.include, options.exclude);
  VerifyReport report;

  std::vector<SafetensorsFile> files;
  for (const std::string& path : SafetensorsShards(safetensors)) {
    files.push_back(SafetensorsFile::Open(path));
  }
  std::map<std::string_view, Theirs> theirs;
  report.by_dequant = !files.empty();
  bool folded = true;
  for (const SafetensorsFile& f : files) {
    const auto& metadata = f.header().metadata;
    report.by_dequant &= metadata.contains("dequant.version");
    const auto fold = metadata.find("dequant.fold");
    if (fold != metadata.end() && fold->second == "no") folded = false;
    for (const SafetensorsEntry& e : f.header().tensors) {
      if (!theirs.emplace(e.name, Theirs{&f, &e}).second) {
        throw Error(f.path(), Error::kNoOffset, Tensor(e.name),
                    "is in two of the files");
      }
    }
  }

  PlanRules rules;
  rules.dtype = [&](const TensorInfo& t) -> std::optional<DType> {
    const auto it = theirs.find(t.name);
    if (it == theirs.end() || t.type->kind == TypeKind::kCopied) {
      return std::nullopt;
    }
    return DTypeOf(it->second.entry->dtype);
  };
  rules.fold = [&](const WeightScale& s) {
    return folded && !theirs.contains(s.scale.info->name);
  };
  LoadSummary summary;
  // The tensors to compare; of each theirs, and its place in the report.
  std::vector<PlannedTensor> ours;
  std::vector<Theirs> other;
  std::vector<size_t> check;
  uint64_t total = 0;
  std::map<std::string_view, Theirs> extra = theirs;
  for (const ModelTensor& t : model.tensors()) extra.erase(t.info->name);
  for (PlannedTensor& t : PlanTensors(model, options, rules, summary)) {
    const auto it = theirs.find(t.info().name);
    if (it == theirs.end()) {
      report.missing.emplace_back(t.info().name);
      continue;
    }
    const SafetensorsEntry& e = *it->second.entry;
    TensorCheck c;
    c.name = t.info().name;
    c.type = t.info().type->name;
    c.dtype = e.dtype;
    c.elements = t.info().elements;
    c.theirs_shape = e.shape;
    c.shape = t.shape.shape;
    c.not_compared = WhyNot(t.info(), e);
    if (c.not_compared.empty()) {
      total += e.end - e.begin;
      ours.push_back(std::move(t));
      other.push_back(it->second);
      check.push_back(report.tensors.size());
    }
    report.tensors.push_back(std::move(c));
  }
  for (const auto& [name, where] : extra) {
    if (filter.Accepts(name)) report.extra.emplace_back(name);
  }
  report.skipped = std::move(summary.skipped);
  report.warnings = std::move(summary.warnings);

  // Bits.
  std::vector<Slice> slices = CutIntoSlices(ours, kSliceBytes);
  std::vector<uint64_t> different(slices.size());
  ForEachSlice(ours, slices, 0, options, total,
               [&](size_t i, Scratch& scratch) -> uint64_t {
                 const size_t t = slices[i].tensor;
                 different[i] =
                     CountDifferent(ours[t], other[t], slices[i], scratch);
                 return slices[i].blocks * ours[t].block_out();
               });
  for (size_t i = 0; i < slices.size(); ++i) {
    report.tensors[check[slices[i].tensor]].different += different[i];
  }

  // Figures, added up in the order of the slices: the same for any threads.
  std::erase_if(slices, [&](const Slice& s) {
    return !ours[s.tensor].dtype ||
           report.tensors[check[s.tensor]].different == 0;
  });
  std::vector<Figures> parts(slices.size());
  const auto no_progress = [&](uint64_t, uint64_t) {
    return !options.progress || options.progress(total, total);
  };
  ParallelFor(slices.size(), options.threads, 0, no_progress,
              [&](size_t i, Scratch& scratch) -> uint64_t {
                const size_t t = slices[i].tensor;
                parts[i] = Measure(ours[t], other[t], slices[i], scratch);
                return 0;
              });
  std::map<size_t, Figures> sums;
  for (size_t i = 0; i < slices.size(); ++i) {
    sums[slices[i].tensor].Add(parts[i]);
  }
  constexpr double kFarOff = 6;  // dB; two bits of quantization reach more
  std::vector<size_t> far_off;
  for (const auto& [i, f] : sums) {
    TensorCheck& c = report.tensors[check[i]];
    Fill(c, f);
    if (c.snr_db < kFarOff) far_off.push_back(i);
  }
  ParallelFor(far_off.size(), options.threads, 0, no_progress,
              [&](size_t i, Scratch& scratch) -> uint64_t {
                const size_t t = far_off[i];
                report.tensors[check[t]].rows_permuted =
                    RowsPermuted(ours[t], other[t], scratch);
                return 0;
              });
  model.CheckUnchanged();

  const auto rank = [](const TensorCheck& c) {
    // What could not be compared, other shapes, differences by SNR, equal.
    const int group = !c.not_compared.empty() ? 0
                      : !c.same_shape()       ? 1
                      : c.different > 0       ? 2
                                              : 3;
    return std::pair(group, c.different > 0 ? c.snr_db : 0.0);
  };
  std::stable_sort(
      report.tensors.begin(), report.tensors.end(),
      [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  report.identical = static_cast<uint64_t>(
      std::count_if(report.tensors.begin(), report.tensors.end(),
                    [](const auto& c) { return c.identical(); }));
  report.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  return report;
}

}  // namespace dequant

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
#include "src/model/parallel.h"

namespace dequant {
namespace {

constexpr uint64_t kSliceElements = 128 << 10;

std::optional<DType> DTypeOf(std::string_view safetensors) {
  for (const DType t : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (Name(t) == safetensors) return t;
  }
  return std::nullopt;
}

/// A tensor, ours and theirs.
struct Pair {
  ModelTensor ours;
  const SafetensorsFile* file;
  const SafetensorsEntry* theirs;
  std::optional<DType> dtype;  // theirs; nothing: bytes are compared
  size_t check;                // position in the report

  const TensorInfo& info() const { return *ours.info; }
  uint64_t block() const {
    return static_cast<uint64_t>(info().type->block_elements);
  }
  uint64_t element_bytes() const {
    return dtype ? SizeOf(*dtype)
                 : static_cast<uint64_t>(info().type->block_bytes);
  }

  std::span<const uint8_t> Packed(uint64_t begin, uint64_t n,
                                  Scratch& s) const {
    const auto bytes = static_cast<uint64_t>(info().type->block_bytes);
    const auto out = s.in.Get(n / block() * bytes);
    ours.file->Read(info(), begin / block() * bytes, out);
    return out;
  }
  std::span<const uint8_t> Theirs(uint64_t begin, uint64_t n, Buffer& b) const {
    const auto out = b.Get(n * element_bytes());
    file->Read(*theirs, begin * element_bytes(), out);
    return out;
  }
};

void Decode(const Pair& p, int32_t type, std::span<const uint8_t> from,
            DType to, void* out, uint64_t n) {
  const Status s =
      Dequantize(type, from.data(), to, out, static_cast<int64_t>(n), 1);
  if (s != Status::kOk) {
    throw Error(p.ours.file->path(), static_cast<int64_t>(p.info().offset),
                Tensor(p.info().name), ErrorString(s));
  }
}

/// A run of elements, whole blocks, of one pair.
struct Slice {
  size_t pair;
  uint64_t begin, n;
};

std::vector<Slice> Cut(const std::vector<Pair>& pairs,
                       const std::vector<size_t>& which) {
  std::vector<Slice> slices;
  for (const size_t i : which) {
    const uint64_t n = pairs[i].info().elements, block = pairs[i].block();
    const uint64_t step = std::max(kSliceElements / block, uint64_t{1}) * block;
    for (uint64_t b = 0; b < n; b += step) {
      slices.push_back({i, b, std::min(step, n - b)});
    }
  }
  return slices;
}

/// Values of a slice whose bits differ.
uint64_t CountDifferent(const Pair& p, const Slice& s, Scratch& scratch) {
  std::span<const uint8_t> ours = p.Packed(s.begin, s.n, scratch);
  if (p.dtype) {
    const auto values = scratch.out.Get(s.n * SizeOf(*p.dtype));
    Decode(p, p.info().type_id, ours, *p.dtype, values.data(), s.n);
    ours = values;
  }
  const auto theirs = p.Theirs(s.begin, s.n, scratch.other);
  if (std::memcmp(ours.data(), theirs.data(), ours.size()) == 0) return 0;
  const uint64_t size = p.element_bytes();
  uint64_t different = 0;
  for (uint64_t i = 0; i < ours.size(); i += size) {
    different += std::memcmp(ours.data() + i, theirs.data() + i, size) != 0;
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

/// Elements [begin, begin + n) of both sides as F32.
struct Values {
  const float* ours;
  const float* theirs;
};
Values Decode(const Pair& p, uint64_t begin, uint64_t n, Scratch& scratch) {
  const auto out = scratch.out.Get(2 * n * sizeof(float));
  auto* values = reinterpret_cast<float*>(out.data());
  Decode(p, p.info().type_id, p.Packed(begin, n, scratch), DType::kF32, values,
         n);
  Decode(p, static_cast<int32_t>(*p.dtype), p.Theirs(begin, n, scratch.other),
         DType::kF32, values + n, n);
  return {values, values + n};
}

Figures Measure(const Pair& p, const Slice& s, Scratch& scratch) {
  const Values v = Decode(p, s.begin, s.n, scratch);
  Figures f;
  for (uint64_t i = 0; i < s.n; ++i) {
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
bool RowsPermuted(const Pair& p, Scratch& scratch) {
  const std::vector<uint64_t>& dims = p.info().dims;
  constexpr uint64_t kMaxRow = 1 << 20;
  if (dims.size() != 2 || dims[1] < 4 || dims[0] < 16 || dims[0] > kMaxRow) {
    return false;
  }
  std::vector<double> ours, theirs;
  for (uint64_t row = 0; row < dims[1]; ++row) {
    const Values v = Decode(p, row * dims[0], dims[0], scratch);
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
  report.warnings = model.warnings();

  std::vector<SafetensorsFile> files;
  for (const std::string& path : SafetensorsShards(safetensors)) {
    files.push_back(SafetensorsFile::Open(path));
  }
  std::map<std::string_view,
           std::pair<const SafetensorsFile*, const SafetensorsEntry*>>
      theirs;
  report.by_dequant = !files.empty();
  for (const SafetensorsFile& f : files) {
    if (!f.header().metadata.contains("dequant.version")) {
      report.by_dequant = false;
    }
    for (const SafetensorsEntry& e : f.header().tensors) {
      if (!theirs.emplace(e.name, std::pair(&f, &e)).second) {
        throw Error(f.path(), Error::kNoOffset, Tensor(e.name),
                    "is in two of the files");
      }
    }
  }

  std::vector<Pair> pairs;
  for (const ModelTensor& t : model.tensors()) {
    const auto it = theirs.find(t.info->name);
    const auto found = it == theirs.end() ? decltype(it->second)() : it->second;
    if (it != theirs.end()) theirs.erase(it);
    if (!filter.Accepts(t.info->name)) continue;
    if (!t.info->type) {
      report.skipped.emplace_back(t.info->name);
      continue;
    }
    if (!found.second) {
      report.missing.emplace_back(t.info->name);
      continue;
    }
    TensorCheck c;
    c.name = t.info->name;
    c.type = t.info->type->name;
    c.dtype = found.second->dtype;
    c.elements = t.info->elements;
    c.theirs_shape = found.second->shape;
    c.shape = ResolveShape(model, t,
                           options.reference ? &*options.reference : nullptr)
                  .shape;
    c.not_compared = WhyNot(*t.info, *found.second);
    if (c.not_compared.empty()) {
      pairs.push_back({t, found.first, found.second,
                       t.info->type->kind == TypeKind::kCopied
                           ? std::nullopt
                           : DTypeOf(c.dtype),
                       report.tensors.size()});
    }
    report.tensors.push_back(std::move(c));
  }
  for (const auto& [name, where] : theirs) {
    if (filter.Accepts(name)) report.extra.emplace_back(name);
  }

  // Bits.
  std::vector<size_t> which(pairs.size());
  uint64_t total = 0;
  for (size_t i = 0; i < pairs.size(); ++i) {
    which[i] = i;
    total += pairs[i].theirs->end - pairs[i].theirs->begin;
  }
  std::vector<Slice> slices = Cut(pairs, which);
  std::vector<uint64_t> different(slices.size());
  ParallelFor(slices.size(), options.threads, total, options.progress,
              [&](size_t i, Scratch& scratch) {
                const Pair& p = pairs[slices[i].pair];
                different[i] = CountDifferent(p, slices[i], scratch);
                return slices[i].n * p.element_bytes();
              });
  for (size_t i = 0; i < slices.size(); ++i) {
    report.tensors[pairs[slices[i].pair].check].different += different[i];
  }

  // Figures, added up in the order of the slices: the same for any threads.
  which.clear();
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (pairs[i].dtype && report.tensors[pairs[i].check].different > 0) {
      which.push_back(i);
    }
  }
  slices = Cut(pairs, which);
  std::vector<Figures> parts(slices.size());
  const auto no_progress = [&](uint64_t, uint64_t) {
    return !options.progress || options.progress(total, total);
  };
  ParallelFor(slices.size(), options.threads, 0, no_progress,
              [&](size_t i, Scratch& scratch) -> uint64_t {
                parts[i] = Measure(pairs[slices[i].pair], slices[i], scratch);
                return 0;
              });
  std::map<size_t, Figures> sums;
  for (size_t i = 0; i < slices.size(); ++i) sums[slices[i].pair].Add(parts[i]);
  constexpr double kFarOff = 6;  // dB; two bits of quantization reach more
  which.clear();
  for (const auto& [i, f] : sums) {
    TensorCheck& c = report.tensors[pairs[i].check];
    Fill(c, f);
    if (c.snr_db < kFarOff) which.push_back(i);
  }
  ParallelFor(which.size(), options.threads, 0, no_progress,
              [&](size_t i, Scratch& scratch) -> uint64_t {
                const Pair& p = pairs[which[i]];
                report.tensors[p.check].rows_permuted =
                    RowsPermuted(p, scratch);
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

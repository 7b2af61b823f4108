// A model into memory. All of it is mapped first, so that what cannot fit is
// known before the work; each page is then touched first by the thread that
// writes its values.
#include <cerrno>
#include <chrono>
#include <system_error>

#include "dequant/model.h"
#include "src/file/checked.h"
#include "src/file/text.h"
#include "src/model/memory.h"
#include "src/model/plan.h"

namespace dequant {
namespace {

constexpr uint64_t kSliceBytes = 2 << 20;  // of output, about
// Several huge pages: where two threads touch one at the same time, both zero
// it and one has to throw it away.
constexpr uint64_t kGroupBytes = 8 << 20;

[[noreturn]] void FailMemory(const PlannedTensor& t, const std::string& why) {
  throw Error(
      t.source.file->path(), static_cast<int64_t>(t.info().table_offset),
      Tensor(t.info().name),
      "there is no memory for its " + BytesText(t.out_bytes()) + ": " + why);
}

}  // namespace

LoadedModel LoadModel(const std::string& path, const LoadOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  CheckTarget();
  const ModelFiles model = ModelFiles::Open(path);
  LoadedModel out;
  const std::vector<PlannedTensor> plan =
      PlanTensors(model, options, RulesOf(options), out.summary);
  if (options.strict) RejectWarnings(path, out.summary.warnings);

  // A mapping is refused only if it alone is too large; many that are too large
  // together would end in the process being killed.
  const uint64_t available = AvailableMemory();
  uint64_t bytes = 0;
  // What alignment adds is not known yet, and only costs addresses.
  Arena arena(out.summary.bytes_out + out.summary.bytes_out / 64);
  out.tensors.reserve(plan.size());
  for (const PlannedTensor& t : plan) {
    const uint64_t n = t.out_bytes();
    if (!RangeFits(bytes, n, available)) {
      FailMemory(t, "the tensors before it take " + BytesText(bytes) +
                        ", and the system can give " + BytesText(available));
    }
    bytes += n;
    const std::shared_ptr<uint8_t> data = arena.Get(n);
    if (!data) FailMemory(t, std::generic_category().message(errno));
    out.tensors.push_back({std::string(t.info().name),
                           std::string(t.out_type()),
                           t.shape.shape,
                           t.shape.source,
                           {data.get(), n},
                           data});
  }

  const std::vector<Slice> slices = CutIntoSlices(plan, kSliceBytes);
  ForEachSlice(plan, slices, kGroupBytes, options, out.summary.bytes_out,
               [&](size_t i, Scratch& scratch) -> uint64_t {
                 const Slice& s = slices[i];
                 const PlannedTensor& t = plan[s.tensor];
                 const uint64_t n = s.blocks * t.block_out();
                 ReadBlocks(t, t.dtype, s.block, s.blocks,
                            out.tensors[s.tensor].data.subspan(
                                s.block * t.block_out(), n),
                            scratch);
                 return n;
               });
  model.CheckUnchanged();
  if (options.progress &&
      !options.progress(out.summary.bytes_out, out.summary.bytes_out)) {
    throw Cancelled();
  }
  out.summary.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  return out;
}

}  // namespace dequant

// What a pass over a model is going to do, tensor by tensor; and its work, in
// slices. Conversion, loading and verification differ in where the values go.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dequant/model.h"
#include "src/model/parallel.h"

namespace dequant {

/// A tensor of the model and what becomes of it.
struct PlannedTensor {
  ModelTensor source;
  std::optional<ModelTensor> scale;  ///< to multiply in
  std::optional<DType> dtype;        ///< nothing: bytes are copied
  ResolvedShape shape;

  const TensorInfo& info() const { return *source.info; }
  /// Elements of a block of the source.
  uint64_t block_elements() const {
    return static_cast<uint64_t>(info().type->block_elements);
  }
  uint64_t block_bytes() const {
    return static_cast<uint64_t>(info().type->block_bytes);
  }
  uint64_t blocks() const { return info().elements / block_elements(); }
  /// Bytes that a block becomes.
  uint64_t block_out() const {
    return dtype ? block_elements() * SizeOf(*dtype) : block_bytes();
  }
  uint64_t out_bytes() const { return blocks() * block_out(); }
  /// As safetensors spells it.
  std::string_view out_type() const {
    return dtype ? Name(*dtype) : info().type->name;
  }
};

/// What a pass decides for each tensor.
struct PlanRules {
  /// The type to dequantize to; nothing copies the bytes.
  std::function<std::optional<DType>(const TensorInfo&)> dtype;
  std::function<bool(const WeightScale&)> fold;
};

/// The rules that the options of Convert and LoadModel give.
PlanRules RulesOf(const LoadOptions& options);

/// The tensors to work on, in the order of the model. `summary` gets all but
/// the seconds. Throws Error: a shape, a regular expression.
std::vector<PlannedTensor> PlanTensors(const ModelFiles& model,
                                       const CommonOptions& options,
                                       const PlanRules& rules,
                                       LoadSummary& summary);

/// --strict: throws the first of the warnings, if there are any.
void RejectWarnings(const std::string& path,
                    const std::vector<std::string>& warnings);

/// Throws Error if DEQUANT_TARGET names a target that this CPU lacks.
void CheckTarget();

/// A run of whole blocks of one tensor.
struct Slice {
  size_t tensor;
  uint64_t block;
  uint64_t blocks;
};

/// All blocks of the tensors, in their order, in slices that become about
/// `out_bytes` each.
std::vector<Slice> CutIntoSlices(std::span<const PlannedTensor> tensors,
                                 uint64_t out_bytes);

/// ParallelFor over slices, with the input read ahead of the threads. A thread
/// takes neighbours of together `group_bytes` of output, or one slice.
void ForEachSlice(std::span<const PlannedTensor> tensors,
                  std::span<const Slice> slices, uint64_t group_bytes,
                  const CommonOptions& options, uint64_t total,
                  const WorkFn& work);

/// Reads `blocks` blocks and writes their values as `dtype`, scaled, or their
/// bytes, to `out`, which has that size. Throws Error if the file has shrunk.
void ReadBlocks(const PlannedTensor& t, std::optional<DType> dtype,
                uint64_t block, uint64_t blocks, std::span<uint8_t> out,
                Scratch& scratch);

/// Dequantize() that throws Error.
void DequantizeOrThrow(const ModelTensor& t, int32_t type, const void* from,
                       DType to, void* out, uint64_t elements);

}  // namespace dequant

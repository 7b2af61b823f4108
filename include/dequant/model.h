// Whole models: their shards, true shapes, GGUF -> memory and safetensors.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dequant/dequant.h"
#include "dequant/gguf.h"
#include "dequant/safetensors.h"

namespace dequant {

/// A tensor and the shard that holds it.
struct ModelTensor {
  const GgufFile* file;
  const TensorInfo* info;
};

/// Every file of a model, open and checked against each other.
class ModelFiles {
 public:
  /// `path` is a GGUF file, any shard `NAME-00001-of-0000N.gguf` of a set, or a
  /// folder that holds one model. Throws Error that names the shard.
  static ModelFiles Open(const std::string& path);

  const std::vector<GgufFile>& files() const { return files_; }
  /// In the order of the shards and their tables.
  const std::vector<ModelTensor>& tensors() const { return tensors_; }
  /// The entry of the first shard that has it; nullptr if none does.
  const KeyValue* Find(std::string_view key) const;
  const std::vector<std::string>& warnings() const { return warnings_; }

  /// Throws Error if a shard has changed since Open.
  void CheckUnchanged() const;
  /// The shard that `path` leads to, also through links; nullptr if none.
  const GgufFile* Holds(const std::string& path) const;

 private:
  std::vector<GgufFile> files_;
  std::vector<ModelTensor> tensors_;
  std::vector<std::string> warnings_;
};

/// Where a tensor's shape came from.
enum class ShapeSource {
  kDims,       ///< the file's dims, reversed
  kOrigShape,  ///< the key comfy.gguf.orig_shape.NAME
  kReference,  ///< --like or --shapes
};
std::string_view Name(ShapeSource s);  ///< "dims", "orig_shape", "reference"

struct ResolvedShape {
  std::vector<uint64_t> shape;  ///< outermost first
  ShapeSource source;
  std::vector<uint64_t> file_shape;  ///< what the file alone says
  ShapeSource file_source;           ///< kDims or kOrigShape
};

/// Shapes that an outside reference gives, by tensor name.
struct ShapeReference {
  std::string file;  ///< for messages
  std::map<std::string, std::vector<uint64_t>, std::less<>> shapes;

  /// --like: a safetensors file, or the .index.json of a sharded one.
  static ShapeReference FromSafetensors(const std::string& path);
  /// --shapes: {"NAME": [1, 6, 3072], ...}
  static ShapeReference FromJson(const std::string& path);
};

/// The true shape of a tensor: reference, then orig_shape key, then the dims.
/// Throws Error naming the tensor and both shapes if the counts disagree.
ResolvedShape ResolveShape(const ModelFiles& model, const ModelTensor& t,
                           const ShapeReference* reference);

/// A tensor whose reference contradicts the file.
struct CorrectedShape {
  std::string name;
  std::vector<uint64_t> shape;       ///< of the reference
  std::vector<uint64_t> file_shape;  ///< what would have been used
  ShapeSource file_source;
};

/// Where the shapes of a model came from.
struct ShapeReport {
  std::map<ShapeSource, uint64_t> counts;
  std::vector<CorrectedShape> corrected;

  void Add(std::string_view name, const ResolvedShape& r);
  /// For people, one line each: "62 tensors have only the dims to go by ..."
  std::vector<std::string> Lines() const;
};

/// Progress of long work: bytes done of the total. Called on the thread that
/// asked for the work, about ten times a second. Return false to cancel.
using ProgressFn = std::function<bool(uint64_t done, uint64_t total)>;

/// What is thrown when a ProgressFn returned false.
class Cancelled : public Error {
 public:
  Cancelled() : Error("", kNoOffset, "", "cancelled") {}
};

/// What every pass over a model takes.
struct CommonOptions {
  int threads = 0;                          ///< 0: all
  std::optional<ShapeReference> reference;  ///< true shapes
  std::string include;  ///< regular expressions that a name must contain, and
  std::string exclude;  ///< must not; empty: all, none
  ProgressFn progress;
};

/// Tensors whose name contains a match of `pattern` become `dtype`.
struct DTypeRule {
  std::string pattern;  ///< a regular expression (ECMAScript)
  DType dtype;
};

/// What LoadModel makes of the tensors, and Convert too.
struct LoadOptions : CommonOptions {
  DType dtype = DType::kF16;         ///< of quantized tensors
  bool cast_all = false;             ///< plain float tensors too
  std::vector<DTypeRule> dtype_for;  ///< the first match overrules both
  bool fold = true;     ///< multiply NVFP4 scales in, see FindScales
  bool strict = false;  ///< warnings are errors
};

struct ConvertOptions : LoadOptions {
  uint64_t max_shard_size = 0;  ///< bytes of data; 0: one file
  bool force = false;           ///< overwrite the target
  bool sync = false;  ///< the data is on the disk before the target appears
};

/// The scale of an NVFP4 weight STEM.weight, a tensor of its own: F32, named
/// STEM.scale or STEM.weight.scale, with one factor for the weight or one for
/// each index of its outermost dimension (as each expert has in ggml).
struct WeightScale {
  ModelTensor weight, scale;
};

/// The tensors that belong to NVFP4 weights.
struct ScaleReport {
  std::vector<WeightScale> scales;     ///< in the order of the weights
  std::vector<ModelTensor> of_inputs;  ///< STEM.input_scale: never folded
  /// Scales that cannot be folded, because of their type, their shape, or a
  /// second one with the other name.
  std::vector<std::string> warnings;
};
ScaleReport FindScales(const ModelFiles& model);

/// What was done to a model.
struct LoadSummary {
  std::map<std::string, uint64_t> tensors_per_type;  ///< of the source
  ShapeReport shapes;
  uint64_t tensors = 0;
  std::vector<std::string> skipped;  ///< tensors of unknown type
  /// Weights and the scales that were multiplied into them, by name.
  std::vector<std::pair<std::string, std::string>> folded;
  std::vector<std::string> input_scales;  ///< of NVFP4 weights; left alone
  uint64_t bytes_in = 0;                  ///< of tensor data
  uint64_t bytes_out = 0;                 ///< of tensor data
  double seconds = 0;
  std::vector<std::string> warnings;
};

struct ConvertSummary : LoadSummary {
  std::vector<std::string> outputs;  ///< files written
};

/// Writes every tensor of `in` to `out` with its true shape. Memory does not
/// grow with the model. Throws Error; then nothing is left behind.
ConvertSummary Convert(const std::string& in, const std::string& out,
                       const ConvertOptions& options);

/// A dense tensor in memory.
struct LoadedTensor {
  std::string name;
  std::string dtype;            ///< "F16", "BF16", "F32"; "F64", "I32", ...
  std::vector<uint64_t> shape;  ///< outermost first
  ShapeSource shape_source;
  std::span<uint8_t> data;  ///< at a multiple of 64 bytes
  /// Keeps `data`; the pages of a tensor of 1 MiB and more go back to the
  /// system with the last copy of this, those of smaller ones with the last of
  /// their neighbours. May outlive everything else.
  std::shared_ptr<void> memory;
};

struct LoadedModel {
  std::vector<LoadedTensor> tensors;  ///< in the order of the model
  LoadSummary summary;
};

/// Dequantizes every tensor of `path` (as ModelFiles::Open takes it) into
/// memory, in its true shape. Throws Error, also where the memory does not
/// suffice: it names the tensor.
LoadedModel LoadModel(const std::string& path, const LoadOptions& options);

/// `reference` is what Convert was given. Of a file that Convert wrote without
/// folding scales, or that holds a scale, they are not folded here either.
struct VerifyOptions : CommonOptions {};

/// How a tensor of the GGUF compares with the one of the same name in a
/// safetensors file. Ours is dequantized to the file's dtype.
struct TensorCheck {
  std::string name;
  std::string type;             ///< ggml type
  std::string dtype;            ///< of the safetensors file
  std::vector<uint64_t> shape;  ///< that ours has
  std::vector<uint64_t> theirs_shape;
  /// Why values could not be compared; empty if they were.
  std::string not_compared;
  uint64_t elements = 0;
  uint64_t different = 0;  ///< values whose bits differ
  /// Of F32 values; only where bits differ, NaN and Inf left out.
  double max_error = 0, rms_error = 0;
  double snr_db = 0;  ///< signal: theirs; Inf: no error
  uint64_t nans = 0, theirs_nans = 0, infs = 0, theirs_infs = 0;
  bool rows_permuted = false;  ///< the same rows, it seems, in another order

  bool same_shape() const { return shape == theirs_shape; }
  bool identical() const {
    return not_compared.empty() && different == 0 && same_shape();
  }
};

struct VerifyReport {
  std::vector<TensorCheck> tensors;  ///< the worst first
  std::vector<std::string> missing;  ///< in the GGUF only
  std::vector<std::string> extra;    ///< in the safetensors file only
  std::vector<std::string> skipped;  ///< of unknown type
  std::vector<std::string> warnings;
  bool by_dequant = false;  ///< the file says that Convert wrote it
  uint64_t identical = 0;
  double seconds = 0;

  /// Of Convert's output: every bit is as it must be. Of another file: every
  /// tensor was found, with the same shape.
  bool ok() const;
};

/// Derives every tensor of the GGUF `in` again and compares it with
/// `safetensors` (a file or an .index.json). Throws Error.
VerifyReport Verify(const std::string& in, const std::string& safetensors,
                    const VerifyOptions& options);

}  // namespace dequant

// The extension dequant._core: the library, as the Python files need it. What
// is said about arguments is said there; here sizes are checked once more,
// because memory is at stake.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dequant/model.h"
#include "dequant/version.h"
#include "python/src/pool.h"
#include "src/file/gguf_value.h"
#include "src/model/plan.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace dequant {
namespace {

/// The memory of a Python object: contiguous, and writable if asked for.
class Memory {
 public:
  Memory(nb::handle object, bool writable) {
    const int flags = writable ? PyBUF_WRITABLE : PyBUF_SIMPLE;
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) {
      throw nb::python_error();
    }
  }
  ~Memory() { PyBuffer_Release(&view_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint8_t* data() const { return static_cast<uint8_t*>(view_.buf); }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_;
};

void CheckSize(const Memory& memory, uint64_t want, const char* what) {
  if (memory.size() == want) return;
  const std::string text = std::string(what) + " has " +
                           std::to_string(memory.size()) + " bytes, expected " +
                           std::to_string(want);
  throw nb::value_error(text.c_str());
}

[[noreturn]] void Fail(Status status) {
  throw nb::value_error(ErrorString(status));
}

/// Names in a file are bytes; those that are not UTF-8 come as surrogates, so
/// that every name has a text of its own.
nb::str Text(std::string_view s) {
  return nb::steal<nb::str>(PyUnicode_DecodeUTF8(
      s.data(), static_cast<Py_ssize_t>(s.size()), "surrogateescape"));
}

std::string Bytes(nb::str s) {
  const nb::object bytes =
      nb::steal(PyUnicode_AsEncodedString(s.ptr(), "utf-8", "surrogateescape"));
  if (!bytes.is_valid()) throw nb::python_error();
  return {PyBytes_AsString(bytes.ptr()),
          static_cast<size_t>(PyBytes_Size(bytes.ptr()))};
}

nb::tuple ShapeTuple(const std::vector<uint64_t>& shape) {
  nb::list list;
  for (const uint64_t d : shape) list.append(d);
  return nb::tuple(list);
}

/// A metadata value at `p`, which is moved behind it.
nb::object ToPython(KvType type, const uint8_t*& p) {
  if (type == KvType::kString) {
    const auto n = Load<uint64_t>(p);
    p += 8 + n;
    return Text({reinterpret_cast<const char*>(p - n), n});
  }
  if (type == KvType::kArray) {
    const auto element = static_cast<KvType>(Load<uint32_t>(p));
    const auto count = Load<uint64_t>(p + 4);
    p += 12;
    nb::list list;
    for (uint64_t i = 0; i < count; ++i) list.append(ToPython(element, p));
    return list;
  }
  const uint64_t size = ScalarBytes(type);
  const KeyValue one{"", "", type, type, 1, {p, size}, 0};
  p += size;
  if (type == KvType::kBool) return nb::bool_(one.AsUint() != 0);
  if (!one.IsInteger()) return nb::float_(one.AsFloat());
  return type == KvType::kUint64 ? nb::int_(one.AsUint())
                                 : nb::int_(one.AsInt());
}

/// Reports to a Python callable (or None) and looks for Ctrl-C. What Python
/// raises ends the work, and Rethrow() raises it again.
class Reporter {
 public:
  explicit Reporter(nb::object callable) : callable_(std::move(callable)) {}

  ProgressFn Function() {
    return [this](uint64_t done, uint64_t total) {
      const nb::gil_scoped_acquire gil;
      try {
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        return callable_.is_none() ||
               !callable_(done, total).is(nb::bool_(false));
      } catch (nb::python_error& e) {
        error_.emplace(std::move(e));
        return false;
      }
    };
  }

  /// With the GIL held, after Cancelled.
  void Rethrow() {
    if (error_) throw nb::python_error(std::move(*error_));
  }

 private:
  nb::object callable_;
  std::optional<nb::python_error> error_;
};

/// Runs `work` without the GIL.
template <class Work>
auto WithoutGil(Reporter& reporter, const Work& work) {
  try {
    const nb::gil_scoped_release release;
    return work();
  } catch (const Cancelled&) {
    reporter.Rethrow();
    throw;
  }
}

/// A numpy array of `n` bytes of any content; its memory is used again.
nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> Allocate(size_t n) {
  // Lives as long as the process, because arrays may die after everything else.
  static Pool& pool = *new Pool;
  auto block = std::make_unique<Pool::Block>(pool.Get(n));
  void* const data = block->data;
  const nb::capsule owner(block.release(), [](void* p) noexcept {
    const std::unique_ptr<Pool::Block> mine(static_cast<Pool::Block*>(p));
    pool.Put(*mine);
  });
  return {data, {n}, owner};
}

void Run(int32_t type_id, nb::handle source, int32_t out_type, nb::handle out,
         int threads) {
  const TypeInfo* type = FindType(type_id);
  if (!type) Fail(Status::kUnknownType);
  const Memory from(source, false), to(out, true);
  const auto dtype = static_cast<DType>(out_type);
  const uint64_t blocks =
      from.size() / static_cast<uint64_t>(type->block_bytes);
  const uint64_t n = blocks * static_cast<uint64_t>(type->block_elements);
  CheckSize(from, blocks * static_cast<uint64_t>(type->block_bytes), "data");
  CheckSize(to, n * SizeOf(dtype), "out");
  Status status;
  {
    const nb::gil_scoped_release release;
    status = Dequantize(type_id, from.data(), dtype, to.data(),
                        static_cast<int64_t>(n), threads);
  }
  if (status != Status::kOk) Fail(status);
}

/// An open model; what is handed out keeps it alive.
class Model {
 public:
  Model(nb::bytes path, std::optional<ShapeReference> reference)
      : files_(ModelFiles::Open(std::string(path.c_str(), path.size()))) {
    for (const ModelTensor& t : files_.tensors()) {
      shapes_.push_back(
          ResolveShape(files_, t, reference ? &*reference : nullptr));
    }
  }

  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  /// (name, type name, type id, shape, shape source, offset, bytes, file)
  nb::list Tensors() const {
    nb::list out;
    for (size_t i = 0; i < shapes_.size(); ++i) {
      const ModelTensor& t = files_.tensors()[i];
      const std::string_view source = Name(shapes_[i].source);
      out.append(nb::make_tuple(
          Text(t.info->name), TypeName(t.info->type_id), t.info->type_id,
          ShapeTuple(shapes_[i].shape), nb::str(source.data(), source.size()),
          t.info->offset, t.info->bytes, Text(t.file->path())));
    }
    return out;
  }

  nb::list Keys() const {
    nb::list out;
    for (const GgufFile& f : files_.files()) {
      for (const KeyValue& kv : f.metadata()) {
        if (files_.Find(kv.key) == &kv) out.append(Text(kv.key));
      }
    }
    return out;
  }

  /// The value of a key; KeyError if it is absent.
  nb::object Value(nb::str key) const {
    const KeyValue* kv = files_.Find(Bytes(key));
    if (!kv) throw nb::key_error(nb::str(key).c_str());
    // Strings and arrays stand right behind their lengths.
    const uint8_t* p = kv->bytes.data() - (kv->type == KvType::kString  ? 8
                                           : kv->type == KvType::kArray ? 12
                                                                        : 0);
    return ToPython(kv->type, p);
  }

  nb::list Warnings() const {
    nb::list out;
    for (const std::string& w : files_.warnings()) out.append(Text(w));
    return out;
  }

  const ModelTensor& At(size_t i) const {
    if (i >= shapes_.size()) throw nb::index_error();
    return files_.tensors()[i];
  }

  const ModelFiles& files() const { return files_; }

 private:
  ModelFiles files_;
  std::vector<ResolvedShape> shapes_;  // of files_.tensors()
};

/// A run of blocks of a tensor and where its values go.
struct Job {
  PlannedTensor tensor;
  uint64_t first_block;
  std::unique_ptr<Memory> out;
};

/// (tensor index, first block, blocks, dtype or None, writable memory)
using JobRow =
    std::tuple<size_t, uint64_t, uint64_t, std::optional<int32_t>, nb::object>;

void Read(const Model& model, const std::vector<JobRow>& rows, int threads,
          nb::object progress) {
  constexpr uint64_t kSliceBytes = 512 << 10;  // of output, about
  std::vector<Job> jobs;
  std::vector<Slice> slices;  // of the jobs
  uint64_t total = 0;
  for (const auto& [index, first, blocks, dtype, out] : rows) {
    const ModelTensor& t = model.At(index);
    if (!t.info->type) Fail(Status::kUnknownType);
    const uint64_t all =
        t.info->bytes / static_cast<uint64_t>(t.info->type->block_bytes);
    if (first > all || blocks > all - first) throw nb::index_error();
    Job job{{t, {}, {}, {}}, first, std::make_unique<Memory>(out, true)};
    if (dtype && *dtype != t.info->type_id) {
      job.tensor.dtype = static_cast<DType>(*dtype);
    }
    const uint64_t block_out = job.tensor.block_out();
    CheckSize(*job.out, blocks * block_out, "out");
    const uint64_t step = std::max<uint64_t>(1, kSliceBytes / block_out);
    for (uint64_t b = 0; b < blocks; b += step) {
      slices.push_back({jobs.size(), b, std::min(step, blocks - b)});
    }
    total += blocks * block_out;
    jobs.push_back(std::move(job));
  }

  Reporter reporter(std::move(progress));
  WithoutGil(reporter, [&] {
    const auto work = [&](size_t i, Scratch& scratch) {
      const Job& job = jobs[slices[i].tensor];
      const uint64_t block_out = job.tensor.block_out();
      const uint64_t n = slices[i].blocks * block_out;
      ReadBlocks(job.tensor, job.tensor.dtype,
                 job.first_block + slices[i].block, slices[i].blocks,
                 {job.out->data() + slices[i].block * block_out, n}, scratch);
      return n;
    };
    if (slices.size() == 1) {  // not worth a thread
      Scratch scratch;
      work(0, scratch);
    } else {
      ParallelFor(slices.size(), threads, total, reporter.Function(), work);
    }
    model.files().CheckUnchanged();
  });
}

ShapeReference Reference(
    const std::string& name,
    const std::vector<std::pair<nb::str, std::vector<uint64_t>>>& shapes) {
  ShapeReference reference{name, {}};
  for (const auto& [key, shape] : shapes) reference.shapes[Bytes(key)] = shape;
  return reference;
}

/// What load() and convert() share, see LoadOptions: (dtype, cast_all,
/// [(pattern, dtype)], fold, threads, reference or None, include, exclude)
using OptionsRow =
    std::tuple<int32_t, bool, std::vector<std::pair<std::string, int32_t>>,
               bool, int, std::optional<ShapeReference>, std::string,
               std::string>;

void Fill(LoadOptions& o, const OptionsRow& row, Reporter& reporter) {
  int32_t dtype = 0;
  std::vector<std::pair<std::string, int32_t>> dtype_for;
  std::tie(dtype, o.cast_all, dtype_for, o.fold, o.threads, o.reference,
           o.include, o.exclude) = row;
  o.dtype = static_cast<DType>(dtype);
  for (const auto& [pattern, t] : dtype_for) {
    o.dtype_for.push_back({pattern, static_cast<DType>(t)});
  }
  o.progress = reporter.Function();
}

nb::list Texts(const std::vector<std::string>& strings) {
  nb::list list;
  for (const std::string& text : strings) list.append(Text(text));
  return list;
}

/// ([(name, type, shape, bytes)], warnings); each tensor owns its memory.
nb::tuple LoadTensors(nb::bytes path, const OptionsRow& row,
                      nb::object progress) {
  Reporter reporter(std::move(progress));
  LoadOptions options;
  Fill(options, row, reporter);
  const std::string in(path.c_str(), path.size());
  LoadedModel model =
      WithoutGil(reporter, [&] { return LoadModel(in, options); });
  nb::list tensors;
  for (LoadedTensor& t : model.tensors) {
    auto memory = std::make_unique<std::shared_ptr<void>>(std::move(t.memory));
    const nb::capsule owner(memory.release(), [](void* p) noexcept {
      delete static_cast<std::shared_ptr<void>*>(p);
    });
    nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> bytes(t.data.data(),
                                                       {t.data.size()}, owner);
    tensors.append(
        nb::make_tuple(Text(t.name), t.dtype, ShapeTuple(t.shape), bytes));
  }
  return nb::make_tuple(tensors, Texts(model.summary.warnings));
}

nb::dict ConvertFile(nb::bytes source, nb::bytes target, const OptionsRow& row,
                     uint64_t max_shard_size, bool force, bool sync,
                     bool strict, nb::object progress) {
  Reporter reporter(std::move(progress));
  ConvertOptions options;
  Fill(options, row, reporter);
  options.max_shard_size = max_shard_size;
  options.force = force;
  options.sync = sync;
  options.strict = strict;
  const std::string in(source.c_str(), source.size());
  const std::string out(target.c_str(), target.size());
  const ConvertSummary s =
      WithoutGil(reporter, [&] { return Convert(in, out, options); });

  nb::dict types, shapes, folded, summary;
  for (const auto& [type, n] : s.tensors_per_type) types[type.c_str()] = n;
  for (const auto& [source_kind, n] : s.shapes.counts) {
    shapes[std::string(Name(source_kind)).c_str()] = n;
  }
  for (const auto& [weight, scale] : s.folded) {
    folded[Text(weight)] = Text(scale);
  }
  summary["outputs"] = Texts(s.outputs);
  summary["tensors"] = s.tensors;
  summary["types"] = types;
  summary["shapes"] = shapes;
  summary["skipped"] = Texts(s.skipped);
  summary["folded"] = folded;
  summary["input_scales"] = Texts(s.input_scales);
  summary["bytes_in"] = s.bytes_in;
  summary["bytes_out"] = s.bytes_out;
  summary["seconds"] = s.seconds;
  summary["warnings"] = Texts(s.warnings);
  return summary;
}

/// The Python class called with what the C++ one carries.
void RaiseError(const Error& e, nb::handle type) {
  const nb::object offset =
      e.offset() < 0 ? nb::none() : nb::object(nb::int_(e.offset()));
  const nb::object error = type(Text(e.what()), Text(e.file()), offset,
                                Text(e.subject()), Text(e.reason()));
  PyErr_SetObject(type.ptr(), error.ptr());
}

}  // namespace
}  // namespace dequant

NB_MODULE(_core, m) {
  using namespace dequant;
  m.doc() = "libdequant, as the Python files of this package use it.";
  m.attr("version") = kVersion;

  // What Error becomes: a class of the package, which therefore lives as long.
  m.def(
      "register_error",
      [](nb::type_object type) {
        nb::register_exception_translator(
            [](const std::exception_ptr& p, void* registered) {
              try {
                std::rethrow_exception(p);
              } catch (const Error& e) {
                RaiseError(e, static_cast<PyObject*>(registered));
              }
            },
            type.release().ptr());
      },
      "type"_a);

  m.def("types", [] {
    nb::list out;
    for (const TypeInfo& t : Types()) {
      out.append(nb::make_tuple(nb::str(t.name.data(), t.name.size()), t.id,
                                t.block_elements, t.block_bytes,
                                t.kind == TypeKind::kBlock   ? "quantized"
                                : t.kind == TypeKind::kFloat ? "float"
                                                             : "copied"));
    }
    return out;
  });
  m.def("target", &Target);
  m.def("targets", [] {
    nb::list out;
    for (const std::string& t : Targets()) out.append(t);
    return out;
  });
  m.def("allocate", &Allocate, "n"_a);
  m.def("run", &Run, "type_id"_a, "source"_a, "out_type"_a, "out"_a,
        "threads"_a);
  m.def("load", &LoadTensors, "path"_a, "options"_a, "progress"_a.none());
  m.def("convert", &ConvertFile, "source"_a, "target"_a, "options"_a,
        "max_shard_size"_a, "force"_a, "sync"_a, "strict"_a,
        "progress"_a.none());

  nb::class_<ShapeReference>(m, "ShapeReference")
      .def(nb::new_(&Reference), "name"_a, "shapes"_a)
      .def_static(
          "from_safetensors",
          [](nb::bytes path) {
            return ShapeReference::FromSafetensors({path.c_str(), path.size()});
          },
          "path"_a)
      .def_static(
          "from_json",
          [](nb::bytes path) {
            return ShapeReference::FromJson({path.c_str(), path.size()});
          },
          "path"_a);

  nb::class_<Model>(m, "Model")
      .def(nb::init<nb::bytes, std::optional<ShapeReference>>(), "path"_a,
           "reference"_a.none())
      .def("tensors", &Model::Tensors)
      .def("keys", &Model::Keys)
      .def("value", &Model::Value, "key"_a)
      .def("warnings", &Model::Warnings)
      .def(
          "data",
          [](const Model& self, size_t index) {
            const ModelTensor& t = self.At(index);
            const auto bytes = t.file->Map(*t.info);
            return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(
                bytes.data(), {bytes.size()}, nb::find(self));
          },
          "index"_a)
      .def("read", &Read, "jobs"_a, "threads"_a, "progress"_a.none());
}

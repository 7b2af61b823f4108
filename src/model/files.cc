// The files of a model. A set of shards is named NAME-00001-of-0000N.gguf and
// says in each file: split.no (from 0), split.count, split.tensors.count (of
// the whole set).
#include <algorithm>
#include <charconv>
#include <set>

#include "dequant/model.h"
#include "src/file/io.h"
#include "src/file/name_index.h"
#include "src/file/text.h"

namespace dequant {
namespace {

constexpr std::string_view kExtension = ".gguf";
constexpr uint64_t kMaxShards = 65535;  // split.count is a uint16

/// The parts of "STEM-00002-of-00005.gguf".
struct ShardName {
  std::string stem;
  uint64_t number = 0;  // from 1
  uint64_t count = 0;

  std::string Path(uint64_t n) const {
    const auto five = [](uint64_t v) {
      std::string digits = std::to_string(v);
      return digits.insert(0, digits.size() < 5 ? 5 - digits.size() : 0, '0');
    };
    return stem + "-" + five(n) + "-of-" + five(count) +
           std::string(kExtension);
  }
};

std::optional<ShardName> ParseShardName(std::string_view path) {
  // -NNNNN-of-NNNNN.gguf
  constexpr size_t kDigits = 5, kTail = 1 + kDigits + 4 + kDigits + 5;
  if (path.size() < kTail) return std::nullopt;
  const std::string_view tail = path.substr(path.size() - kTail);
  const auto number = [&](size_t at) -> std::optional<uint64_t> {
    uint64_t v = 0;
    const char* end = tail.data() + at + kDigits;
    const auto r = std::from_chars(tail.data() + at, end, v);
    return r.ec == std::errc() && r.ptr == end ? std::optional(v)
                                               : std::nullopt;
  };
  const auto no = number(1), count = number(10);
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || !no || !count ||
      !tail.ends_with(kExtension) || *no < 1 || *no > *count) {
    return std::nullopt;
  }
  return ShardName{std::string(path.substr(0, path.size() - kTail)), *no,
                   *count};
}

/// The model that a folder holds: its GGUF file, or the first of its shards.
std::string FindInFolder(const std::string& folder) {
  std::vector<std::string> names;
  if (const auto error = ListFolder(folder, &names)) {
    throw Error(folder, Error::kNoOffset, "",
                "cannot list the directory: " + ErrorText(error));
  }
  std::set<std::string> models;  // one name per file or set
  for (const std::string& name : names) {
    if (!name.ends_with(kExtension) || name.starts_with('.')) continue;
    const auto shard = ParseShardName(name);
    models.insert(shard ? shard->Path(1) : name);
  }
  if (models.empty()) {
    throw Error(folder, Error::kNoOffset, "",
                "is a directory without a .gguf file");
  }
  if (models.size() > 1) {
    std::string list;
    for (auto it = models.begin(); it != models.end() && list.size() < 200;
         ++it) {
      list += (list.empty() ? "" : ", ") + Escape(*it);
    }
    throw Error(folder, Error::kNoOffset, "",
                "is a directory with " + Count(models.size(), "model") +
                    "; name one of them: " + list);
  }
  return folder + (NameStart(folder) == folder.size() ? "" : "/") +
         *models.begin();
}

bool IsDirectory(const std::string& path) {
  FileStatus status;
  return !StatusOf(path, &status) && status.kind == FileKind::kDirectory;
}

[[noreturn]] void FailKey(const GgufFile& file, const KeyValue& kv,
                          std::string reason) {
  throw Error(file.path(), static_cast<int64_t>(kv.offset), Key(kv.key),
              std::move(reason));
}

/// Throws unless `file` says that it is shard `number` (from 1) of `count`.
void CheckShard(const GgufFile& file, uint64_t number, uint64_t count) {
  const KeyValue* its_count = file.Find("split.count");
  const KeyValue* its_number = file.Find("split.no");
  if (!its_count || !its_number) {
    throw Error(file.path(), Error::kNoOffset, "",
                std::string("has no key ") +
                    (its_count ? "split.no" : "split.count") +
                    ", so it is not shard " + std::to_string(number) + " of " +
                    std::to_string(count) + " as its name says");
  }
  if (its_count->AsUint() != count) {
    FailKey(file, *its_count,
            "is " + std::to_string(its_count->AsUint()) +
                ", but this file belongs to a set of " + std::to_string(count));
  }
  if (its_number->AsUint() != number - 1) {
    FailKey(file, *its_number,
            "is " + std::to_string(its_number->AsUint()) + ", but shard " +
                std::to_string(number) + " of " + std::to_string(count) +
                " must say " + std::to_string(number - 1) +
                ": files of the set are swapped or misnamed");
  }
}

}  // namespace

ModelFiles ModelFiles::Open(const std::string& given) {
  const std::string path = IsDirectory(given) ? FindInFolder(given) : given;
  const auto name = ParseShardName(path);
  ModelFiles model;
  GgufFile entry = GgufFile::Open(path);

  const KeyValue* split = entry.Find("split.count");
  const uint64_t count = split ? split->AsUint() : 0;
  if (count > 1) {
    if (count > kMaxShards) {
      FailKey(entry, *split,
              "is " + std::to_string(count) + "; at most " +
                  std::to_string(kMaxShards) + " shards are read");
    }
    if (!name) {
      FailKey(entry, *split,
              "says that this is one of " + std::to_string(count) +
                  " shards; to find the others, its name must end in "
                  "-00001-of-0000N.gguf");
    }
    if (name->count != count) {
      FailKey(entry, *split,
              "is " + std::to_string(count) + ", but the name says " +
                  std::to_string(name->count) + " shards");
    }
    model.files_.reserve(count);
    for (uint64_t i = 1; i <= count; ++i) {
      model.files_.push_back(i == name->number ? std::move(entry)
                                               : GgufFile::Open(name->Path(i)));
      CheckShard(model.files_.back(), i, count);
    }
  } else {
    if (name && name->count > 1) {
      model.warnings_.push_back(
          "named like shard " + std::to_string(name->number) + " of " +
          std::to_string(name->count) +
          ", but it has no split keys: taken for a whole model");
    }
    model.files_.push_back(std::move(entry));
  }

  NameIndex names;
  for (const GgufFile& file : model.files_) {
    for (const std::string& w : file.warnings()) {
      model.warnings_.push_back(model.files_.size() > 1 ? file.path() + ": " + w
                                                        : w);
    }
    for (const TensorInfo& t : file.tensors()) {
      names.Add(t.name, model.tensors_.size());
      model.tensors_.push_back({&file, &t});
    }
  }
  if (const auto twice = names.Build()) {
    const ModelTensor &a = model.tensors_[twice->first],
                      &b = model.tensors_[twice->second];
    throw Error(b.file->path(), static_cast<int64_t>(b.info->table_offset),
                Tensor(b.info->name), "is also in " + a.file->path());
  }
  if (count > 1) {
    for (const GgufFile& file : model.files_) {
      const KeyValue* total = file.Find("split.tensors.count");
      if (total && total->AsUint() != model.tensors_.size()) {
        FailKey(file, *total,
                "is " + std::to_string(total->AsUint()) + ", but the " +
                    std::to_string(count) + " shards hold " +
                    Count(model.tensors_.size(), "tensor"));
      }
    }
  }
  return model;
}

const KeyValue* ModelFiles::Find(std::string_view key) const {
  for (const GgufFile& file : files_) {
    if (const KeyValue* kv = file.Find(key)) return kv;
  }
  return nullptr;
}

void ModelFiles::CheckUnchanged() const {
  for (const GgufFile& file : files_) file.CheckUnchanged();
}

const GgufFile* ModelFiles::Holds(const std::string& path) const {
  FileStatus theirs;
  if (StatusOf(path, &theirs)) return nullptr;
  for (const GgufFile& file : files_) {
    FileStatus ours;
    if (!StatusOf(file.fd(), &ours) && ours.SameFile(theirs)) return &file;
  }
  return nullptr;
}

}  // namespace dequant

#include "src/core/registry.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "dequant/dequant.h"

namespace dequant {

// The only list of formats. A line declares the block layout that
// kernels/<name>.cc defines.
// clang-format off
static const Format& (*const kFormats[])() = {
    &FormatOf<struct F32>,
    &FormatOf<struct F16>,
    &FormatOf<struct Q4_0>,
    &FormatOf<struct Q4_1>,
    &FormatOf<struct Q5_0>,
    &FormatOf<struct Q5_1>,
    &FormatOf<struct Q8_0>,
    &FormatOf<struct Q8_1>,
    &FormatOf<struct Q2_K>,
    &FormatOf<struct Q3_K>,
    &FormatOf<struct Q4_K>,
    &FormatOf<struct Q5_K>,
    &FormatOf<struct Q6_K>,
    &FormatOf<struct Q8_K>,
    &FormatOf<struct IQ2_XXS>,
    &FormatOf<struct IQ2_XS>,
    &FormatOf<struct IQ3_XXS>,
    &FormatOf<struct IQ1_S>,
    &FormatOf<struct IQ4_NL>,
    &FormatOf<struct IQ3_S>,
    &FormatOf<struct IQ2_S>,
    &FormatOf<struct IQ4_XS>,
    &FormatOf<struct IQ1_M>,
    &FormatOf<struct BF16>,
    &FormatOf<struct TQ1_0>,
    &FormatOf<struct TQ2_0>,
    &FormatOf<struct MXFP4>,
    &FormatOf<struct NVFP4>,
    &FormatOf<struct Q1_0>,
    &FormatOf<struct Q2_0>,
};
// clang-format on

namespace {

const std::vector<const Format*>& AllFormats() {
  static const std::vector<const Format*> formats = [] {
    std::vector<const Format*> list;
    for (auto* format : kFormats) list.push_back(&format());
    std::ranges::sort(list, {}, [](const Format* f) { return f->type.id; });
    return list;
  }();
  return formats;
}

// Types that are only ever copied.
constexpr TypeInfo kCopied[] = {
    {"I8", 24, 1, 1, TypeKind::kCopied},  {"I16", 25, 1, 2, TypeKind::kCopied},
    {"I32", 26, 1, 4, TypeKind::kCopied}, {"I64", 27, 1, 8, TypeKind::kCopied},
    {"F64", 28, 1, 8, TypeKind::kCopied},
};

bool SameName(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](unsigned char x, unsigned char y) {
    return std::toupper(x) == std::toupper(y);
  });
}

}  // namespace

std::span<const Format* const> Formats() { return AllFormats(); }

std::span<const Format* const> FormatsById() {
  static const std::vector<const Format*> by_id = [] {
    const auto ids = static_cast<size_t>(AllFormats().back()->type.id) + 1;
    std::vector<const Format*> list(ids);
    for (const Format* f : AllFormats()) {
      list[static_cast<size_t>(f->type.id)] = f;
    }
    return list;
  }();
  return by_id;
}

std::span<const TypeInfo> Types() {
  static const std::vector<TypeInfo> types = [] {
    std::vector<TypeInfo> list(std::begin(kCopied), std::end(kCopied));
    for (const Format* f : Formats()) list.push_back(f->type);
    std::ranges::sort(list, {}, &TypeInfo::id);
    return list;
  }();
  return types;
}

const TypeInfo* FindType(int32_t id) {
  const auto it = std::ranges::find(Types(), id, &TypeInfo::id);
  return it != Types().end() ? &*it : nullptr;
}

const TypeInfo* FindType(std::string_view name) {
  const auto it = std::ranges::find_if(
      Types(), [&](const TypeInfo& t) { return SameName(t.name, name); });
  return it != Types().end() ? &*it : nullptr;
}

}  // namespace dequant

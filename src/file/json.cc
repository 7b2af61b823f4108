#include "src/file/json.h"

#include <set>

#include "dequant/error.h"
#include "src/file/checked.h"
#include "src/file/text.h"

namespace dequant {

using nlohmann::json;

json ParseJson(std::string_view text, const std::string& file,
               uint64_t offset) {
  // nlohmann keeps the last of two equal keys and says nothing.
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key &&
        !keys.back().insert(value.get<std::string>()).second) {
      throw Error(file, static_cast<int64_t>(offset),
                  Key(value.get_ref<const std::string&>()),
                  "occurs twice in the JSON");
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::parse_error& e) {
    throw Error(file, static_cast<int64_t>(offset + (e.byte ? e.byte - 1 : 0)),
                "", "is not valid JSON here: " + Escape(e.what()));
  } catch (const json::exception& e) {
    throw Error(file, static_cast<int64_t>(offset), "",
                "is not usable JSON: " + Escape(e.what()));
  }
}

std::vector<uint64_t> ShapeFromJson(const json& value, const std::string& file,
                                    const std::string& subject) {
  const auto fail = [&](const std::string& reason) {
    throw Error(file, Error::kNoOffset, subject, reason);
  };
  std::vector<uint64_t> shape;
  if (!value.is_array()) fail("its shape is not an array");
  for (const json& d : value) {
    if (!d.is_number_unsigned())
      fail("its shape holds more than integers >= 0");
    shape.push_back(d.get<uint64_t>());
  }
  if (!ElementCount(shape)) {
    fail("shape " + ShapeText(shape) + " makes more than 2^63 - 1 elements");
  }
  return shape;
}

}  // namespace dequant

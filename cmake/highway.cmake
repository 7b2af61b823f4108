# Highway >= 1.2, for everybody else in this build:
#   dequant_highway           headers and definitions
#   DEQUANT_HIGHWAY_LIBRARY   what libdequant links: an installed Highway, or nothing
#   DEQUANT_HIGHWAY_OBJECTS   what it contains: a fetched Highway, so that
#                             libdequant.a needs no second archive, or nothing
add_library(dequant_highway INTERFACE)
set(DEQUANT_HIGHWAY_LIBRARY)
set(DEQUANT_HIGHWAY_OBJECTS)

find_package(hwy 1.2 CONFIG QUIET)
if(hwy_FOUND)
  message(STATUS "Highway ${hwy_VERSION}: installed, ${hwy_DIR}")
  target_link_libraries(dequant_highway INTERFACE hwy::hwy)
  set(DEQUANT_HIGHWAY_LIBRARY hwy::hwy)
  return()
endif()

# scripts/setup leaves the same tarball here where only Debian can be reached.
if(EXISTS ${PROJECT_SOURCE_DIR}/.deps/highway/hwy/highway.h)
  set(FETCHCONTENT_SOURCE_DIR_HIGHWAY ${PROJECT_SOURCE_DIR}/.deps/highway
      CACHE PATH "Unpacked Highway 1.2.0")
endif()
include(FetchContent)
FetchContent_Declare(
  highway
  URL https://github.com/google/highway/releases/download/1.2.0/highway-1.2.0.tar.gz
  URL_HASH SHA256=7e0be78b8318e8bdbf6fa545d2ecb4c90f947df03f7aadc42c1967f019e63343
  DOWNLOAD_EXTRACT_TIMESTAMP ON
  SOURCE_SUBDIR none)  # Only fetch: seven files need no project of their own.
FetchContent_MakeAvailable(highway)
message(STATUS "Highway 1.2.0: compiled in, ${highway_SOURCE_DIR}")

target_include_directories(dequant_highway SYSTEM INTERFACE ${highway_SOURCE_DIR})
target_compile_definitions(dequant_highway INTERFACE HWY_STATIC_DEFINE)
foreach(name abort aligned_allocator nanobenchmark per_target print targets timer)
  list(APPEND highway_files ${highway_SOURCE_DIR}/hwy/${name}.cc)
endforeach()
add_library(dequant_highway_objects OBJECT ${highway_files})
target_link_libraries(dequant_highway_objects PRIVATE dequant_highway)
set(DEQUANT_HIGHWAY_OBJECTS $<TARGET_OBJECTS:dequant_highway_objects>)

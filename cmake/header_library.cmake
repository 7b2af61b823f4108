# find_header_library(PACKAGE TARGET FOLDER): a library that is only headers.
# When cross compiling the host's headers serve, through a link to FOLDER alone:
# the host's include path would bring its C library along.
function(find_header_library package target folder)
  find_package(${package} CONFIG QUIET)
  if(TARGET ${target})
    set_target_properties(${target} PROPERTIES IMPORTED_GLOBAL TRUE)
    return()
  endif()
  find_path(${package}_HOST_INCLUDE ${folder} PATHS /usr/include /usr/local/include
            NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  if(NOT ${package}_HOST_INCLUDE)
    message(FATAL_ERROR "${package} is missing; scripts/setup installs it.")
  endif()
  set(links ${PROJECT_BINARY_DIR}/headers)
  file(MAKE_DIRECTORY ${links})
  file(CREATE_LINK ${${package}_HOST_INCLUDE}/${folder} ${links}/${folder} SYMBOLIC)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE ${links})
endfunction()

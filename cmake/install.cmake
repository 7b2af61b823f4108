# cmake --install build/release --prefix DIR, then find_package(dequant).
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/dequant)
install(TARGETS dequant EXPORT dequant_targets)
if(TARGET dequant_cli)
  install(TARGETS dequant_cli)
endif()
install(DIRECTORY include/dequant DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE THIRD_PARTY.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(EXPORT dequant_targets NAMESPACE dequant:: DESTINATION ${package_dir})
configure_package_config_file(cmake/dequant-config.cmake.in
                              ${PROJECT_BINARY_DIR}/dequant-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/dequant-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/dequant-config.cmake
              ${PROJECT_BINARY_DIR}/dequant-config-version.cmake
        DESTINATION ${package_dir})

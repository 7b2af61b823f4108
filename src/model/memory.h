// Memory for tensors, fresh from the system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dequant {

/// `n` bytes of zeros that begin at a page, in huge pages where the system
/// gives them for the asking; touching them once costs a quarter of what small
/// ones cost. They go back to the system with the last owner. nullptr (and
/// errno) if there is no room. `n` may not be 0.
std::shared_ptr<uint8_t> MapMemory(size_t n);

/// Bytes that this machine could ever give: its memory and its swap space.
uint64_t InstalledMemory();

}  // namespace dequant

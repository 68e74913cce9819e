#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.hpp"

namespace rarefy {

// zlib's CRC-32 (polynomial 0x04C11DB7, reflected) of n bytes.
uint32_t crc32(const uint8_t* data, size_t n, Path path);

}  // namespace rarefy

// The devices of this host, for people: what a worker could run on, or why not.
#pragma once

#include <string>
#include <vector>

namespace bora {

// One line per device, "cpu ..." first. In a build with CUDA (cmake --preset cuda), a line for each
// GPU with its name, compute capability and memory, or one line that says why there is none: no
// driver, a driver that is older than the CUDA runtime, no device.
std::vector<std::string> ListDevices();

}  // namespace bora

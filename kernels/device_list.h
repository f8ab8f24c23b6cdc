// The CPU of this host, for people: what a worker could run on.
#pragma once

#include <string>
#include <vector>

namespace bora {

// "cpu: 8 threads, AVX-512".
std::vector<std::string> ListDevices();

}  // namespace bora

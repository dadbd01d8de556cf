#pragma once
// Where tensors live and kernels run.

namespace longhaul {

enum class DeviceKind { cpu, cuda };

}  // namespace longhaul

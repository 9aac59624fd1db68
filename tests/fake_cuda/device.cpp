// A CUDA device that computes nothing, for builds of torch without CUDA: as much of one as FakeTensorMode needs.
//
// Tensors on it have shapes, types and a device, and no values. The autograd engine asks the guard for devices and
// streams, and ATen asks the hooks whether there is CUDA at all; both are looked up once, so this library has to be
// loaded before torch is imported.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>

namespace at {

struct CUDAHooks final : public CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override {
    return true;
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  DeviceIndex current_device() const override {
    return 0;
  }
  int getNumGPUs() const override {
    return 8;
  }
  DeviceIndex deviceCount() const override {
    return 8;
  }
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
};

REGISTER_CUDA_HOOKS(CUDAHooks);

} // namespace at

namespace {

using FakeCudaGuard = c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, FakeCudaGuard);

} // namespace

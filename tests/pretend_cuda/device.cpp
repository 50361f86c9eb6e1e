// A device that torch takes for "cuda", whose memory is the CPU's. Every operation on it runs on the CPU, and tensors of
// the CPU and of this device can't be mixed, as on a GPU. For torch's builds without CUDA only.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr auto kDevice = c10::DeviceType::CUDA;
constexpr auto kTwoDevices = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (pretended, in ";

// ---- memory, streams, and what torch asks a CUDA library

c10::DeviceIndex device_count = 1;
thread_local c10::DeviceIndex current = 0;

c10::Device current_device() { return {kDevice, current}; }

struct Memory final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? c10::GetCPUAllocator()->raw_allocate(bytes) : nullptr;
    return {data, data, &release, current_device()};
  }
  static void release(void* data) {
    if (data) c10::GetCPUAllocator()->raw_deallocate(data);
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(c10::DeviceType::CUDA, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kDevice;
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device device) const override { return {kDevice, std::exchange(current, device.index())}; }
  c10::Device getDevice() const override { return {kDevice, current}; }
  void setDevice(c10::Device device) const override { current = device.index(); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current = device.index(); }
  c10::Stream getStream(c10::Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return device_count; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return device_count; }
  c10::DeviceIndex current_device() const override { return current; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return std::exchange(current, index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return std::exchange(current, index); }
  int getNumGPUs() const override { return device_count; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  c10::Device getDeviceFromPtr(void*) const override { return {kDevice, current}; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
};
extern "C" void pretend_devices(int count) { device_count = count; }
extern "C" void pretend_set_device(int index) { current = index; }
extern "C" int pretend_current_device() { return current; }
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", Hooks)

// ---- every operation, on the CPU

bool is_ours(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == kDevice; }

// The same memory as a tensor of the CPU's.
at::Tensor on_cpu(const at::Tensor& tensor) {
  if (!is_ours(tensor)) return tensor;
  auto* kept = new at::Storage(tensor.storage());  // until the alias goes
  at::DataPtr data(kept->mutable_data(), kept, [](void* p) { delete static_cast<at::Storage*>(p); }, at::Device(at::kCPU));
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), kept->nbytes(), std::move(data), c10::GetCPUAllocator(), /*resizable=*/true);
  at::Tensor alias = at::empty({0}, tensor.options().device(at::kCPU).requires_grad(false));
  alias.unsafeGetTensorImpl()->set_storage_keep_dtype(at::Storage(storage));
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.is_conj()) alias._set_conj(true);
  if (tensor.is_neg()) alias._set_neg(true);
  return alias;
}

// While it lives, memory is that of this device; of none, that of the current one.
struct On {
  c10::DeviceIndex before = current;
  explicit On(std::optional<at::Device> device) {
    if (device.has_value() && device->has_index()) current = device->index();
  }
  ~On() { current = before; }
};

// A copy on a device.
at::Tensor on_device(const at::Tensor& tensor, std::optional<at::Device> device) {
  if (!tensor.defined() || tensor.device().type() != at::kCPU) return tensor;
  On there(device);
  at::Tensor copy = at::detail::empty_strided_generic(
      tensor.sizes(), tensor.strides(), &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA), tensor.scalar_type());
  if (tensor.numel()) on_cpu(copy).copy_(tensor);
  return copy;
}

// Operations that take tensors of the CPU's on a GPU, too.
bool takes_both(const std::string& name) {
  static const std::set<std::string> those = {
      "aten::index",  "aten::index_put",         "aten::index_put_",   "aten::_index_put_impl_",
      "aten::set_",   "aten::repeat_interleave", "aten::record_stream", "aten::resize_as_"};
  return those.count(name) > 0;
}

// Operations in which a tensor of the CPU's without dimensions doesn't stand for a number.
bool takes_no_number(const std::string& name) {
  static const std::set<std::string> those = {
      "aten::mm",        "aten::bmm",       "aten::addmm",            "aten::baddbmm", "aten::index_select", "aten::gather",
      "aten::embedding", "aten::index_add", "aten::nll_loss_forward", "aten::cat",     "aten::scatter_add",  "aten::dot",
      "aten::mv"};
  return those.count(name) > 0;
}

void run_on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& name = schema.name();
  const auto count = schema.arguments().size();
  const auto begin = stack->size() - count;
  std::vector<at::Tensor> ours, aliases, others;
  std::optional<at::Device> device;  // that results are on; none if it is the CPU
  auto take = [&](const at::Tensor& tensor) -> at::Tensor {
    if (!is_ours(tensor)) {
      if (tensor.defined()) others.push_back(tensor);
      return tensor;
    }
    ours.push_back(tensor);
    aliases.push_back(on_cpu(tensor));
    return aliases.back();
  };
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[begin + i];
    if (value.isTensor()) {
      value = take(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> list;
      for (const auto& tensor : value.toTensorVector()) list.push_back(take(tensor));
      value = c10::IValue(c10::List<at::Tensor>(list));
    } else if (value.isList() && value.toListRef().size() && value.toListRef()[0].isTensorList()) {  // of collectives
      c10::impl::GenericList lists(c10::ListType::ofTensors());
      for (const auto& one : value.toListRef()) {
        c10::List<at::Tensor> list;
        for (const auto& tensor : one.toTensorVector()) list.push_back(take(tensor));
        lists.push_back(list);
      }
      value = lists;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
        list.push_back(tensor.has_value() ? std::optional<at::Tensor>(take(*tensor)) : std::nullopt);
      value = c10::IValue(list);
    } else if (value.isDevice()) {
      if (value.toDevice().type() == kDevice) device = value.toDevice();
      value = c10::Device(at::kCPU);
    } else if (value.isBool() && schema.arguments()[i].name() == "pin_memory") {
      value = false;
    }
  }
  if (!ours.empty() && !takes_both(name)) {
    for (const auto& tensor : others) TORCH_CHECK(tensor.dim() == 0 && !takes_no_number(name), kTwoDevices, name, ")");
  }
  for (const auto& tensor : ours) TORCH_CHECK(tensor.device() == ours[0].device(), "tensors of several devices (pretended, in ", name, ")");
  op.callBoxed(stack);
  for (const auto& tensor : ours) device = tensor.device();

  // What was resized has other memory now.
  for (size_t i = 0; i < aliases.size(); ++i) {
    const auto& alias = aliases[i];
    auto* impl = ours[i].unsafeGetTensorImpl();
    const bool has_moved = alias.numel() && alias.storage().data() != ours[i].storage().data();
    if (alias.sizes() == ours[i].sizes() && alias.strides() == ours[i].strides() && !has_moved) continue;
    auto copy = on_device(alias, device);
    impl->set_storage_keep_dtype(copy.storage());
    impl->set_sizes_and_strides(copy.sizes(), copy.strides(), copy.storage_offset());
  }
  auto give = [&](const at::Tensor& tensor, bool is_view) -> at::Tensor {
    if (!tensor.defined()) return tensor;
    for (size_t i = 0; i < aliases.size(); ++i) {
      if (tensor.unsafeGetTensorImpl() == aliases[i].unsafeGetTensorImpl()) return ours[i];
      if (is_view && tensor.numel() && aliases[i].storage().data() == tensor.storage().data())
        return at::native::as_strided_tensorimpl(ours[i], tensor.sizes(), tensor.strides(), tensor.storage_offset());
    }
    return device.has_value() ? on_device(tensor, device) : tensor;
  };
  const auto first = stack->size() - schema.returns().size();
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    auto& value = (*stack)[first + i];
    const bool is_view = schema.returns()[i].alias_info() != nullptr;
    if (value.isTensor()) {
      value = give(value.toTensor(), is_view);
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> list;
      for (const auto& tensor : value.toTensorVector()) list.push_back(give(tensor, is_view));
      value = c10::IValue(c10::List<at::Tensor>(list));
    } else if (value.isList() && value.toListRef().size() && value.toListRef()[0].isTensorList()) {
      c10::impl::GenericList lists(c10::ListType::ofTensors());
      for (const auto& one : value.toListRef()) {
        c10::List<at::Tensor> list;
        for (const auto& tensor : one.toTensorVector()) list.push_back(give(tensor, is_view));
        lists.push_back(list);
      }
      value = lists;
    }
  }
}

// ---- what has to know about memory

at::Tensor empty(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device> device,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  On there(device);
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>) {
  On there(device);
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
      c10::dtype_or_default(dtype));
}

at::Tensor& copy_(at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  on_cpu(to).copy_(on_cpu(from), non_blocking);
  return to;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  on_cpu(to).copy_(on_cpu(from), non_blocking);
  return to;
}

at::Scalar local_scalar_dense(const at::Tensor& tensor) { return at::_local_scalar_dense(on_cpu(tensor)); }

void resize_storage(at::StorageImpl* storage, size_t bytes) {
  if (bytes == storage->nbytes()) return;
  On there(storage->device());
  auto data = memory.allocate(bytes);
  if (const auto kept = std::min(bytes, storage->nbytes())) std::memcpy(data.get(), storage->data(), kept);
  storage->set_data_ptr_noswap(std::move(data));
  storage->set_nbytes(bytes);
}

extern "C" void pretend_resize_storage(void* storage, size_t bytes) {
  resize_storage(static_cast<at::StorageImpl*>(storage), bytes);
}

const at::Tensor& resize_(const at::Tensor& tensor, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (tensor.sizes() == sizes) return tensor;
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(sizes);
  if (format.has_value() && *format != at::MemoryFormat::Preserve) impl->empty_tensor_restride(*format);
  const auto needed = (impl->storage_offset() + impl->numel()) * tensor.itemsize();
  if (needed > tensor.storage().nbytes()) resize_storage(tensor.storage().unsafeGetStorageImpl(), needed);
  return tensor;
}

at::Tensor& set_storage(at::Tensor& tensor, at::Storage source) {
  const int64_t size = source.nbytes() / tensor.dtype().itemsize();
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(source);
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(at::IntArrayRef{size});
  return tensor;
}

at::Tensor& set_storage_offset(
    at::Tensor& tensor, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* impl = tensor.unsafeGetTensorImpl();
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  impl->set_storage_keep_dtype(source);
  if (stride.size() == sizes.size()) {
    impl->set_sizes_and_strides(sizes, C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  } else {
    impl->set_storage_offset(offset.expect_int());
    impl->set_sizes_contiguous(sizes);
  }
  return tensor;
}

at::Tensor& set_tensor(at::Tensor& tensor, const at::Tensor& source) {
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(source.storage());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(source.sizes(), source.strides(), source.storage_offset());
  return tensor;
}

at::Tensor& set_nothing(at::Tensor& tensor) {
  On there(tensor.device());
  at::Tensor nothing = at::detail::empty_generic(
      {0}, &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA), tensor.scalar_type(), std::nullopt);
  return set_tensor(tensor, nothing);
}

at::Tensor view(const at::Tensor& tensor, c10::SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor as_strided(
    const at::Tensor& tensor, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(
      tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset.has_value() ? std::optional<int64_t>(offset->expect_int()) : std::nullopt);
}

at::Tensor reshape_alias(const at::Tensor& tensor, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

// ---- what only a GPU has

// Of the CPU's kinds of attention, a GPU has this one.
int64_t fused_sdp_choice(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
    std::optional<double>, bool) {
  return static_cast<int64_t>(sdp::SDPBackend::math);
}

at::Tensor mm_dtype(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  TORCH_CHECK(is_ours(a) && is_ours(b), kTwoDevices, "mm)");
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), "expected both to have the same dtype (pretended, in mm)");
  return on_device(at::mm(on_cpu(a).to(dtype), on_cpu(b).to(dtype)), a.device());
}

at::Tensor histc(const at::Tensor& tensor, int64_t bins, const at::Scalar& low, const at::Scalar& high) {
  return on_device(at::histc(on_cpu(tensor).to(at::kFloat), bins, low, high).to(tensor.scalar_type()), tensor.device());
}

bool is_pinned(const at::Tensor&, std::optional<at::Device>) { return false; }

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy_);
  m.impl("_copy_from", copy_from);
  m.impl("_local_scalar_dense", local_scalar_dense);
  m.impl("resize_", resize_);
  m.impl("set_", set_nothing);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_storage_offset);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("view", view);
  m.impl("as_strided", as_strided);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("_fused_sdp_choice", fused_sdp_choice);
  m.impl("mm.dtype", mm_dtype);
  m.impl("histc", histc);
  m.impl("is_pinned", is_pinned);
}

struct NoTimer final : c10d::Timer {  // DDP has one for each kind of device
  explicit NoTimer(c10::Device) {}
  std::optional<int64_t> measureDifference(Event, Event) override { return std::nullopt; }
};

// Collectives: torch has kernels of its own for "cuda", which look for a library's group.
TORCH_LIBRARY_IMPL(c10d, CUDA, m) {
  for (const auto* name :
       {"broadcast_", "allreduce_", "allreduce_coalesced_", "reduce_", "allgather_", "_allgather_base_", "allgather_into_tensor_coalesced_",
        "reduce_scatter_", "_reduce_scatter_base_", "reduce_scatter_tensor_coalesced_", "gather_", "scatter_", "alltoall_",
        "alltoall_base_", "barrier"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

}  // namespace

namespace c10d {
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, NoTimer);
}

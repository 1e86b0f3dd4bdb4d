// plans.cpp: a driver with which cuDNN makes plans, and nothing more. It sees no GPU: plans are for one that is described
// (gpus/*.json). Kernels that a plan loads are taken and looked at by nobody; every other call answers "no device". The one
// file stands for cuBLASLt too, of which cuDNN asks the version.
#include <stddef.h>

#define API extern "C" __attribute__((visibility("default")))
enum { SUCCESS = 0, NO_DEVICE = 100, NOT_FOUND = 500 };
static int something[64];   // what handles point to

#define TAKES(name) API int name(void** handle) { return *handle = something, SUCCESS; }
TAKES(cuLibraryLoadData) TAKES(cuLibraryGetKernel) TAKES(cuLibraryGetModule) TAKES(cuKernelGetFunction)
TAKES(cuModuleLoadData) TAKES(cuModuleLoadDataEx) TAKES(cuModuleGetFunction)

#define DOES(name) API int name() { return SUCCESS; }
DOES(cuLibraryUnload) DOES(cuKernelSetAttribute) DOES(cuModuleUnload) DOES(cuFuncSetAttribute)

API int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API int cuGetErrorName(int, const char** text) { return *text = "CUDA_ERROR_NO_DEVICE", SUCCESS; }
API int cuGetErrorString(int, const char** text) { return *text = "a driver for plans alone", SUCCESS; }
API int cuGetProcAddress(const char*, void** function, int, unsigned long) { return *function = NULL, NOT_FOUND; }
API int cuGetProcAddress_v2(const char*, void** function, int, unsigned long, int*) { return *function = NULL, NOT_FOUND; }

// What cuDNN looks for before it says what it can do.
#define REFUSES(name) API int name() { return NO_DEVICE; }
REFUSES(cuInit) REFUSES(cuGetExportTable) REFUSES(cuDeviceGet) REFUSES(cuDeviceGetCount)
REFUSES(cuCtxGetCurrent) REFUSES(cuCtxGetLimit) REFUSES(cuCtxPopCurrent) REFUSES(cuCtxPushCurrent) REFUSES(cuStreamGetCtx)
REFUSES(cuKernelGetAttribute) REFUSES(cuLaunchCooperativeKernel) REFUSES(cuLaunchKernel) REFUSES(cuLaunchKernelEx)
REFUSES(cuLibraryLoadFromFile) REFUSES(cuLinkAddData) REFUSES(cuLinkComplete) REFUSES(cuLinkCreate) REFUSES(cuLinkDestroy)
REFUSES(cuOccupancyMaxPotentialClusterSize) REFUSES(cuTensorMapEncodeIm2col) REFUSES(cuTensorMapEncodeTiled)

API size_t cublasLtGetVersion() { return 130000; }
API size_t cublasLtGetCudartVersion() { return 13000; }
